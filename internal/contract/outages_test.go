package contract_test

import (
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Contract 7.7: what an outage costs the backend, and what those are told who come in it.

// rush has so many clients ask once a second, for so many seconds, and returns how often
// the backend was asked meanwhile.
func rush(s *site, clients, seconds int, ask func(i int) *client) int {
	before := s.backend.checks()
	for range seconds {
		for i := range clients {
			ask(i)
		}
		settle(time.Second)
	}
	return s.backend.checks() - before
}

func TestRule7OutagesCostTheBackendNothing(t *testing.T) {
	t.Run("two hundred that poll every second, with freshness", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1s")
		ask := func(int) *client { return s.get("/") }
		good := rush(s, 200, 30, ask)
		s.backend.say(unreachable)
		bad := rush(s, 200, 30, ask)
		if good > 31 || bad > good {
			t.Errorf("asked %d times in good times and %d times in an outage", good, bad)
		}
		s.get("/").wants("502 failed")
		s.backend.say(tagged("2"))
		settle(15 * time.Second)
		s.get("/").wants("200 answered state 2")
	}))

	// Each of these retries every second, for a minute, whatever it is told.
	for name, test := range map[string]struct {
		block  string
		fields []string
		known  bool // the resource is known when the outage begins
	}{
		"that name no version":             {"", []string{waits(5)}, true},
		"before anything is known":         {"", []string{has("1")}, false},
		"that name another version":        {"", []string{has("0")}, true},
		"that do not wait":                 {"", []string{has("1"), waits(0)}, true},
		"with on_error release":            {"on_error release", []string{has("1")}, true},
		"with hold_while":                  {"hold_while {lp.json.x} is y", nil, true},
		"with freshness":                   {"freshness 5s", nil, true},
		"that time out":                    {"check_timeout 2s", []string{waits(5)}, true},
		"that are told to come back later": {"", []string{waits(5)}, true},
	} {
		t.Run("one request per pause: "+name, virtual(func(t *testing.T) {
			s := newSite(t, "hold 25s 0%\n"+test.block)
			if test.known {
				s.get("/", waits(0)).answer()
				settle(2 * time.Second)
			}
			s.backend.say(unreachable)
			most := 14 // pauses of 1, 1.5, 2.25 ... 10 seconds in a minute
			switch name {
			case "that time out":
				s.backend.say(hung)
			case "that are told to come back later":
				s.backend.say(reply(503, "", "Retry-After: 30"))
				most = 3
			}
			var clients []*client
			n := rush(s, 100, 60, func(int) *client {
				c := s.get("/", test.fields...)
				clients = append(clients, c)
				return c
			})
			if n > most {
				t.Errorf("the backend was asked %d times in a minute; want at most %d", n, most)
			}
			settle(30 * time.Second)
			for i, c := range clients {
				fresh := name == "with freshness" && i < 100*4 // what was read before is fresh for so long
				if c.answer(); c.outcome() != "failed" && !fresh {
					t.Fatalf("the client %d got %v", i, c)
				}
			}
		}))
	}

	t.Run("who is parked while it begins, and comes back", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 10%")
		for range 460 {
			s.get("/", has("1"))
		}
		settle(5 * time.Second)
		s.backend.say(unreachable)
		settle(2 * time.Second)
		// Their holds end one after the other, and each comes back at once.
		before := s.backend.checks()
		deadline := time.Now().Add(90 * time.Second)
		s.mu.Lock()
		first := s.clients
		s.mu.Unlock()
		for _, c := range first {
			go func() {
				for {
					if <-c.done; !time.Now().Before(deadline) {
						return
					}
					if n, _ := strconv.Atoi(c.w.sent.Get("Retry-After")); c.outcome() == "failed" && n < 1 {
						t.Errorf("got %v with Retry-After %q", c, c.w.sent.Get("Retry-After"))
						return
					}
					c = s.get("/", has("1"))
				}
			}()
		}
		settle(100 * time.Second)
		if n := s.backend.checks() - before; n > 16 {
			t.Errorf("the backend was asked %d times in 100s of an outage", n)
		}
		s.backend.say(tagged("1"))
		settle(30 * time.Second)
	}))

	t.Run("and as many pauses as resources", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(unreachable)
		n := rush(s, 500, 30, func(i int) *client { return s.get(fmt.Sprint("/", i%5), waits(5)) })
		if n > 5*9 {
			t.Errorf("the backend was asked %d times in 30s for 5 resources", n)
		}
	}))

	t.Run("an ordinary request asks for itself", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(reply(503, "oops", "Retry-After: 30"))
		s.get("/", waits(5)).wants("503 failed oops")
		n := rush(s, 10, 10, func(int) *client { return s.get("/").wants("503 answered oops").wantsField("Retry-After", "30") })
		if n != 100 {
			t.Errorf("the backend was asked %d times by 100 ordinary requests", n)
		}
		s.backend.say(tagged("1"))
		s.get("/").wants("200 answered state 1")
		s.get("/", waits(5)).wants("503 failed oops") // the pause is not over
	}))
}

