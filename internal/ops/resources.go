package ops

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// resourceStats is one element of what GET /long_poll/resources answers. Its path
// bears no query, which may hold secrets.
type resourceStats struct {
	Method     string   `json:"method"`
	Host       string   `json:"host"`
	Path       string   `json:"path"`
	Waiters    int      `json:"waiters"`
	Version    string   `json:"version"`              // empty before the first good check
	Status     int      `json:"status"`               // of the backend's latest answer; 0 before the first
	Age        *float64 `json:"age"`                  // of what is known, in seconds; null if nothing is
	LastResult string   `json:"last_result"`          // changed, unchanged, failed; none before the first check
	Reason     string   `json:"reason"`               // why it failed
	NextCheck  *float64 `json:"next_check"`           // in so many seconds; null as long as nobody waits
	Interval   float64  `json:"interval"`             // the pause after the latest check, in seconds
	Differs    []string `json:"differs"`              // what tells it from others of its method, host and path: names, never values; null if there are none
	CheckedBy  string   `json:"checked_by,omitempty"` // in a cluster: self, or the host and process of the Caddy that does
}

// serveResources answers with the resources: those with the most waiters first.
func (a *adminAPI) serveResources(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	q, err := readListing(r.URL.Query())
	if err != nil {
		return err
	}
	list, _ := q.list()
	return writeJSON(w, list)
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

func (s *Site) statsOf(r *poll.Resource, snap *poll.Snapshot, waiters int) resourceStats {
	stats := resourceStats{
		Method: r.Name.Method, Host: printable(r.Name.Host), Path: shownPath(r.Name.Path),
		Waiters: waiters, LastResult: "none", Interval: roundSeconds(s.Interval),
	}
	if s.Cluster != nil {
		stats.CheckedBy = "self"
		if by, here := s.Cluster.By(r); by != "" && !here {
			stats.CheckedBy = printable(by)
		}
	}
	last := snap.State
	if snap.Known() {
		stats.Version = shownVersion(snap.State.Version.Text)
		age := roundSeconds(time.Since(snap.State.Ended))
		stats.Age = &age
	}
	if snap.Failed() {
		last = snap.Fault
		stats.Reason = last.Reason()
	}
	if last != nil {
		stats.Status, stats.LastResult, stats.Interval = last.Code(), string(last.Result), roundSeconds(last.Pause)
	}
	if waiters > 0 {
		next := max(0, roundSeconds(time.Until(r.Due())))
		stats.NextCheck = &next
	}
	return stats
}

// roundSeconds is d in seconds, to the millisecond.
func roundSeconds(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }

// shownVersion is a version as operators see it: as it is if it is short and plain,
// else a digest, for it may be a piece of the backend's answer.
func shownVersion(text string) string {
	if text == "" {
		return ""
	}
	return httphdr.Opaque(httphdr.WeakTag(httphdr.Opaque(text)))
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
