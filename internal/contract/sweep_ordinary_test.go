package contract_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// upstream is a backend that says what it has in pieces, and can be made to break off.
type upstream struct {
	mu      sync.Mutex // protects what follows
	version string
	abort   chan struct{} // closed when all that is in flight breaks off
}

func newUpstream() *upstream { return &upstream{version: "1", abort: make(chan struct{})} }

func (u *upstream) change(version string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.version = version
}

// breakOff has what is in flight break off in the middle of its body.
func (u *upstream) breakOff() {
	u.mu.Lock()
	defer u.mu.Unlock()
	close(u.abort)
	u.abort = make(chan struct{})
}

// says takes d for a body, half of which it says at once.
func (u *upstream) says(d time.Duration, fields ...string) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		u.mu.Lock()
		version, abort := u.version, u.abort
		u.mu.Unlock()
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ":")
			w.Header().Add(name, strings.TrimSpace(value))
		}
		io.WriteString(w, "state ")
		http.NewResponseController(w).Flush()
		select {
		case <-time.After(d):
		case <-abort:
			panic(http.ErrAbortHandler)
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, version+r.Header.Get("User-Agent"))
		return nil
	}
}

// moments are each tenth of a second until to, and right before and after those that
// count.
func moments(to time.Duration, count ...time.Duration) (all []time.Duration) {
	for at := time.Duration(0); at <= to; at += 100 * time.Millisecond {
		all = append(all, at)
	}
	for _, at := range count {
		all = append(all, at-1, at+1)
	}
	return all
}

// TestSweepOrdinary has everything that can happen happen at each moment of an ordinary
// request whose answer is kept back for its tag, one at a time.
func TestSweepOrdinary(t *testing.T) {
	const patience = 500 * time.Millisecond
	for _, takes := range []time.Duration{0, 300 * time.Millisecond, patience - 2, patience + 2, 900 * time.Millisecond} {
		for _, event := range []string{"nothing", "the client leaves", "the config reloads", "a wake-up comes", "the backend aborts"} {
			t.Run(fmt.Sprint(event, ", ", takes), virtual(func(t *testing.T) {
				for _, at := range moments(time.Second, patience, takes) {
					if at < 0 || at == 0 && event == "the backend aborts" {
						continue // it has not begun
					}
					s, u := newSite(t, steady), newUpstream()
					s.backend.say(u.says(takes))
					c := s.get("/")
					time.AfterFunc(at, map[string]func(){
						"nothing": func() {}, "the client leaves": c.leave, "the config reloads": s.drain,
						"a wake-up comes": func() { s.wake("/") }, "the backend aborts": u.breakOff,
					}[event])
					c.answer()
					ends, broken := takes, false
					if event == "the client leaves" || event == "the backend aborts" {
						if broken = at < takes; broken {
							ends = at
						}
						if at == takes {
							continue // either
						}
					}
					name := fmt.Sprint(event, " at ", at, " of ", takes)
					if c.took != ends || c.broken != broken {
						t.Errorf("%s: got %v after %v, broken off: %v", name, c, c.took, c.broken)
					}
					switch tag, late := c.w.sent.Get("ETag") != "", ends > patience; {
					case broken && !late && ends != patience:
						if c.w.status != 0 {
							t.Errorf("%s: got %v; want nothing of what breaks off", name, c)
						}
					case broken && late:
						if c.w.status != 200 || tag || c.w.body.String() != "state " {
							t.Errorf("%s: got %v; want what had come", name, c)
						}
					case !broken:
						if c.String() != "200 answered state 1" || tag != !late {
							t.Errorf("%s: got %v with ETag %q", name, c, c.w.sent.Get("ETag"))
						}
					}
					s.wantsUntouched(1)
					if now, _ := s.backend.inFlight(); now != 0 {
						t.Errorf("%s: got %d requests at the backend", name, now)
					}
				}
			}))
		}
	}
}

