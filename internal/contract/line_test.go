package contract_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Contract 10, what cuts the line: seen, measured, avoided.

// hopped are clients behind a hop that cuts silent connections.
type hopped struct {
	s     *site
	limit atomic.Int64 // of the hop, in nanoseconds; 0 is none
	cuts  atomic.Int64
	polls atomic.Int64
	end   chan struct{}
	all   sync.WaitGroup
}

// behindHop has so many clients poll until done is called, each from an address of its
// own. fields are those of their requests.
func behindHop(s *site, clients int, limit time.Duration, fields ...string) *hopped {
	h := &hopped{s: s, end: make(chan struct{})}
	h.limit.Store(int64(limit))
	s.before = func(_ http.ResponseWriter, r *http.Request) {
		caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, r.Header.Get("X-Client"))
	}
	for i := range clients {
		h.all.Go(func() {
			time.Sleep(time.Duration(rand.Float64() * float64(10*time.Second)))
			for {
				select {
				case <-h.end:
					return
				default:
				}
				h.poll(append(fields, has("1"), fmt.Sprint("X-Client: 192.0.2.", i))...)
			}
		})
	}
	return h
}

func (h *hopped) poll(fields ...string) {
	h.polls.Add(1)
	c := h.s.get("/", fields...)
	hop := time.NewTimer(time.Hour)
	if limit := time.Duration(h.limit.Load()); limit > 0 {
		hop.Reset(limit)
	}
	defer hop.Stop()
	select {
	case <-c.done:
	case <-h.end:
		c.leave()
		<-c.done
	case <-hop.C:
		h.cuts.Add(1)
		c.leave()
		<-c.done
		time.Sleep(time.Duration(rand.Float64() * float64(3*time.Second))) // back off
	}
	h.s.mu.Lock()
	h.s.clients = h.s.clients[:0] // done waits for those that are in this loop
	h.s.mu.Unlock()
}

func (h *hopped) done() {
	close(h.end)
	h.all.Wait()
}

// since says how many polls there were and how many of them were cut while f passes.
func (h *hopped) since(f func()) (polls, cuts int64) {
	polls, cuts = h.polls.Load(), h.cuts.Load()
	f()
	return h.polls.Load() - polls, h.cuts.Load() - cuts
}

func (s *site) warnings(text string) int {
	return s.logs.FilterMessageSnippet(text).Len()
}

func TestCutIsSeen(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "interval 10s\nvary -X-Client")
		h := behindHop(s, 30, 20*time.Second)
		defer h.done()
		if got := gauge(t, "caddy_long_poll_cut_seconds"); got != 0 || len(readStats(t).Cuts) != 0 {
			t.Errorf("at the beginning: gauge %v, stats %v", got, readStats(t).Cuts)
		}
		settle(5 * time.Minute)
		if got := gauge(t, "caddy_long_poll_cut_seconds"); got != 20 {
			t.Errorf("gauge %v; want 20", got)
		}
		if cuts := readStats(t).Cuts; len(cuts) != 1 || readStats(t).Cut != 20 || cuts[0].Age != 20 || cuts[0].Share < 0.9 || cuts[0].Hold != 25 || cuts[0].Auto {
			t.Errorf("stats %+v", cuts)
		}
		settle(30 * time.Minute)
		if n := s.warnings("something cuts silent connections after 20 s: choose hold below that"); n != 1 {
			t.Errorf("%d warnings; want one", n)
		}
		h.limit.Store(0) // mended
		settle(10 * time.Minute)
		if got := gauge(t, "caddy_long_poll_cut_seconds"); got != 0 {
			t.Errorf("when it is mended: gauge %v", got)
		}
	})(t)
}

