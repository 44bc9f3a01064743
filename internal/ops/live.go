package ops

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"sync"
	"time"
)

// Of the streams that the page reads.
const (
	maxLive   = 32               // at once
	liveLook  = time.Second      // between two looks: no line comes sooner after another
	liveQuiet = 10 * time.Second // the longest time without a line
	liveWrite = 10 * time.Second // for a line to be taken
	liveLong  = 15 * time.Minute // the longest stream: whoever reads it asks again
)

// live is a line of the stream.
type live struct {
	Stats     stats           `json:"stats"`
	Rates     ratesStats      `json:"rates"`
	Resources []resourceStats `json:"resources"`
	Of        int             `json:"of"` // so many resources are meant
}

// serveLive answers with a line of JSON whenever something has changed, and now and then
// where nothing has: one request, and one line in Caddy's log, for as long as somebody
// looks. It takes the parameters of /long_poll/resources.
func (a *adminAPI) serveLive(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	q, err := readListing(r.URL.Query())
	if err != nil {
		return err
	}
	defer a.waiting.Add(-1)
	if a.waiting.Add(1) > maxLive {
		w.Header().Set("Retry-After", "30")
		return apiError(http.StatusServiceUnavailable, "too many look already: expected at most %d", maxLive)
	}
	a.watch(r)
	head := w.Header()
	head.Set("Content-Type", "application/x-ndjson")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("X-Accel-Buffering", "no")
	head.Set("Cache-Control", "no-store")
	if r.Method == http.MethodHead {
		return nil
	}
	control := http.NewResponseController(w)
	defer control.SetWriteDeadline(time.Time{}) // for what ends the answer
	ticker := time.NewTicker(liveLook)
	defer ticker.Stop()
	end := time.NewTimer(liveLong)
	defer end.Stop()
	var last uint64
	var said time.Time
	for {
		line, sum := q.line()
		if now := time.Now(); sum != last || now.Sub(said) >= liveQuiet {
			last, said = sum, now
			_ = control.SetWriteDeadline(now.Add(liveWrite))
			if _, err := w.Write(line); err != nil {
				return nil // whoever is gone needs no error
			}
			if err := control.Flush(); err != nil {
				return nil
			}
		}
		select {
		case <-ticker.C:
			continue
		case <-end.C:
		case <-r.Context().Done():
		case <-a.closing:
		}
		return nil
	}
}

// watch has closing closed when the server of r shuts down.
func (a *adminAPI) watch(r *http.Request) {
	if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
		a.watched.Do(func() {
			// A server can be shut down twice.
			server.RegisterOnShutdown(sync.OnceFunc(func() { close(a.closing) }))
		})
	}
}

// line is the next line of the stream, and the sum of what time alone does not change.
func (q listing) line() (text []byte, sum uint64) {
	l := live{Stats: readStats(), Rates: theHistory.rates()}
	l.Resources, l.Of = q.list()
	text, err := json.Marshal(l)
	if err != nil {
		return nil, 0 // never happens
	}
	h := fnv.New64a()
	fmt.Fprint(h, l.Stats.tag(), l.Of)
	for _, r := range l.Resources {
		fmt.Fprint(h, r.Method, r.Host, r.Path, r.Waiters, r.Version, r.Status, r.LastResult, r.Reason, r.Interval, r.Differs)
	}
	return append(text, '\n'), h.Sum64()
}
