package contract_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Each of the ten rules (contract 7) for streams, beside polls where that matters.

func TestStreamRule1OneCheckForAll(t *testing.T) {
	t.Run("however many listen and wait", virtual(func(t *testing.T) {
		s := newSite(t, "hold 2m 0%\nstream")
		s.backend.say(slowly(100*time.Millisecond, tagged("1")))
		var all []*client
		for i := range 900 {
			fields := [][]string{{events}, {lines}, {events, `Last-Event-ID: "1"`}, {has("1")}}[i%4]
			all = append(all, s.get("/", fields...))
		}
		settle(time.Minute)
		if n := s.backend.checks(); n < 50 || n > 57 {
			t.Errorf("got %d checks in a minute; want one per interval", n)
		}
		if _, most := s.backend.inFlight(); most != 1 {
			t.Errorf("got %d checks at once; want 1", most)
		}
		for i, c := range all {
			if want := []string{"state 1", "\"state 1\"\n", "", ""}[i%4]; !strings.Contains(c.heard(), want) || want == "" && strings.Contains(c.heard(), "state") {
				t.Fatalf("client %d heard %q", i, c.heard())
			}
		}
	}))
	t.Run("one per wake-up, and none when nobody listens", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\ninterval 1h")
		c := s.get("/", events).hears("1 state 1")
		before := s.backend.checks()
		for range 5 {
			s.wake("/")
			settle(time.Second)
		}
		if n := s.backend.checks() - before; n != 5 {
			t.Errorf("got %d checks for 5 wake-ups", n)
		}
		c.leave()
		c.answer()
		before = s.backend.checks()
		settle(3 * time.Hour)
		s.wake("/")
		settle(0)
		if n := s.backend.checks() - before; n != 0 {
			t.Errorf("got %d checks while nobody listens", n)
		}
	}))
	t.Run("streams that come again and again", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		for range 600 { // with what it has: there is no need to ask for each of them
			c := s.get("/", events, `Last-Event-ID: "1"`).hears("")
			settle(100 * time.Millisecond)
			c.leave()
			c.answer()
		}
		if n := s.backend.checks(); n > 70 {
			t.Errorf("got %d checks in a minute; want one per interval", n)
		}
	}))
}

func TestStreamRule2NoLostChange(t *testing.T) {
	t.Run("between two streams", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		c := s.get("/", events).hears("1 state 1")
		c.leave()
		c.answer()
		s.backend.say(tagged("2"))
		next := s.get("/", events, `Last-Event-ID: "1"`)
		settle(1100 * time.Millisecond)
		next.hears("2 state 2")
	}))
	t.Run("a wake-up during a check", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\ninterval 1h")
		s.get("/", waits(0)).answer()
		c := s.get("/", events, `Last-Event-ID: "1"`).hears("")
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			time.Sleep(time.Second)
			return tagged("1")(w, r)
		})
		s.wake("/")
		settle(500 * time.Millisecond)
		s.backend.say(tagged("2"))
		s.wake("/") // the check in flight has seen the former state
		settle(time.Second)
		c.hears("2 state 2")
	}))
	t.Run("while the client takes an event", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\ninterval 1h")
		c := s.get("/", events).hears("1 state 1")
		goOn := c.w.stop()
		for _, version := range []string{"2", "3"} {
			s.backend.say(tagged(version))
			s.wake("/")
			settle(time.Second)
		}
		goOn()
		c.hears("1 state 1 | 2 state 2 | 3 state 3")
	}))
	t.Run("a change that is taken back while the client takes an event", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\ninterval 1h")
		c := s.get("/", events).hears("1 state 1")
		goOn := c.w.stop()
		for _, version := range []string{"2", "3", "1", "2"} {
			s.backend.say(tagged(version))
			s.wake("/")
			settle(time.Second)
		}
		goOn()
		c.hears("1 state 1 | 2 state 2")
		s.backend.say(tagged("1"))
		s.wake("/")
		c.hears("1 state 1 | 2 state 2 | 1 state 1")
	}))
}

