package contract_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// growing answers with a number, and its ETag.
func growing(n *atomic.Int64) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		return reply(200, fmt.Sprint(n.Load()), fmt.Sprintf("ETag: \"%d\"", n.Load()))(w, r)
	}
}

// TestStreamSlowReader: a client that stops reading while the body changes 200 times
// disturbs nobody, gets the latest when it reads again, and is cut when it does not.
func TestStreamSlowReader(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\ninterval 10ms")
		var n atomic.Int64
		s.backend.say(growing(&n))
		slow, fast, dead := s.get("/", events).hears("0 0"), s.get("/", events).hears("0 0"), s.get("/", events).hears("0 0")
		goOn := slow.w.stop()
		dead.w.stop()
		for range 200 {
			n.Add(1)
			settle(20 * time.Millisecond)
		}
		all, _ := parseEvents(fast.heard())
		if len(all) != 201 {
			t.Errorf("the fast one heard %d events; want 201", len(all))
		}
		slow.hears("0 0")
		goOn()
		slow.hears("0 0 | 1 1 | 200 200") // 1 was on its way
		dead.wants("200 streamed").within(10*time.Second, 10100*time.Millisecond)
		if dead.hears("0 0"); !dead.broken {
			t.Error("what was cut ends as if it were whole")
		}
		if d := slow.w.writeDeadline(); !d.IsZero() {
			t.Errorf("the deadline is %v; want none between two events", d)
		}
		n.Add(1)
		settle(20 * time.Millisecond)
		slow.hears("0 0 | 1 1 | 200 200 | 201 201")
	})(t)
}

// TestStreamNeverDone: a stream whose client is always behind comes to its end in time.
func TestStreamNeverDone(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nstream_timeout 10s\ninterval 10ms")
		var n atomic.Int64
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			n.Add(1)
			return growing(&n)(w, r)
		})
		c := s.get("/", events)
		c.w.each.Store(int64(100 * time.Millisecond))
		c.wants("200 streamed").within(10*time.Second, 11*time.Second)
		if s.gauge("caddy_long_poll_streams") != 0 {
			t.Error("a stream is left")
		}
	})(t)
}

// TestStreamPanics: a panic on the way to a client ends its stream, and is counted.
func TestStreamPanics(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		c, other := s.get("/", events).hears("1 state 1"), s.get("/", events).hears("1 state 1")
		c.w.breaks.Store(true)
		s.backend.say(tagged("2"))
		settle(1100 * time.Millisecond)
		other.hears("1 state 1 | 2 state 2")
		if <-c.done; !c.broken {
			t.Errorf("got %v; want it to be broken", c)
		}
		if n := s.lot.Parked(); n != 1 {
			t.Errorf("%d are parked; want 1", n)
		}
		if n := s.gauge("caddy_long_poll_streams"); n != 1 {
			t.Errorf("%v streams are open; want 1", n)
		}
	})(t)
}

// gauge is the value of a metric.
func (s *site) gauge(name string) float64 {
	s.t.Helper()
	return gathered(s.t, ourRegistry(s.t))[name].GetMetric()[0].GetGauge().GetValue()
}