// TestSweepMoves has two clients wait together until the first answer says that they
// must not: it depends on their User-Agent. One of them then waits for something else.
// Everything happens at each moment of that, to each of the two.
//
// A check takes a second: the first from 0 to 1, the second client's own from 1 to 2. At
// 4 the state becomes another.
func TestSweepMoves(t *testing.T) {
	for _, event := range []string{"nothing", "the first leaves", "the second leaves", "the config reloads", "a wake-up comes", "the backend aborts"} {
		for asks, fields := range map[string][]string{
			"has the state":         {`If-None-Match: "1"`},
			"has another":           {`If-None-Match: "0"`},
			"has none":              {waits(20)},
			"does not want to wait": {`If-None-Match: "1"`, waits(0)},
			"waits for the first":   nil,
		} {
			t.Run(event+", "+asks, virtual(func(t *testing.T) {
				for _, at := range moments(6*time.Second, time.Second, 2*time.Second, 3*time.Second, 4*time.Second) {
					s, u := newSite(t, "hold 20s 0%\ninterval 1s\nlinger 30s\n"+map[bool]string{true: "unversioned park"}[fields == nil]), newUpstream()
					s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
						u.mu.Lock()
						tag := `ETag: "` + u.version + `"`
						u.mu.Unlock()
						return u.says(time.Second, tag, "Vary: User-Agent")(w, r)
					})
					first := s.get("/", append(fields, "User-Agent: a")...)
					second := s.get("/", append(fields, "User-Agent: b")...)
					time.AfterFunc(4*time.Second, func() { u.change("2") })
					time.AfterFunc(at, map[string]func(){
						"nothing": func() {}, "the first leaves": first.leave, "the second leaves": second.leave, "the config reloads": s.drain,
						"a wake-up comes": func() { s.wake("/") }, "the backend aborts": u.breakOff,
					}[event])
					for who, c := range map[string]*client{"a": first, "b": second} {
						<-c.done
						got := c.String()
						c.took = c.took.Round(time.Microsecond)
						leaves := event == "the first leaves" && who == "a" || event == "the second leaves" && who == "b"
						aborts, drains := event == "the backend aborts", event == "the config reloads"
						wants := map[string]string{
							"has the state": "200 changed state 2" + who, "has another": "200 answered state 1" + who,
							"waits for the first": "200 changed state 2" + who, "has none": "200 answered state 1" + who, "does not want to wait": "304 answered",
						}[asks]
						by := 3100 * time.Millisecond // its own check, and what is in flight
						if strings.Contains(wants, "changed") {
							by = 7300 * time.Millisecond
						}
						if aborts {
							by += 2 * time.Second
						}
						switch {
						case leaves && got == "499 left" && c.took == at.Round(time.Microsecond):
						case got == wants && c.took <= by:
						case aborts && got == "502 failed" && c.took == at.Round(time.Microsecond) && at <= 2*time.Second: // it knows of nothing yet
						case drains && (got == "304 drained" || got == "200 drained state 1"+who) && c.took <= at+time.Second:
						case drains && (strings.HasPrefix(got, "200 bypassed state ") || got == "304 bypassed") && strings.HasSuffix(got, who) && c.took <= at+2*time.Second+time.Microsecond:
						default:
							t.Errorf("%s at %v: %s who %s got %q after %v", event, at, who, asks, got, c.took)
						}
					}
					if s.lot.Parked() != 0 {
						t.Errorf("%s at %v: got %d parked when all have gone", event, at, s.lot.Parked())
					}
					settle(5 * time.Second)
					n := s.backend.checks()
					settle(time.Minute)
					if now, _ := s.backend.inFlight(); now != 0 || s.backend.checks() != n || s.lot.Len() != 0 {
						t.Errorf("%s at %v: got %d checks and %d resources when all have gone", event, at, s.backend.checks()-n, s.lot.Len())
					}
				}
			}))
		}
	}
}