func TestStreamRule3NeverOlderThanTheQuestion(t *testing.T) {
	t.Run("a client without a version", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\ninterval 1h")
		s.get("/", events).hears("1 state 1")
		s.backend.say(tagged("2"))
		s.get("/", events).hears("2 state 2")
	}))
	t.Run("a client that is ahead", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\ninterval 1h")
		s.get("/", events).hears("1 state 1")
		s.backend.say(tagged("2"))
		s.get("/", events, `Last-Event-ID: "2"`).hears("").head(200)
	}))
	t.Run("a check that began before the question", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\ninterval 1h")
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			time.Sleep(time.Second)
			return tagged("1")(w, r)
		})
		first := s.get("/", events)
		settle(500 * time.Millisecond)
		s.backend.say(tagged("2"))
		second := s.get("/", events)
		settle(time.Second)
		second.hears("2 state 2")
		if got := first.heard(); !strings.HasSuffix(got, "data: state 2\n\n") {
			t.Errorf("the first heard %q; want state 2 at last", got)
		}
	}))
}

func TestStreamRule4ACheckCarriesWhatIsShared(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			return reply(200, "to "+r.Header.Get("Authorization"), "Cache-Control: private")(w, r)
		})
		alice := s.get("/", events, "Authorization: alice", `Last-Event-ID: "x"`, "Cache-Control: no-cache", "X-Forwarded-For: 203.0.113.9")
		bob := s.get("/", events, "Authorization: bob")
		again := s.get("/", lines, "Authorization: alice")
		settle(1100 * time.Millisecond)
		for c, want := range map[*client]string{alice: "data: to alice\n", bob: "data: to bob\n", again: "\"to alice\"\n"} {
			if got := c.heard(); !strings.Contains(got, want) || strings.Count(got, "to ") != 1 {
				t.Errorf("got %q; want %q", got, want)
			}
		}
		if s.lot.Len() != 2 {
			t.Errorf("got %d resources; want one for each user", s.lot.Len())
		}
		for _, e := range s.backend.exchanges() {
			for _, name := range []string{"Last-Event-Id", "Cache-Control"} {
				if e.header[name] != nil {
					t.Errorf("a check carries %s: %q", name, e.header[name])
				}
			}
		}
	})(t)
	t.Run("an answer that becomes one of a user", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		users := []*client{s.get("/", events, "Cookie: u=a"), s.get("/", events, "Cookie: u=b")}
		open := s.get("/", events)
		settle(0)
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			return reply(200, "of "+r.Header.Get("Cookie"), "Cache-Control: private", "Vary: Cookie")(w, r)
		})
		settle(3 * time.Second)
		for i, c := range users {
			got := c.heard()
			if other := "u=" + string("ba"[i]); strings.Contains(got, other) || !strings.Contains(got, "u="+string("ab"[i])) {
				t.Errorf("user %d heard %q", i, got)
			}
		}
		if got := open.heard(); strings.Contains(got, "u=") {
			t.Errorf("who has no cookie heard %q", got)
		}
	}))
}

