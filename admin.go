package longpoll

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

func init() {
	caddy.RegisterModule(newAdminAPI())
}

// adminAPI shows operators what is parked, and takes wake-ups:
//
//	GET  /long_poll/          a page
//	GET  /long_poll/stats     the sums
//	GET  /long_poll/resources what is waited for
//	POST /long_poll/wake      look now
//
// It reads the live handlers, for it is provisioned before any of them. There is
// one for each admin server.
type adminAPI struct {
	waiting atomic.Int32  // requests for stats that wait for a change
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
	Resources int               `json:"resources"`
	Requests  map[string]uint64 `json:"requests"` // by outcome
	Checks    map[string]uint64 `json:"checks"`   // by result
	Saved     uint64            `json:"checks_saved"`
	CheckTime timeSum           `json:"check_seconds"`
	Release   timeSum           `json:"release_seconds"`
	Wakes     map[string]uint64 `json:"wakes"`     // by source
	WakersUp  map[string]bool   `json:"wakers_up"` // by source
	Outages   []outageStats     `json:"outages"`   // one per handler whose backend fails
	Shadow    shadowStats       `json:"shadow"`
}

// outageStats is a backend that fails.
type outageStats struct {
	Since     time.Time `json:"since"`
	Seconds   float64   `json:"seconds"`
	Resources int       `json:"resources"` // that fail, of those that are still known
	Parked    int       `json:"parked"`    // in the handler
	Method    string    `json:"method"`    // of that of them which most wait for
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
		Parked:    live.parked(),
		Resources: live.resources(),
		Requests:  readByLabel(m.requests),
		Checks:    readByLabel(m.checks),
		Saved:     readCounter(m.saved),
		CheckTime: readHistogram(m.checking),
		Release:   readHistogram(m.releases),
		Wakes:     readByLabel(m.wakes),
		WakersUp:  live.wakersUp(),
		Outages:   []outageStats{},
		Shadow: shadowStats{
			Polls:      theShadow.polls.Load(),
			WouldPark:  theShadow.parked.Load(),
			WouldCheck: theShadow.checks.Load(),
			Unseen:     theShadow.unseen.Load(),
		},
	}
	s.Shadow.WouldSave = s.Shadow.WouldPark - s.Shadow.WouldCheck
	for _, h := range live.handlers() {
		if h.parting.retired.Load() {
			continue
		}
		if h.Shadow {
			s.Shadow.Handlers++
		}
		if since, count, where, last := h.outage.now(); where != nil {
			s.Outages = append(s.Outages, outageStats{
				Since: since.UTC(), Seconds: roundSeconds(time.Since(since)),
				Resources: count, Parked: h.lot.Parked(),
				Method: where.Name.Method, Host: printable(where.Name.Host), Path: shownPath(where.Name.Path),
				Status: last.code(), Reason: last.reason(),
			})
		}
	}
	slices.SortFunc(s.Outages, func(a, b outageStats) int { return a.Since.Compare(b.Since) })
	return s
}

