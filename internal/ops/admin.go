package ops

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

func init() {
	caddy.RegisterModule(newAdminAPI())
}

// adminAPI shows operators what is parked, and takes wake-ups:
//
//	GET  /long_poll/          a page
//	GET  /long_poll/live      what the page shows, line by line
//	GET  /long_poll/stats     the sums
//	GET  /long_poll/resources what is waited for
//	POST /long_poll/wake      look now
//
// It reads the live handlers, for it is provisioned before any of them. There is
// one for each admin server.
type adminAPI struct {
	waiting atomic.Int32  // requests for stats that wait for a change, and streams
	watched sync.Once     // the server's shutdown
	closing chan struct{} // closed when the server shuts down
}

func newAdminAPI() *adminAPI { return &adminAPI{closing: make(chan struct{})} }

// CaddyModule returns the Caddy module information.
func (*adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.long_poll",
		New: func() caddy.Module { return newAdminAPI() },
	}
}

// Routes returns the routes below /long_poll/. The admin endpoint redirects
// /long_poll there.
func (a *adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/long_poll/", Handler: caddy.AdminHandlerFunc(a.servePage)},
		{Pattern: "/long_poll/live", Handler: caddy.AdminHandlerFunc(a.serveLive)},
		{Pattern: "/long_poll/stats", Handler: caddy.AdminHandlerFunc(a.serveStats)},
		{Pattern: "/long_poll/resources", Handler: caddy.AdminHandlerFunc(a.serveResources)},
		{Pattern: "/long_poll/wake", Handler: caddy.AdminHandlerFunc(a.serveWake)},
	}
}

// apiError is an error in the form of the admin endpoint.
func apiError(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

// allow rejects a request with any other method.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) error {
	if slices.Contains(methods, r.Method) {
		return nil
	}
	accepted := strings.Join(methods, ", ")
	w.Header().Set("Allow", accepted)
	return apiError(http.StatusMethodNotAllowed, "method %q not allowed: expected %s", r.Method, accepted)
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if w.Header().Get("Cache-Control") == "" {
		w.Header().Set("Cache-Control", "no-store")
	}
	_, _ = w.Write(append(text, '\n')) // whoever is gone needs no error
	return nil
}

// processBegan is since when everything is counted.
var processBegan = time.Now()

// stats is what GET /long_poll/stats answers. All is counted since the process
// began, over all handlers, configurations and sites.
type stats struct {
	Uptime    float64           `json:"uptime"` // in seconds, as all times
	Parked    int               `json:"parked"`
	Streams   int64             `json:"streams"` // open now; they are among the parked
	Resources int               `json:"resources"`
	Requests  map[string]uint64 `json:"requests"` // by outcome
	Checks    map[string]uint64 `json:"checks"`   // by result
	Saved     uint64            `json:"checks_saved"`
	CheckTime timeSum           `json:"check_seconds"`
	Release   timeSum           `json:"release_seconds"`
	Wakes     map[string]uint64 `json:"wakes"`       // by source
	WakersUp  map[string]bool   `json:"wakers_up"`   // by source
	Outages   []outageStats     `json:"outages"`     // one per handler whose backend fails
	Cut       float64           `json:"cut_seconds"` // the lowest age at which something cuts silent connections; 0 if none is known
	Cuts      []cutStats        `json:"cuts"`        // one per handler on the way to which something does
	Shadow    shadowStats       `json:"shadow"`
	Asked     uint64            `json:"backend_requests"`
	Bounds    []boundStats      `json:"bounds"`   // that are set
	Recent    recentStats       `json:"recent"`   // the last minute
	Releases  releasesStats     `json:"releases"` // the last quarter of an hour
}

// outageStats is a backend that fails.
type outageStats struct {
	Since     time.Time `json:"since"`
	Seconds   float64   `json:"seconds"`
	Resources int       `json:"resources"` // that fail, of those that are still known
	Parked    int       `json:"parked"`    // that wait for these
	Method    string    `json:"method"`    // of the failing resource that most wait for
	Host      string    `json:"host"`
	Path      string    `json:"path"`
	Status    int       `json:"status"`
	Reason    string    `json:"reason"`
}

// shadowStats is what long_poll would do where it only looks on.
type shadowStats struct {
	Handlers   int   `json:"handlers"`    // that look on now
	Polls      int64 `json:"polls"`       // that could be looked at
	WouldPark  int64 `json:"would_park"`  // of these
	WouldCheck int64 `json:"would_check"` // requests to the backend in place of those polls
	WouldSave  int64 `json:"would_save"`  // the difference; negative where clients ask less often than checks would
	Unseen     int64 `json:"unseen"`      // polls with an answer too large to look at, or a stream
}