func TestStreamRule5NobodyLeavesAMark(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nlinger 30s")
		first := s.get("/", events).hears("1 state 1") // whose check it is
		stays := s.get("/", events).hears("1 state 1")
		var all []*client
		for i := range 1000 {
			all = append(all, s.get("/", []string{events, lines}[i%2]))
		}
		settle(500 * time.Millisecond)
		first.leave()
		for _, c := range all {
			c.leave()
		}
		before := s.backend.checks()
		settle(10 * time.Second)
		if n := s.backend.checks() - before; n < 9 || n > 11 {
			t.Errorf("got %d checks in 10s; want one per interval", n)
		}
		s.backend.say(tagged("2"))
		settle(1100 * time.Millisecond)
		stays.hears("1 state 1 | 2 state 2")
		stays.leave()
		settle(29 * time.Second)
		if s.lot.Parked() != 0 || s.lot.Len() != 1 {
			t.Errorf("got %d parked on %d resources; want none, and that it lingers", s.lot.Parked(), s.lot.Len())
		}
		settle(time.Second)
		if n := len(stacks("caddy-longpoll.(*Handler)")); n != 0 || s.lot.Len() != 0 {
			t.Errorf("got %d goroutines and %d resources; want none", n, s.lot.Len())
		}
	})(t)
	t.Run("who leaves before anything is known", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		s.backend.say(hung)
		for range 100 {
			c := s.get("/", events)
			settle(10 * time.Millisecond)
			c.leave()
			c.wants("499 left")
		}
		settle(time.Second)
		if now, _ := s.backend.inFlight(); now != 0 || s.lot.Parked() != 0 {
			t.Errorf("got %d checks in flight, %d parked; want none", now, s.lot.Parked())
		}
	}))
}

func TestStreamRule6OnTime(t *testing.T) {
	for name, says := range map[string]caddyhttp.HandlerFunc{"hangs": hung, "aborts": aborted, "crashes": crashing, "is silent": silent} {
		t.Run("when the backend "+name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"stream\nstream_timeout 1m\nheartbeat 20s")
			c := s.get("/", events).hears("1 state 1")
			s.backend.say(says)
			c.wants("200 streamed").within(time.Minute, time.Minute)
		}))
	}
	t.Run("before anything is known", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nstream_timeout 1m")
		s.backend.say(hung)
		s.get("/", events).wants("200 streamed").within(time.Minute, time.Minute)
	}))
	t.Run("before anything is known, and before the first heartbeat", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nstream_timeout 5s")
		s.backend.say(hung)
		c := s.get("/", events).wants("200 streamed").within(5*time.Second, 5*time.Second).head(200, "Content-Type: text/event-stream")
		if got := c.heard(); !strings.HasPrefix(got, "retry: ") {
			t.Errorf("got %q; want when to come back", got)
		}
	}))
	t.Run("check_timeout", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\ncheck_timeout 2s")
		c := s.get("/", events).hears("1 state 1")
		s.backend.say(sequence(hung, tagged("2")))
		settle(15 * time.Second)
		c.hears("1 state 1 | 2 state 2")
	}))
	t.Run("the server's write_timeout", virtual(func(t *testing.T) {
		withoutServer(t)
		s := newSite(t, steady+"stream\nstream_timeout 1m")
		s.server.WriteTimeout = caddy.Duration(5 * time.Second)
		c := s.get("/", events).hears("1 state 1")
		if d := c.w.writeDeadline(); !d.IsZero() {
			t.Errorf("the deadline between two events is %v; want none", d)
		}
		c.wants("200 streamed")
		if d := time.Until(c.w.writeDeadline()); d <= 0 || d > 5*time.Second {
			t.Errorf("the deadline at the end is in %v; want that of the server", d)
		}
	}))
}

func TestStreamRule7OutagesAreWaitedOut(t *testing.T) {
	t.Run("and cost the backend nothing", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nstream_timeout 1h")
		alone := newSite(t, steady+"stream\nstream_timeout 1h")
		var all []*client
		for range 100 {
			all = append(all, s.get("/", events))
		}
		alone.get("/", events)
		settle(0)
		s.backend.say(unreachable)
		alone.backend.say(unreachable)
		settle(5 * time.Minute)
		before, base := s.backend.checks(), alone.backend.checks()
		for i := range 200 { // who come during the outage, and come again
			c := s.get("/", []string{events, lines}[i%2]).head(200)
			settle(time.Second)
			if i%2 == 0 {
				c.leave()
			}
		}
		if n, most := s.backend.checks()-before, alone.backend.checks()-base; n > most+2 {
			t.Errorf("got %d checks; want %d, as with one stream", n, most)
		}
		for _, c := range all {
			c.hears("1 state 1")
		}
		s.backend.say(tagged("2"))
		s.wake("/") // ends the pause
		settle(0)
		for _, c := range all {
			c.hears("1 state 1 | 2 state 2")
		}
	}))
	t.Run("Retry-After", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		s.backend.say(reply(503, "later", "Retry-After: 120"))
		c := s.get("/", events).hears("").head(200)
		before := s.backend.checks()
		settle(115 * time.Second)
		if n := s.backend.checks() - before; n != 0 {
			t.Errorf("got %d checks within Retry-After", n)
		}
		s.backend.say(tagged("1"))
		settle(80 * time.Second)
		c.hears("1 state 1")
	}))
}