// Who asked for a wait has a time-out of its own, and people leave pages.
func TestNoCutIsSeen(t *testing.T) {
	t.Run("by those who asked", virtual(func(t *testing.T) {
		// Nothing but a check that hangs has the module answer later than a client expects.
		s := newSite(t, "hold 25s 0%\ninterval 10s\nvary -X-Client")
		h := behindHop(s, 30, 9990*time.Millisecond, "Prefer: wait=10")
		defer h.done()
		settle(20 * time.Minute)
		if n := s.warnings("something cuts"); n != 0 || h.cuts.Load() < 1000 {
			t.Errorf("%d warnings; %d left", n, h.cuts.Load())
		}
	}))
	t.Run("by a drain", virtual(func(t *testing.T) {
		s := newSite(t, "interval 10s\nvary -X-Client")
		h := behindHop(s, 30, 0)
		settle(2 * time.Minute)
		h.done() // all leave at once
		if n := s.warnings("something cuts"); n != 0 {
			t.Errorf("%d warnings", n)
		}
	}))
}

func TestHoldAuto(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "hold auto\ninterval 10s\nvary -X-Client")
		h := behindHop(s, 30, 20*time.Second)
		defer h.done()
		settle(3 * time.Minute)
		if n := s.warnings("something cuts silent connections after 20 s: hold is kept below that"); n != 1 {
			t.Fatalf("%d warnings; want one", n)
		}
		if cuts := readStats(t).Cuts; len(cuts) != 1 || cuts[0].Hold != 18 || !cuts[0].Auto {
			t.Errorf("stats %+v", cuts)
		}
		// 18 s, less a tenth of it at most.
		s.get("/", has("1"), "X-Client: 192.0.2.99").wants("304 expired").within(16200*time.Millisecond, 18*time.Second)
		s.get("/", has("1"), "X-Client: 192.0.2.99", "Prefer: wait=5").wants("304 expired").within(4500*time.Millisecond, 5*time.Second)
		if polls, cuts := h.since(func() { settle(50 * time.Minute) }); cuts != 0 || polls < 3000 {
			t.Errorf("%d of %d polls were cut although that was known", cuts, polls)
		}
		// An hour later one in a hundred tries.
		polls, cuts := h.since(func() { settle(3 * time.Hour) })
		if cuts == 0 || cuts > polls/50 {
			t.Errorf("%d of %d polls tried", cuts, polls)
		}
		if got := gauge(t, "caddy_long_poll_cut_seconds"); got != 20 {
			t.Errorf("gauge %v; want 20", got)
		}
		h.limit.Store(0) // mended
		settle(4 * time.Hour)
		if got := gauge(t, "caddy_long_poll_cut_seconds"); got != 0 {
			t.Errorf("when it is mended: gauge %v", got)
		}
		s.get("/", has("1"), "X-Client: 192.0.2.99").wants("304 expired").within(22500*time.Millisecond, 25*time.Second)
		if n := s.warnings("nothing cuts silent connections after 20 s any more"); n != 1 {
			t.Errorf("%d times told; want once", n)
		}
	})(t)
}

// It begins with the most, and keeps to it where nothing cuts.
func TestHoldAutoMax(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "hold auto 40s 0%\ninterval 10s\nvary -X-Client")
		s.get("/", has("1")).wants("304 expired").within(40*time.Second, 40*time.Second)
		h := behindHop(s, 30, 0)
		defer h.done()
		settle(30 * time.Minute)
		s.get("/", has("1")).wants("304 expired").within(40*time.Second, 40*time.Second)
	})(t)
}

// What one client does steers nobody else, however often it leaves.
func TestOneClientCutsNobody(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "hold auto\ninterval 10s\nvary -X-Client")
		h := behindHop(s, 30, 0)
		defer h.done()
		bad := &hopped{s: s, end: make(chan struct{})}
		bad.limit.Store(int64(5 * time.Second))
		for range 40 {
			bad.all.Go(func() {
				for {
					select {
					case <-bad.end:
						return
					default:
						bad.poll(has("1"), "X-Client: 198.51.100.1")
					}
				}
			})
		}
		defer bad.done()
		settle(20 * time.Minute)
		if n := s.warnings("something cuts"); n != 0 || bad.cuts.Load() < 1000 {
			t.Errorf("%d warnings; %d left", n, bad.cuts.Load())
		}
	})(t)
}