// tag is what the stats are known by: all of them but for the time that passes.
func (s stats) tag() string {
	s.Uptime = 0
	s.Outages = slices.Clone(s.Outages)
	for i := range s.Outages {
		s.Outages[i].Seconds = 0
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

// serveStats answers with the sums. It is a long poll itself, for the page: with
// If-None-Match and Prefer: wait=N it answers when they are others, or 304.
func (a *adminAPI) serveStats(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	s := readStats()
	tag := s.tag()
	if has := splitTags(r.Header.Get("If-None-Match")); slices.Contains(has, tag) {
		if text, ok := preferWait(r.Header["Prefer"]); ok {
			if wait, ok := parseWait(text, time.Second); ok && wait > 0 {
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
	if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
		a.watched.Do(func() {
			// A server can be shut down twice.
			server.RegisterOnShutdown(sync.OnceFunc(func() { close(a.closing) }))
		})
	}
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

// resourceStats is one element of what GET /long_poll/resources answers. Its path
// bears no query, which may hold secrets.
type resourceStats struct {
	Method     string   `json:"method"`
	Host       string   `json:"host"`
	Path       string   `json:"path"`
	Waiters    int      `json:"waiters"`
	Version    string   `json:"version"`     // empty before the first good check
	Status     int      `json:"status"`      // of the backend's latest answer; 0 before the first
	Age        *float64 `json:"age"`         // of what is known, in seconds; null if nothing is
	LastResult string   `json:"last_result"` // changed, unchanged, failed; none before the first check
	Reason     string   `json:"reason"`      // why it failed
	NextCheck  *float64 `json:"next_check"`  // in so many seconds; null as long as nobody waits
	Interval   float64  `json:"interval"`    // the pause after the latest check, in seconds
}

// defaultLimit is how many resources are shown without ?limit=.
const defaultLimit = 100

// serveResources answers with the resources: those with the most waiters first.
func (a *adminAPI) serveResources(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	query := r.URL.Query()
	limit, err := queryNumber(query, "limit", defaultLimit)
	if err != nil {
		return err
	}
	offset, err := queryNumber(query, "offset", 0)
	if err != nil {
		return err
	}
	return writeJSON(w, listResources(limit, offset))
}

// queryNumber reads a parameter that is zero or more.
func queryNumber(query map[string][]string, name string, unset int) (int, error) {
	values, ok := query[name]
	if !ok {
		return unset, nil
	}
	n, err := strconv.Atoi(values[0])
	if err != nil || n < 0 || len(values) > 1 {
		return 0, apiError(http.StatusBadRequest, "reading %s %q: expected one whole number, zero or more", name, strings.Join(values, " "))
	}
	return n, nil
}

func listResources(limit, offset int) []resourceStats {
	type found struct {
		h       *Handler
		r       *resource
		waiters int
	}
	var all []found
	for _, h := range live.handlers() {
		for _, r := range h.lot.Resources() {
			all = append(all, found{h, r, r.Waiters()})
		}
	}
	slices.SortFunc(all, func(a, b found) int {
		if c := cmp.Compare(b.waiters, a.waiters); c != 0 {
			return c
		}
		if c := strings.Compare(a.r.Name.Path, b.r.Name.Path); c != 0 {
			return c
		}
		return cmp.Or(strings.Compare(a.r.Name.Host, b.r.Name.Host), strings.Compare(a.r.Name.Method, b.r.Name.Method))
	})
	all = all[min(offset, len(all)):]
	all = all[:min(limit, len(all))]
	list := make([]resourceStats, 0, len(all))
	for _, f := range all {
		list = append(list, f.h.statsOf(f.r, f.waiters))
	}
	return list
}

func (h *Handler) statsOf(r *resource, waiters int) resourceStats {
	s := resourceStats{
		Method: r.Name.Method, Host: printable(r.Name.Host), Path: shownPath(r.Name.Path),
		Waiters: waiters, LastResult: "none", Interval: roundSeconds(time.Duration(*h.Interval)),
	}
	snap := r.Snapshot()
	last := snap.State
	if snap.Known() {
		s.Version = shownVersion(snap.State.version.text)
		age := roundSeconds(time.Since(snap.State.ended))
		s.Age = &age
	}
	if snap.Failed() {
		last = snap.Fault
		s.Reason = last.reason()
	}
	if last != nil {
		s.Status, s.LastResult, s.Interval = last.code(), last.result, roundSeconds(last.pause)
	}
	if waiters > 0 {
		next := max(0, roundSeconds(time.Until(r.Due())))
		s.NextCheck = &next
	}
	return s
}

// roundSeconds is d in seconds, to the millisecond.
func roundSeconds(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }

// shownVersion is a version as operators see it: as it is if it is short and plain,
// else a digest, for it may be a piece of the backend's answer.
func shownVersion(text string) string {
	if text == "" {
		return ""
	}
	return opaque(tagFor(opaque(text)))
}

// maxShown bounds what clients can have shown.
const maxShown = 1024

// shownPath is a path in bounds.
func shownPath(path string) string {
	if len(path) > maxShown {
		return strings.ToValidUTF8(path[:maxShown], "") + "…"
	}
	return path
}

// printable is text without what could mislead who reads it.
func printable(text string) string {
	return shownPath(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text))
}

// maxWakeBody bounds the body of a wake-up.
const maxWakeBody = 64 << 10

// serveWake marks the resources of a path, or of all paths with a prefix, for a
// check.
func (a *adminAPI) serveWake(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodPost); err != nil {
		return err
	}
	if kind := r.Header.Get("Content-Type"); kind != "" {
		if media, _, err := mime.ParseMediaType(kind); err != nil || media != "application/json" {
			return apiError(http.StatusUnsupportedMediaType, "content type %q not accepted: expected application/json", kind)
		}
	}
	path, prefix, err := readWake(http.MaxBytesReader(w, r.Body, maxWakeBody))
	if err != nil {
		return err
	}
	var woken int
	all := func(lot.Name) bool { return true }
	for _, h := range live.handlers() {
		if h.parting.drained.Load() {
			continue // nobody is parked there for much longer
		}
		if prefix != nil {
			woken += h.lot.WakePrefix(*prefix, all)
		} else {
			woken += h.lot.Wake(*path, all)
		}
	}
	theMetrics.woken(sourceAdmin)
	return writeJSON(w, map[string]int{"woken": woken})
}

// readWake reads the body of a wake-up; one of the two is not nil.
func readWake(body io.Reader) (path, prefix *string, err error) {
	const expected = `expected {"path": "/..."} or {"prefix": "/..."}`
	var wake struct {
		Path   *string `json:"path"`
		Prefix *string `json:"prefix"`
	}
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	err = dec.Decode(&wake)
	if err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = cmp.Or(more, errors.New("more than one value"))
		}
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, nil, apiError(http.StatusRequestEntityTooLarge, "reading wake-up: body is larger than %d bytes", maxWakeBody)
	case err != nil:
		return nil, nil, apiError(http.StatusBadRequest, "reading wake-up: %w; %s", err, expected)
	case (wake.Path == nil) == (wake.Prefix == nil):
		return nil, nil, apiError(http.StatusBadRequest, "reading wake-up: %s, and not both", expected)
	}
	if text := *cmp.Or(wake.Path, wake.Prefix); !strings.HasPrefix(text, "/") {
		return nil, nil, apiError(http.StatusBadRequest, "reading wake-up: %q does not begin with a slash; %s", shownPath(text), expected)
	}
	return wake.Path, wake.Prefix, nil
}

// Interface guards
var (
	_ caddy.Module      = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
)