func TestRule7WhatIsToldInAnOutage(t *testing.T) {
	t.Run("what is left of the pause, and up to half of that more", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(reply(503, "oops", "Retry-After: 20"))
		s.get("/", waits(5)).wants("503 failed oops")
		told := make(map[string]bool)
		for left := 22; left > 2; left-- {
			for range 20 {
				c := s.get("/", waits(5)).wants("503 failed oops").within(0, 0)
				c.wantsRetryAfter(max(1, left-2), left+left/2+1)
				told[c.field("Retry-After")] = true
			}
			settle(time.Second)
		}
		if len(told) < 15 {
			t.Errorf("all are told to come back at the same times: %v", told)
		}
	}))

	t.Run("one second or two, where nothing is left", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1h\nlinger 1h")
		s.backend.say(unreachable)
		s.get("/").wants("502 failed")
		settle(time.Minute)
		told := make(map[string]int)
		for range 100 {
			told[s.get("/").wants("502 failed").field("Retry-After")]++
		}
		if len(told) != 2 || told["1"] == 0 || told["2"] == 0 {
			t.Errorf("got Retry-After %v; want 1 and 2", told)
		}
	}))

	t.Run("who names what was known last is parked", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.get("/", waits(5)).wants("200 answered state 1")
		settle(2 * time.Second)
		s.backend.say(reply(503, "oops"))
		s.get("/", waits(5)).wants("503 failed oops").within(0, 0)
		c, short := s.get("/", has("1")), s.get("/", has("1"), waits(5))
		other := s.get("/", has("2"))
		other.wants("503 failed oops").within(0, 0)
		short.wants("503 failed oops").within(5*time.Second, 5*time.Second).wantsRetryAfter(1, 15)
		c.mustWait()
		back := s.get("/", has("1"))
		c.wants("503 failed oops").within(25*time.Second, 25*time.Second).wantsRetryAfter(1, 15)
		s.backend.say(tagged("1"))
		s.wake("/")
		back.wants("304 expired").within(25*time.Second, 25*time.Second)
	}))

	t.Run("and gets what changes", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.get("/", waits(5)).wants("200 answered state 1")
		settle(2 * time.Second)
		s.backend.say(unreachable)
		s.get("/", waits(5)).wants("502 failed")
		c := s.get("/", has("1"))
		settle(5 * time.Second)
		s.backend.say(tagged("2"))
		c.wants("200 changed state 2").within(5*time.Second, 12*time.Second)
	}))

	t.Run("a wake-up ends a pause", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(reply(503, "oops", "Retry-After: 600"))
		s.get("/", waits(5)).wants("503 failed oops")
		s.backend.say(tagged("1"))
		settle(20 * time.Second)
		s.get("/", waits(5)).wants("503 failed oops")
		s.wake("/")
		s.get("/", waits(5)).wants("200 answered state 1").within(0, 0)
	}))

	t.Run("a wake-up makes no pause longer", virtual(func(t *testing.T) {
		s := newSite(t, "hold 10m 0%")
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(unreachable)
		settle(1500 * time.Millisecond)
		for range 20 {
			s.wake("/")
			settle(10 * time.Millisecond)
		}
		if n := s.backend.checks(); n < 20 {
			t.Fatalf("the backend was asked %d times", n)
		}
		s.backend.say(tagged("2"))
		c.wants("200 changed state 2").within(0, 3*time.Second)
	}))

	t.Run("a wake-up ends a pause of those who are parked", virtual(func(t *testing.T) {
		s := newSite(t, "hold 10m 0%")
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(reply(503, "oops", "Retry-After: 600"))
		settle(2 * time.Second)
		s.backend.say(tagged("2"))
		settle(time.Minute)
		c.mustWait()
		s.wake("/")
		c.wants("200 changed state 2").within(62*time.Second, 62*time.Second)
	}))

	t.Run("freshness counts for errors", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 30s")
		s.backend.say(unreachable)
		s.get("/").wants("502 failed")
		s.backend.say(tagged("1"))
		settle(29 * time.Second)
		s.get("/").wants("502 failed").within(0, 0)
		s.get("/", waits(5)).wants("502 failed").within(0, 0)
		settle(2 * time.Second)
		s.get("/").wants("200 answered state 1")
		if n := s.backend.checks(); n != 2 {
			t.Errorf("the backend was asked %d times; want twice", n)
		}
	}))

	t.Run("on_error release", virtual(func(t *testing.T) {
		s := newSite(t, steady+"on_error release")
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(reply(503, "oops"))
		c.wants("503 failed oops").within(time.Second, 1100*time.Millisecond).wantsRetryAfter(1, 3)
		s.get("/", has("1")).wants("503 failed oops").within(0, 0).wantsRetryAfter(1, 3)
	}))

	// A handler behind us goes by a placeholder that is set on the way to us: what it
	// fails with for one is nothing that another has to hear.
	t.Run("by what depends on more than is compared", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		var up atomic.Bool
		s.before = func(_ http.ResponseWriter, r *http.Request) {
			r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("tenant", r.Header.Get("Sec-Tenant"))
		}
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			tenant, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).GetString("tenant")
			if tenant == "down" && !up.Load() {
				return unreachable(w, r)
			}
			return tagged(tenant)(w, r)
		})
		s.get("/", waits(20), "Sec-Tenant: down").wants("502 failed")
		s.get("/", waits(20), "Sec-Tenant: well").wants("200 answered state well")
		parked := s.get("/", has("well"), "Sec-Tenant: well")
		settle(5 * time.Second)
		parked.mustWait()
		s.get("/", waits(20), "Sec-Tenant: down").wants("502 failed")
		parked.wants("304 expired")
	}))

	t.Run("of an error that is not for all, the status", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(slowly(time.Second, reply(503, "for one", "Vary: *", "X-Secret: yes")))
		// It is for whom the check was made.
		var others []*client
		first := s.get("/", waits(5))
		synctest.Wait()
		others = append(others, s.get("/", waits(5)))
		first.wants("503 failed for one")
		for range 3 { // a page that says that of itself costs no more than another
			others = append(others, s.get("/", waits(5)), s.get("/", waits(5)))
			for _, c := range others {
				if c.answer(); c.w.status != 503 || c.w.body.Len() > 0 || c.field("X-Secret") != "" {
					t.Errorf("got %v; want the status only", c)
				}
				c.wantsRetryAfter(1, 3)
			}
			others = nil
		}
		if n := s.backend.checks(); n != 1 {
			t.Errorf("the backend was asked %d times; want once", n)
		}
	}))

	for name, field := range map[string]string{"private": "Cache-Control: private", "Vary": "Vary: Referer"} {
		t.Run("of an error that says "+name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(slowly(time.Second, reply(500, "for one", field)))
			a, b := s.get("/", waits(5), "Referer: a"), s.get("/", waits(5), "Referer: b")
			told := 0
			for _, c := range []*client{a, b} {
				if c.answer(); c.w.status != 500 || c.outcome() != "failed" {
					t.Errorf("got %v; want a 500", c)
				}
				if c.w.body.Len() > 0 {
					told++
				}
			}
			if told > 1 {
				t.Errorf("both got what is for one: %v, %v", a, b)
			}
		}))
	}
}