func readStats() stats {
	m := theMetrics
	s := stats{
		Uptime:    roundSeconds(time.Since(processBegan)),
		Parked:    Live.parked(),
		Streams:   Live.streams(),
		Resources: Live.resources(),
		Requests:  readByLabel(m.requests),
		Checks:    readByLabel(m.checks),
		Saved:     readCounter(m.saved),
		CheckTime: readHistogram(m.checking),
		Release:   readHistogram(m.releases),
		Wakes:     readByLabel(m.wakes),
		WakersUp:  Live.wakersUp(),
		Outages:   []outageStats{},
		Asked:     readCounter(m.asked),
		Recent:    theHistory.recent(),
		Releases:  theHistory.releases(),
		Cut:       roundSeconds(Live.cut()),
		Cuts:      Live.cuts(),
		Shadow: shadowStats{
			Polls:      Shadow.Polls.Load(),
			WouldPark:  Shadow.Parked.Load(),
			WouldCheck: Shadow.Checks.Load(),
			Unseen:     Shadow.Unseen.Load(),
		},
	}
	s.Bounds = Live.bounds(s.Recent)
	s.Shadow.WouldSave = s.Shadow.WouldPark - s.Shadow.WouldCheck
	for _, site := range Live.Sites() {
		if site.ending.retired.Load() {
			continue
		}
		if site.Shadow {
			s.Shadow.Handlers++
		}
		if since, count, waiters, where, last := site.outage.now(); where != nil {
			s.Outages = append(s.Outages, outageStats{
				Since: since.UTC(), Seconds: roundSeconds(time.Since(since)),
				Resources: count, Parked: waiters,
				Method: where.Name.Method, Host: printable(where.Name.Host), Path: shownPath(where.Name.Path),
				Status: last.Code(), Reason: last.Reason(),
			})
		}
	}
	slices.SortFunc(s.Outages, func(a, b outageStats) int { return a.Since.Compare(b.Since) })
	return s
}

// tag is what the stats are known by: all of them but for the time that passes.
func (s stats) tag() string {
	s.Uptime, s.Recent, s.Releases = 0, recentStats{}, releasesStats{}
	s.Outages = slices.Clone(s.Outages)
	for i := range s.Outages {
		s.Outages[i].Seconds = 0
	}
	s.Bounds = slices.Clone(s.Bounds)
	for i := range s.Bounds {
		s.Bounds[i].Refused = 0
	}
	text, _ := json.Marshal(s) // it has no field that can not be marshalled
	sum := fnv.New64a()
	sum.Write(text)
	return `W/"` + strconv.FormatUint(sum.Sum64(), 36) + `"`
}

// Of requests that wait for other stats than those that they have.
const (
	maxStatsWait    = 8 * time.Second        // below the read timeout of Caddy's admin server, and its patience at a stop
	maxStatsWaiting = 32                     // who comes then is answered at once
	statsLook       = 500 * time.Millisecond // between two looks at the sums
)

// serveStats answers with the sums. It is a long poll itself, for scripts: with
// If-None-Match and Prefer: wait=N it answers when they are others, or 304.
func (a *adminAPI) serveStats(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	s := readStats()
	tag := s.tag()
	if has := httphdr.SplitTags(r.Header.Get("If-None-Match")); slices.Contains(has, tag) {
		if text, ok := httphdr.PreferWait(r.Header["Prefer"]); ok {
			if wait, ok := httphdr.ParseWait(text, time.Second); ok && wait > 0 {
				s = a.await(r, tag, min(wait, maxStatsWait))
			}
		}
		if s.tag() == tag {
			w.Header().Set("ETag", tag)
			w.Header().Set("Cache-Control", "no-cache")
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
		tag = s.tag()
	}
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "no-cache")
	return writeJSON(w, s)
}

// await returns the stats as soon as they have another tag, or what they are when
// the time is up, the client is gone or the server shuts down.
func (a *adminAPI) await(r *http.Request, tag string, wait time.Duration) stats {
	defer a.waiting.Add(-1)
	if a.waiting.Add(1) > maxStatsWaiting {
		return readStats()
	}
	a.watch(r)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	ticker := time.NewTicker(statsLook)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if s := readStats(); s.tag() != tag {
				return s
			}
			continue
		case <-timer.C:
		case <-r.Context().Done():
		case <-a.closing:
		}
		return readStats()
	}
}

// Interface guards
var (
	_ caddy.Module      = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
)
