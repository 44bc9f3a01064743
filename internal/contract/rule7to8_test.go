package contract_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestRule7OutagesAreWaitedOut(t *testing.T) {
	failures := map[string]struct {
		says   caddyhttp.HandlerFunc
		status int // for who is not parked
	}{
		"500":           {reply(500, "oops"), 500},
		"501":           {reply(501, "oops"), 501},
		"502":           {reply(502, "oops"), 502},
		"503":           {reply(503, "oops"), 503},
		"504":           {reply(504, "oops"), 504},
		"599":           {reply(599, "oops"), 599},
		"429":           {reply(429, "oops"), 429},
		"no connection": {unreachable, 502},
		"time-out":      {hung, 504},
		"abort":         {aborted, 502},
		"no answer":     {silent, 502},
		"a bug":         {crashing, 502},
		"499":           {reply(499, ""), 502},
		"stray 304":     {reply(304, ""), 502},
	}
	for name, f := range failures {
		t.Run(name+" holds", virtual(func(t *testing.T) {
			s := newSite(t, "hold 25s 0%\ncheck_timeout 2s")
			s.backend.say(reply(http.StatusOK, "state 1", `Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT`))
			since := "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT"
			parked, recovers := s.get("/", since), s.get("/", since)
			settle(1500 * time.Millisecond)
			s.backend.say(f.says)
			settle(10 * time.Second)
			parked.mustWait()
			late := s.get("/", waits(5))
			late.wants(strconv.Itoa(f.status)+" failed").within(0, 2*time.Second)
			late.wantsRetryAfter(1, 15)
			if f.status != 502 && f.status != 504 && late.w.body.String() != "oops" {
				t.Errorf("got body %q; want the backend's", late.w.body.String())
			}
			// The same as before: nobody has missed anything.
			s.backend.say(reply(http.StatusOK, "state 1", `Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT`))
			settle(time.Until(s.began.Add(25*time.Second - 1)))
			parked.mustWait()
			parked.wants("304 expired").within(25*time.Second, 25*time.Second)
			recovers.wants("304 expired")
		}))

		t.Run(name+" releases with on_error release", virtual(func(t *testing.T) {
			s := newSite(t, "hold 25s 0%\ncheck_timeout 2s\non_error release")
			parked := s.get("/", "Cookie: a", has("1"))
			parked.mustWait()
			s.backend.say(f.says)
			if name == "stray 304" {
				parked.wants("304 expired") // it is none to a check that has a precondition
				return
			}
			parked.wants(strconv.Itoa(f.status)+" failed").within(time.Second, 3200*time.Millisecond)
		}))

		t.Run(name+" at first", virtual(func(t *testing.T) {
			s := newSite(t, "hold 25s 0%\ncheck_timeout 2s")
			s.backend.say(f.says)
			s.get("/", has("1")).wants(strconv.Itoa(f.status)+" failed").within(0, 2*time.Second)
			s.backend.say(tagged("1"))
			// An ordinary request asks for itself, a poll when the pause is over.
			s.get("/").wants("200 answered state 1").within(0, 0)
			s.get("/", waits(5)).wants(strconv.Itoa(f.status)+" failed").within(0, 0)
			settle(1100 * time.Millisecond)
			s.get("/", waits(5)).wants("200 answered state 1").within(0, 0)
		}))
	}

	t.Run("a change during the outage", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(unreachable)
		settle(8 * time.Second)
		s.backend.say(tagged("2"))
		c.wants("200 changed state 2").within(8*time.Second, 15*time.Second)
	}))

	t.Run("the time limit ends the wait", virtual(func(t *testing.T) {
		// No check since it came was good: nothing is made up.
		s := newSite(t, "hold 5s 0%\ninterval 2s")
		s.get("/", waits(5)).wants("200 answered state 1")
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(unreachable)
		c.wants("502 failed").within(5*time.Second, 5*time.Second).wantsRetryAfter(1, 15)
	}))

	t.Run("pauses grow", virtual(func(t *testing.T) {
		s := newSite(t, "hold 10m 0%")
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(reply(http.StatusServiceUnavailable, ""))
		c.within(10*time.Minute, 10*time.Minute)
		pauses := s.backend.pauses()
		if len(pauses) < 10 || len(pauses) > 100 {
			t.Fatalf("got %d checks in 10 minutes of an outage: %v", len(pauses), pauses)
		}
		for i, p := range pauses[:8] {
			if p < time.Second || i > 1 && p < pauses[i-1] && p < 9*time.Second {
				t.Errorf("got pauses %v; want that they grow", pauses[:8])
				break
			}
		}
		if longest := slices.Max(pauses); longest > 30*time.Second {
			t.Errorf("got a pause of %v; want that a recovery is seen within a usual hold", longest)
		}
	}))

	t.Run("for who is parked on what it does not have any more", virtual(func(t *testing.T) {
		// The check that was in flight when it came said something else, the one
		// that is to confirm it fails.
		s := newSite(t, "hold 25s 0%\ninterval 10s")
		s.get("/", waits(5)).wants("200 answered state 1")
		s.backend.say(slowly(time.Second, tagged("2")))
		s.get("/", "Wait: 1")
		settle(time.Second / 2)
		c := s.get("/", has("1"))
		synctest.Wait()
		s.backend.say(unreachable)
		settle(9 * time.Second)
		if n := s.backend.checks(); n != 3 {
			t.Errorf("got %d checks; want the two and one that fails", n)
		}
		c.mustWait()
		s.backend.say(tagged("2"))
		c.wants("200 changed state 2").within(10*time.Second, 13*time.Second)
	}))

	for name, after := range map[string]string{
		"seconds": "Retry-After: 7",
		"a date":  "Retry-After: Sat, 01 Jan 2000 00:00:08 GMT", // where virtual time begins
	} {
		t.Run("Retry-After in "+name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			c := s.get("/", has("1"))
			c.mustWait()
			s.backend.say(reply(http.StatusTooManyRequests, "", after))
			settle(2 * time.Second)
			n := s.backend.checks()
			settle(5500 * time.Millisecond)
			if more := s.backend.checks() - n; more != 0 {
				t.Errorf("got %d checks before Retry-After has passed", more)
			}
			s.backend.say(tagged("2"))
			c.wants("200 changed state 2").within(8*time.Second, 10*time.Second)
		}))
	}

	t.Run("pauses fall back", virtual(func(t *testing.T) {
		s := newSite(t, "hold 10m 0%")
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(unreachable)
		settle(2 * time.Minute)
		s.backend.say(tagged("1"))
		settle(time.Minute)
		n := s.backend.checks()
		settle(11 * time.Second)
		if more := s.backend.checks() - n; more < 9 {
			t.Errorf("got %d checks in 11s after the outage; want one per interval", more)
		}
		c.leave()
	}))

	t.Run("fifty status codes in a row", virtual(func(t *testing.T) {
		s := newSite(t, "hold 10m 0%")
		c := s.get("/", has("1"))
		other := s.get("/other", has("1"))
		c.mustWait()
		for code := 500; code < 550; code++ {
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				if r.URL.Path == "/other" {
					return tagged("1")(w, r)
				}
				return reply(code, strconv.Itoa(code))(w, r)
			})
			settle(3 * time.Second)
		}
		c.mustWait()
		s.backend.say(tagged("2"))
		c.wants("200 changed state 2")
		other.wants("200 changed state 2")
	}))
}