func TestStreamRule8ReloadsAreSurvived(t *testing.T) {
	for name, says := range map[string]caddyhttp.HandlerFunc{"all is well": tagged("1"), "an outage": unreachable, "a hung check": hung} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"stream")
			var all []*client
			for i := range 200 {
				all = append(all, s.get("/", []string{events, lines}[i%2]))
			}
			settle(0)
			s.backend.say(says)
			settle(20 * time.Second)
			s.drain()
			began := time.Now()
			for _, c := range all {
				c.wants("200 streamed")
				if c.broken {
					t.Fatal("a stream was reset")
				}
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("the drain took %v", took)
			}
			if n := s.lot.Parked(); n != 0 {
				t.Errorf("%d are parked; want none", n)
			}
		}))
	}
}

func TestStreamRule9BoundsHold(t *testing.T) {
	t.Run("max_parked_per_client", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nmax_parked_per_client 2")
		a := s.get("/", events).hears("1 state 1")
		s.get("/other", has("1")).mustWait()
		s.get("/", events).wants("503 refused").within(0, 0)
		a.leave()
		a.answer()
		s.get("/", events).hears("1 state 1")
	}))
	t.Run("max_resources", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nmax_resources 2")
		s.get("/a", events).hears("1 state 1")
		s.get("/b", lines).head(200)
		c := s.get("/c", events).wants("503 refused").within(0, 0)
		if c.field("Retry-After") == "" {
			t.Error("got no Retry-After")
		}
	}))
	t.Run("max_memory counts events", virtual(func(t *testing.T) {
		// Each body is 100 KB, and each event is as much again.
		s := newSite(t, steady+"stream\nmax_memory 1MiB")
		s.backend.say(reply(200, strings.Repeat("x", 100<<10)))
		streams := 0
		for i := range 12 {
			c := s.get(fmt.Sprint("/", i), events)
			settle(0)
			if strings.Contains(c.heard(), "xxx") {
				streams++
			}
		}
		if streams < 4 || streams > 6 {
			t.Errorf("%d streams have begun; want 5, which are a MiB", streams)
		}
	}))
}

func TestStreamRule10ACheckBorrowsNothing(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		var borrowed atomic.Int64
		type key struct{}
		s.before = func(_ http.ResponseWriter, r *http.Request) {
			*r = *r.WithContext(context.WithValue(r.Context(), key{}, true))
		}
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			if r.Header.Get("Reused") != "" || r.URL.Path != "/" || r.Context().Value(key{}) != nil || w.Header().Get("Content-Type") != "" {
				borrowed.Add(1)
			}
			return tagged("1")(w, r)
		})
		first := s.get("/", events).hears("1 state 1")
		second := s.get("/", events).hears("1 state 1")
		settle(3 * time.Second)
		first.leave() // its request is used again
		first.answer()
		settle(3 * time.Second)
		s.backend.say(tagged("2"))
		settle(1100 * time.Millisecond)
		second.hears("1 state 1 | 2 state 2")
		if n := borrowed.Load(); n > 0 {
			t.Errorf("%d checks have looked at what is a client's", n)
		}
	})(t)
}