// TestStreamSweep has streams and polls side by side, in many random orders of changes,
// wake-ups, outages, a Vary that is learnt late, clients that leave, and a reload: each
// stream hears states that only ever grow, none twice, and at the end the last one.
func TestStreamSweep(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), virtual(func(t *testing.T) {
			var mu sync.Mutex // protects source
			source := rand.New(rand.NewPCG(seed, 1))
			upTo := func(n int64) int64 {
				mu.Lock()
				defer mu.Unlock()
				return source.Int64N(n)
			}
			s := newSite(t, "hold 5s\nstream\ninterval 1s\nheartbeat 3s\nlinger 2s")
			var n atomic.Int64
			var down, varies atomic.Bool
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				value, fails := n.Load(), down.Load()
				if varies.Load() {
					w.Header().Set("Vary", "X-Room")
				}
				select {
				case <-time.After(time.Duration(upTo(int64(1500 * time.Millisecond)))):
				case <-r.Context().Done():
					w.WriteHeader(499)
					return nil
				}
				if fails {
					return unreachable(w, r)
				}
				return reply(200, fmt.Sprint(value), fmt.Sprintf("ETag: \"%d\"", value))(w, r)
			})
			var all []*client
			for i := range 12 {
				fields := []string{events, "X-Room: " + fmt.Sprint(i%2)}
				switch i % 4 {
				case 1:
					fields = append(fields, `Last-Event-ID: "0"`)
				case 2:
					fields[0] = lines
				}
				all = append(all, s.get("/", fields...))
				if i%3 == 0 {
					s.get("/", has("0"), "X-Room: "+fmt.Sprint(i%2))
				}
				settle(time.Duration(upTo(int64(400 * time.Millisecond))))
			}
			for range 40 {
				switch upTo(6) {
				case 0, 1:
					n.Add(1)
				case 2:
					s.wake("/")
				case 3:
					down.Store(upTo(3) == 0)
				case 4:
					varies.Store(true)
				case 5:
					if upTo(4) == 0 {
						all[upTo(4)].leave()
					}
				}
				settle(time.Duration(upTo(int64(time.Second))))
			}
			down.Store(false)
			settle(30 * time.Second)
			last := n.Load()
			if seed%2 == 0 {
				s.drain()
			}
			settle(2 * time.Second)
			for i, c := range all {
				var heard []int64
				for line := range strings.Lines(c.heard()) {
					text, isData := strings.CutPrefix(strings.TrimSpace(line), "data: ")
					if value, err := strconv.ParseInt(text, 10, 64); err == nil && (isData || i%4 == 2) {
						heard = append(heard, value)
					}
				}
				for j := 1; j < len(heard); j++ {
					if heard[j] <= heard[j-1] {
						t.Errorf("client %d heard %v; want what only grows", i, heard)
					}
				}
				left := c.r.Context().Err() != nil && i < 4
				if !left && (len(heard) == 0 && !(last == 0 && i%4 == 1) || len(heard) > 0 && heard[len(heard)-1] != last) {
					t.Errorf("client %d heard %v; want %d at the end", i, heard, last)
				}
				if seed%2 == 0 {
					c.wants("200 streamed")
				}
			}
		}))
	}
}

// TestStreamOfRestless: who waits for a check that is not to be made yet is told so in time,
// and costs nothing meanwhile.
func TestStreamOfRestless(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\ninterval 1m")
		var n atomic.Int64
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			n.Add(1)
			return growing(&n)(w, r)
		})
		for range 6 {
			s.get("/", waits(0)).answer()
			settle(time.Millisecond)
		}
		c := s.get("/", events).hears("")
		settle(30 * time.Second)
		if got := c.head(200).heard(); got != ":\n" {
			t.Errorf("got %q after 30 s; want it to have begun after 15, and a comment after 15 more", got)
		}
		settle(time.Minute)
		if all, _ := parseEvents(c.heard()); len(all) == 0 {
			t.Error("it was told nothing")
		}
	})(t)
}

// TestStreamOfLateVary: where answers turn out to depend on more, a stream ends between two
// events, and its client comes back to what is its own, which no stream has any part in.
func TestStreamOfLateVary(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		all := make(map[string]*client)
		for _, of := range []string{"a", "b"} {
			all[of] = s.get("/", events, "User-Agent: "+of).hears("1 state 1")
		}
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			of := r.Header.Get("User-Agent")
			return reply(200, "of "+of, "Vary: User-Agent", fmt.Sprintf("ETag: %q", of))(w, r)
		})
		settle(1100 * time.Millisecond)
		for of, c := range all {
			if c.wants("200 streamed").hears("1 state 1"); c.broken {
				t.Errorf("that of %s does not end between two events", of)
			}
			s.get("/", events, "User-Agent: "+of, `Last-Event-ID: "1"`).hears(of + " of " + of)
			s.get("/", has("1"), "User-Agent: "+of).wants("200 answered of " + of)
		}
		if n := s.gauge("caddy_long_poll_streams"); n != 2 || s.lot.Parked() != 2 {
			t.Errorf("%v streams are open, and %d are parked; want 2", n, s.lot.Parked())
		}
	})(t)
}