func TestRule8ReloadsAreSurvived(t *testing.T) {
	for name, test := range map[string]struct {
		block  string
		fields []string
		target string
		want   string
	}{
		"conditional":     {"", []string{has("1")}, "/", "304 drained"},
		"by since":        {"since {query.v}", nil, "/?v=1", "200 drained state 1"},
		"with on_timeout": {"on_timeout 204", []string{has("1")}, "/", "204 drained"},
		"with replay":     {"on_timeout replay", []string{has("1")}, "/", "200 drained state 1"},
		"by hold_while":   {"hold_while {lp.status} is 200", nil, "/", "200 drained state 1"},
		"unversioned":     {"unversioned park", nil, "/", "200 drained state 1"},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, "hold 25s 0%\n"+test.block)
			var all []*client
			for range 1000 {
				all = append(all, s.get(test.target, test.fields...))
			}
			settle(time.Second / 2) // the interval has not passed: most were parked on the first state
			s.drain()
			for _, c := range all {
				c.wants(test.want).within(time.Second/2, 2*time.Second)
			}
			if s.lot.Parked() != 0 {
				t.Errorf("got %d parked after the drain", s.lot.Parked())
			}
		}))
	}

	t.Run("by hold_while, with another version", virtual(func(t *testing.T) {
		// What is known was read before the second came, and is not what that one
		// has: it may be older, so the second asks for itself.
		s := newSite(t, steady+"hold_while {lp.header.X-Busy} is yes")
		s.backend.say(tagged("1", "X-Busy: yes"))
		first := s.get("/", has("2"))
		first.mustWait()
		second := s.get("/", has("2"))
		second.mustWait()
		s.backend.say(tagged("3"))
		s.drain()
		first.wants("200 drained state 1")
		second.wants("200 bypassed state 3")
	}))

	t.Run("while its change is confirmed", virtual(func(t *testing.T) {
		// The check that was in flight when it came said something else, the one
		// that is to confirm it has not ended: it asks for itself.
		s := newSite(t, "hold 25s 0%\ninterval 10s")
		s.get("/", waits(5)).wants("200 answered state 1")
		s.backend.say(slowly(time.Second, tagged("2")))
		s.get("/", "Wait: 1")
		settle(time.Second / 2)
		c := s.get("/", has("1"))
		settle(time.Second)
		c.mustWait()
		s.drain()
		c.wants("200 bypassed state 2")
	}))

	t.Run("spread over up to a second", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		var all []*client
		for range 10000 {
			all = append(all, s.get("/", has("1")))
		}
		settle(time.Second)
		s.drain()
		var tenths [10]int
		for _, c := range all {
			c.wants("304 drained").within(time.Second, 2*time.Second)
			tenths[min(9, int((c.took-time.Second)/(100*time.Millisecond)))]++
		}
		for i, n := range tenths {
			if n < 500 || n > 1500 {
				t.Errorf("got %d of 10000 released in tenth %d of the second: %v", n, i, tenths)
				break
			}
		}
	}))

	t.Run("a change comes first", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(tagged("2"))
		c.wants("200 changed state 2")
		s.drain()
		settle(time.Second)
	}))

	t.Run("nobody is parked afterwards", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		c := s.get("/", has("1"))
		c.mustWait()
		s.drain()
		s.get("/", has("1")).within(0, 0)
		s.get("/", waits(5)).wants("200 bypassed state 1").within(0, 0)
		s.get("/").wants("200 answered state 1").within(0, 0)
		s.get("/new", has("1")).within(0, 0)
		c.wants("304 drained")
	}))

	t.Run("with a check in flight", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		var parked []*client
		for range 2000 { // released over a fifth of a second
			parked = append(parked, s.get("/", has("1")))
		}
		settle(time.Second / 2)
		// What is behind a retired configuration may say anything.
		s.backend.say(slowly(time.Second, reply(http.StatusNotFound, "retired")))
		s.wake("/")
		settle(950 * time.Millisecond)
		fresh := s.get("/", waits(5))
		synctest.Wait()
		s.drain()
		for _, c := range parked {
			c.wants("304 drained")
		}
		fresh.wants("404 bypassed retired") // by its own exchange
	}))

	t.Run("during an outage", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		read := s.get("/", has("1"))
		read.mustWait()
		s.backend.say(unreachable)
		settle(3 * time.Second)
		s.drain()
		read.wants("304 drained")
	}))

	t.Run("during an outage that the client has only seen the beginning of", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.get("/", waits(5)).wants("200 answered state 1")
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(unreachable)
		settle(3 * time.Second)
		s.drain()
		c.wants("502 failed")
	}))

	// The answer turns out to depend on more than the key, and those who are released by
	// that are drained before they have found whom to wait with.
	t.Run("on the way to another resource", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 1s")
		s.backend.say(tagged("1"))
		var all []*client
		for i := range 200 {
			all = append(all, s.get("/", has("1"), fmt.Sprint("Referer: ", i%20)))
		}
		settle(500 * time.Millisecond)
		s.backend.say(tagged("1", "Vary: Referer"))
		<-s.lot.Resources()[0].Snapshot().Changed()
		s.drain()
		drained := s.now()
		for _, c := range all {
			<-c.done
			if s.now() > drained+2*time.Second || c.outcome() != "drained" && c.outcome() != "bypassed" {
				t.Fatalf("got %s %v after the drain", c, s.now()-drained)
			}
		}
	}))

	t.Run("twice", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		c := s.get("/", has("1"))
		c.mustWait()
		s.drain()
		s.drain()
		if err := s.Cleanup(); err != nil {
			t.Fatal(err)
		}
		c.wants("304 drained")
		if n := s.logs.FilterMessage("draining").Len(); n != 1 {
			t.Errorf("got %d logs of the drain; want 1", n)
		}
	}))
}
