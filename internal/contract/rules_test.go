package longpoll

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// The ten rules of the contract. Times are virtual: a check takes none unless a
// backend is slow, and a pause may be a tenth longer than its interval.

func TestRule1OneCheckForAll(t *testing.T) {
	t.Run("however many wait", virtual(func(t *testing.T) {
		s := newSite(t, "hold 60s 0%")
		var all []*client
		for range 1000 {
			all = append(all, s.get("/", has("1")))
		}
		for _, c := range all {
			c.wants("304 expired").within(time.Minute, time.Minute)
		}
		if n := s.backend.checks(); n < 54 || n > 61 {
			t.Errorf("got %d checks in a minute; want one per interval", n)
		}
		if _, most := s.backend.inFlight(); most != 1 {
			t.Errorf("got %d checks at once; want 1", most)
		}
	}))

	t.Run("however many come before there is a state", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(slowly(time.Second, tagged("1")))
		var all []*client
		for range 1000 {
			all = append(all, s.get("/"))
		}
		for _, c := range all {
			c.wants("200 answered state 1")
		}
		// Some may have come when the first check had begun.
		if n := s.backend.checks(); n > 2 {
			t.Errorf("got %d checks; want one for all", n)
		}
	}))

	t.Run("however many come during a check", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(slowly(time.Second, tagged("1")))
		first := s.get("/")
		settle(500 * time.Millisecond)
		var all []*client
		for range 100 {
			all = append(all, s.get("/"))
		}
		first.wants("200 answered state 1").within(time.Second, time.Second)
		for _, c := range all {
			c.wants("200 answered state 1").within(1500*time.Millisecond, 1500*time.Millisecond)
		}
		if n := s.backend.checks(); n != 2 {
			t.Errorf("got %d checks; want the one in flight and one after it", n)
		}
	}))

	t.Run("one per wake-up", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 1h")
		c := s.get("/", has("1"))
		c.mustWait()
		before := s.backend.checks()
		for range 5 {
			s.wake("/")
			settle(time.Second)
		}
		if n := s.backend.checks() - before; n != 5 {
			t.Errorf("got %d checks for 5 wake-ups", n)
		}
		c.wants("304 expired")
	}))

	t.Run("a burst of wake-ups is one", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 1h")
		s.backend.say(slowly(time.Second, tagged("1")))
		c := s.get("/", has("1"))
		settle(5 * time.Second)
		before := s.backend.checks()
		for range 1000 {
			s.wake("/")
		}
		settle(500 * time.Millisecond)
		for range 1000 {
			s.wake("/")
		}
		c.wants("304 expired")
		if n := s.backend.checks() - before; n != 2 {
			t.Errorf("got %d checks for a burst before and a burst during a check; want 2", n)
		}
	}))

	t.Run("nobody waits", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		c := s.get("/", has("1"))
		c.wants("304 expired")
		before := s.backend.checks()
		settle(10 * time.Second)
		s.wake("/")
		settle(time.Hour)
		s.wake("/")
		settle(time.Hour)
		if n := s.backend.checks() - before; n != 0 {
			t.Errorf("got %d checks while nobody waits", n)
		}
	}))

	t.Run("max_checks at once", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\nmax_checks 3")
		s.backend.say(slowly(time.Second, tagged("1")))
		var all []*client
		for i := range 12 {
			all = append(all, s.get(fmt.Sprintf("/%d", i)))
		}
		for _, c := range all {
			c.wants("200 answered state 1").within(time.Second, 4*time.Second)
		}
		if _, most := s.backend.inFlight(); most != 3 {
			t.Errorf("got %d checks at once; want 3", most)
		}
	}))

	t.Run("max_checks in turn", virtual(func(t *testing.T) {
		// All are due again before a third of them could be checked: none is passed over.
		const resources = 100
		s := newSite(t, "hold 10m 0%\ninterval 1s\nmax_checks 3")
		s.backend.say(slowly(time.Second, tagged("1")))
		var all []*client
		for i := range resources {
			all = append(all, s.get(fmt.Sprint("/", i), has("1")))
		}
		settle(10 * resources / 3 * time.Second)
		checks := make(map[string]int)
		for _, e := range s.backend.exchanges() {
			checks[e.uri]++
		}
		least, most := slices.Min(slices.Collect(maps.Values(checks))), slices.Max(slices.Collect(maps.Values(checks)))
		if len(checks) != resources || least < 9 || most > 11 {
			t.Errorf("%d of %d resources were checked, between %d and %d times each; want about 10", len(checks), resources, least, most)
		}
		for _, c := range all {
			c.mustWait()
		}
	}))

	t.Run("a client that comes again and again", virtual(func(t *testing.T) {
		// Each of its polls is short, but they are no reason to check more often.
		s := newSite(t, steady)
		for range 100 {
			s.get("/", has("1"), "Prefer: wait=0.1").answer()
		}
		if n := s.backend.checks(); n > 12 {
			t.Errorf("got %d checks in %v; want one per interval", n, s.now())
		}
	}))
}

func TestRule2NoLostChange(t *testing.T) {
	t.Run("between two polls", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.get("/").wants("200 answered state 1")
		s.backend.say(tagged("2"))
		// The state that is remembered is the one that the client has.
		c := s.get("/", has("1"))
		c.wants("200 changed state 2").within(0, 1100*time.Millisecond)
	}))

	t.Run("long before the poll", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.get("/").wants("200 answered state 1")
		s.backend.say(tagged("2"))
		settle(10 * time.Second)
		s.get("/", has("1")).wants("200 changed state 2").within(0, 0)
	}))

	t.Run("before the first poll", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("2"))
		s.get("/", has("1")).wants("200 answered state 2").within(0, 0)
	}))

	t.Run("while it is parked", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		for i := range 20 {
			c := s.get("/", has(strconv.Itoa(i+1)))
			if i == 0 {
				c.mustWait()
			}
			settle(time.Duration(i) * 170 * time.Millisecond)
			s.backend.say(tagged(strconv.Itoa(i + 2)))
			at := time.Now()
			c.wants("200 changed state " + strconv.Itoa(i+2))
			if late := time.Since(at); late > 1100*time.Millisecond {
				t.Errorf("change %d came %v late", i, late)
			}
		}
	}))

	t.Run("a backend that is rolled back", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("2"))
		c := s.get("/", has("2"))
		c.mustWait()
		s.backend.say(tagged("1"))
		c.wants("200 changed state 1")
	}))

	// A slow backend looks at its state first and then takes a second to say it.
	type moment struct {
		name  string
		at    time.Duration // after the check has begun
		wait  time.Duration // at most, after the wake-up
		count int           // checks after the wake-up, that in flight included
	}
	for _, m := range []moment{
		{"a wake-up before a check", -3 * time.Second, time.Second, 1},
		{"a wake-up as a check begins", 0, 2 * time.Second, 2},
		{"a wake-up during a check", 500 * time.Millisecond, 1500 * time.Millisecond, 2},
		{"a wake-up after a check", 1001 * time.Millisecond, time.Second, 1},
	} {
		t.Run(m.name, virtual(func(t *testing.T) {
			s := newSite(t, "hold 2h 0%\ninterval 10m")
			var state atomic.Value
			state.Store("1")
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				return slowly(time.Second, tagged(state.Load().(string)))(w, r)
			})
			c := s.get("/", has("1"))
			settle(time.Minute)
			if m.at >= 0 {
				s.wake("/")
				synctest.Wait() // it has begun
				settle(m.at)
			}
			before := s.backend.checks()
			if now, _ := s.backend.inFlight(); now > 0 {
				before--
			}
			state.Store("2")
			s.wake("/")
			at := time.Now()
			c.wants("200 changed state 2")
			if late := time.Since(at); late > m.wait {
				t.Errorf("came %v late; want at most %v", late, m.wait)
			}
			if n := s.backend.checks() - before; n != m.count {
				t.Errorf("got %d checks; want %d", n, m.count)
			}
		}))
	}

	t.Run("a wake-up while nobody waits", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 1h")
		s.get("/").wants("200 answered state 1")
		s.backend.say(tagged("2"))
		s.wake("/")
		settle(time.Second)
		if n := s.backend.checks(); n != 1 {
			t.Errorf("got %d checks; want none while nobody waits", n)
		}
		s.get("/", has("1")).wants("200 changed state 2").within(0, 0)
	}))

	t.Run("a wake-up between the change and the loss of it", virtual(func(t *testing.T) {
		// An answer that is the same again is no change, however often it was another
		// in between: nobody has to see each.
		s := newSite(t, "hold 25s 0%\ninterval 1h")
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(tagged("2"))
		s.backend.say(tagged("1"))
		s.wake("/")
		c.wants("304 expired")
	}))

	t.Run("each client gets every change that stays", virtual(func(t *testing.T) {
		s := newSite(t, "hold 5s")
		const changes = 30
		lost := make(chan string, 100)
		for range 20 {
			go func() {
				seen, latest := 0, 0
				for latest < changes {
					time.Sleep(time.Duration(rand.Int64N(int64(100 * time.Millisecond))))
					c := s.get("/", has(strconv.Itoa(latest))).answer()
					if c.w.status != http.StatusOK {
						continue
					}
					fmt.Sscanf(c.w.body.String(), "state %d", &latest)
					seen++
				}
				if seen != changes {
					lost <- fmt.Sprintf("a client saw %d of %d changes", seen, changes)
				}
				lost <- ""
			}()
		}
		for i := range changes {
			s.backend.say(tagged(strconv.Itoa(i + 1)))
			// An interval with its jitter, and the pause of the slowest client.
			time.Sleep(1300 * time.Millisecond)
			if i%3 == 0 {
				s.wake("/")
			}
		}
		for range 20 {
			for text := <-lost; text != ""; text = <-lost {
				t.Error(text)
			}
		}
	}))

	t.Run("a new poller goes on where the last one stopped", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		for i := range 50 {
			c := s.get("/", has("1"), "Prefer: wait="+strconv.Itoa(i%3+1))
			settle(time.Duration(i) * 29 * time.Millisecond)
			c.leave()
			synctest.Wait()
		}
		c := s.get("/", has("1"))
		settle(100 * time.Millisecond)
		s.backend.say(tagged("2"))
		c.wants("200 changed state 2").within(0, 1200*time.Millisecond)
	}))
}

func TestRule3NeverOlderThanTheQuestion(t *testing.T) {
	t.Run("a client without a version", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 10s")
		s.get("/", has("1")).mustWait()
		s.backend.say(tagged("2"))
		s.get("/").wants("200 answered state 2").within(0, 0)
	}))

	t.Run("a client that is ahead", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 1h")
		behind := s.get("/", has("1"))
		behind.mustWait()
		s.backend.say(tagged("2"))
		ahead := s.get("/", has("2"))
		behind.wants("200 changed state 2")
		ahead.mustWait()
		ahead.wants("304 expired").within(25*time.Second, 25*time.Second)
	}))

	t.Run("a check that began before the question", virtual(func(t *testing.T) {
		for _, fields := range [][]string{nil, {has("0")}, {has("2")}} {
			s := newSite(t, "hold 25s 0%\ninterval 1h")
			var state atomic.Value
			state.Store("1")
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				return slowly(time.Second, tagged(state.Load().(string)))(w, r)
			})
			early := s.get("/")
			settle(500 * time.Millisecond)
			state.Store("2")
			late := s.get("/", fields...)
			early.wants("200 answered state 1").within(time.Second, time.Second)
			if len(fields) > 0 && fields[0] == has("2") {
				settle(10 * time.Second)
				late.mustWait()
				late.leave()
				continue
			}
			late.wants("200 answered state 2").within(1500*time.Millisecond, 1500*time.Millisecond)
		}
	}))

	t.Run("at the very instant of the check", virtual(func(t *testing.T) {
		// In virtual time a hundred checks begin in the same nanosecond.
		s := newSite(t, steady)
		for i := range 100 {
			s.backend.say(tagged(strconv.Itoa(i)))
			s.get("/").wants("200 answered state " + strconv.Itoa(i))
		}
	}))

	t.Run("wait 0 is no licence to guess", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 10s")
		s.get("/", has("1")).mustWait()
		s.backend.say(tagged("2"))
		s.get("/", has("1"), "Prefer: wait=0").wants("200 answered state 2").within(0, 0)
		s.get("/", has("2"), "Prefer: wait=0").wants("304 answered").within(0, 0)
	}))

	t.Run("freshness allows an age", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\nfreshness 3s")
		s.get("/").wants("200 answered state 1")
		s.backend.say(tagged("2"))
		settle(2 * time.Second)
		s.get("/").wants("200 answered state 1")
		settle(2 * time.Second)
		s.get("/").wants("200 answered state 2")
	}))

	t.Run("what expires is not made up", virtual(func(t *testing.T) {
		// The answer to a client that is held by what it is told, and not by what
		// it has, was read after it asked.
		s := newSite(t, "hold 10s 0%\ninterval 1h\nhold_while {lp.header.X-Pending} is yes")
		s.backend.say(reply(http.StatusOK, "1", "X-Pending: yes"))
		first := s.get("/")
		settle(9500 * time.Millisecond)
		second := s.get("/")
		second.mustWait()
		first.wants("200 expired 1")
		settle(time.Millisecond)
		s.backend.say(reply(http.StatusOK, "2", "X-Pending: yes"))
		second.wants("200 expired 2").within(10*time.Second, 10*time.Second)
	}))

	t.Run("what the client has named is not made up", virtual(func(t *testing.T) {
		s := newSite(t, "hold 10s 0%\ninterval 1h")
		s.get("/").wants("200 answered state 1")
		s.get("/", has("1")).wants("304 expired").within(10*time.Second, 10*time.Second)
		if n := s.backend.checks(); n != 1 {
			t.Errorf("got %d checks; want 1", n)
		}
	}))
}

func TestRule4NoAnswerCrossesCredentials(t *testing.T) {
	// Whoever differs in one of these must not get the other's answer, and does
	// not wait for the other's check.
	base := func() *http.Request { return newRequest("POST", "http://a.example/x?q=1", "body") }
	guises := map[string]func(r *http.Request) *http.Request{
		"method": func(*http.Request) *http.Request { return newRequest("PUT", "http://a.example/x?q=1", "body") },
		"host":   func(*http.Request) *http.Request { return newRequest("POST", "http://b.example/x?q=1", "body") },
		"path":   func(*http.Request) *http.Request { return newRequest("POST", "http://a.example/y?q=1", "body") },
		"escaped path": func(*http.Request) *http.Request {
			return newRequest("POST", "http://a.example/x%2f?q=1", "body")
		},
		"query":     func(*http.Request) *http.Request { return newRequest("POST", "http://a.example/x?q=2", "body") },
		"no query":  func(*http.Request) *http.Request { return newRequest("POST", "http://a.example/x", "body") },
		"body":      func(*http.Request) *http.Request { return newRequest("POST", "http://a.example/x?q=1", "other") },
		"no body":   func(*http.Request) *http.Request { return newRequest("POST", "http://a.example/x?q=1", "") },
		"two lines": func(r *http.Request) *http.Request { r.Header["Cookie"] = []string{"a", "b"}; return r },
		"one line":  func(r *http.Request) *http.Request { r.Header["Cookie"] = []string{"ab"}; return r },
		"empty":     func(r *http.Request) *http.Request { r.Header["Cookie"] = []string{""}; return r },
	}
	for _, name := range []string{"Authorization", "Cookie", "Accept", "Accept-Encoding", "Accept-Language", "Content-Type", "X-Vary"} {
		guises[name] = func(r *http.Request) *http.Request { r.Header.Set(name, "other"); return r }
	}
	for name, guise := range guises {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, "hold 25s 0%\nmethods POST PUT\nvary x-vary\nfreshness 1h")
			var n atomic.Int32
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				return reply(http.StatusOK, fmt.Sprint(n.Add(1)))(w, r)
			})
			s.send(base()).wants("200 answered 1")
			s.send(guise(base())).wants("200 answered 2")
			s.send(guise(base())).wants("200 answered 2") // shared with its like
			s.send(base()).wants("200 answered 1")
		}))
	}

	t.Run("a check bears the credentials of those who wait", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(byField("Authorization", map[string]caddyhttp.HandlerFunc{
			"a": tagged("a1"), "b": tagged("b1"), "": reply(http.StatusUnauthorized, ""),
		}))
		s.get("/", "Authorization: a").wants("200 answered state a1")
		s.get("/", "Authorization: b").wants("200 answered state b1")
		s.get("/").wants("401 answered ")
		a, b := s.get("/", "Authorization: a", has("a1")), s.get("/", "Authorization: b", has("b1"))
		a.mustWait()
		b.mustWait()
		s.backend.say(byField("Authorization", map[string]caddyhttp.HandlerFunc{
			"a": tagged("a2"), "b": tagged("b1"),
		}))
		a.wants("200 changed state a2")
		b.wants("304 expired")
	}))

	t.Run("credentials that are withdrawn", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		c := s.get("/", "Authorization: a", has("1"))
		c.mustWait()
		s.backend.say(reply(http.StatusForbidden, "no more", `ETag: "1"`))
		c.wants("403 changed no more")
	}))
}

func TestRule5NobodyLeavesAMark(t *testing.T) {
	t.Run("the client whose check it is", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(slowly(2*time.Second, tagged("1")))
		first := s.get("/")
		settle(time.Second)
		second := s.get("/")
		settle(0)
		first.leave()
		first.wants("499 left").within(time.Second, time.Second)
		second.wants("200 answered state 1").within(3*time.Second, 3*time.Second)
	}))

	t.Run("the client whose check it is leaves alone", virtual(func(t *testing.T) {
		// Its check still ends well, and who comes next has the good of it.
		s := newSite(t, "hold 25s 0%\nfreshness 1m")
		s.backend.say(slowly(2*time.Second, tagged("1")))
		first := s.get("/")
		settle(time.Second)
		first.leave()
		settle(2 * time.Second)
		s.get("/").wants("200 answered state 1").within(0, 0)
	}))

	t.Run("thousands", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 2s")
		stays := s.get("/", has("1"))
		stays.mustWait()
		for range 2000 {
			c := s.get("/", has("1"))
			if rand.IntN(2) == 0 {
				c.mustWait()
			}
			c.leave()
		}
		settle(10 * time.Second)
		if n := s.backend.checks(); n > 6 {
			t.Errorf("got %d checks in 10s; want one per interval", n)
		}
		s.backend.say(tagged("2"))
		at := time.Now()
		stays.wants("200 changed state 2")
		if late := time.Since(at); late > 2200*time.Millisecond {
			t.Errorf("the change came %v late", late)
		}
	}))

	t.Run("all", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\nlinger 30s")
		var all []*client
		for i := range 300 {
			all = append(all, s.get(fmt.Sprintf("/%d", i%100), has("1")))
		}
		synctest.Wait()
		if s.lot.Parked() != 300 || s.lot.Len() != 100 {
			t.Errorf("got %d parked on %d resources; want 300 on 100", s.lot.Parked(), s.lot.Len())
		}
		for _, c := range all {
			c.leave()
			c.wants("499 left")
		}
		synctest.Wait()
		if s.lot.Parked() != 0 || s.lot.Len() != 100 {
			t.Errorf("got %d parked on %d resources; want none, and that they linger", s.lot.Parked(), s.lot.Len())
		}
		settle(29 * time.Second)
		if s.lot.Len() != 100 {
			t.Errorf("got %d resources after 29s; want that they linger", s.lot.Len())
		}
		settle(time.Second)
		if s.lot.Len() != 0 || len(s.lot.Resources()) != 0 {
			t.Errorf("got %d resources after linger; want none", s.lot.Len())
		}
	}))

	t.Run("linger 0", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\nlinger 0s")
		s.get("/", has("1")).wants("304 expired")
		synctest.Wait()
		if s.lot.Len() != 0 {
			t.Errorf("got %d resources; want none", s.lot.Len())
		}
	}))

	t.Run("nor a poller", virtual(func(t *testing.T) {
		s := newSite(t, "hold 10m 0%\ninterval 1m")
		var all []*client
		for i := range 100 {
			all = append(all, s.get(fmt.Sprint("/", i%10), has("1")))
		}
		checked := func(want int) {
			t.Helper()
			synctest.Wait()
			if n := s.backend.checks(); n != want {
				t.Errorf("got %d checks; want %d", n, want)
			}
			if n := len(stacks("(*Handler).poll(")); n != 0 {
				t.Errorf("got %d goroutines between two checks", n)
			}
		}
		checked(10)
		settle(time.Minute + 6*time.Second)
		checked(20)
		for _, c := range all {
			c.leave()
		}
		settle(5 * time.Minute)
		checked(20)
		if n := len(stacks("caddy-longpoll.(*Handler)")); n != 0 {
			t.Errorf("got %d goroutines when all have left", n)
		}
	}))

	t.Run("before anything is known", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(hung)
		for range 100 {
			c := s.get("/")
			c.mustWait()
			c.leave()
			c.wants("499 left")
		}
		// The one check that they share ends at check_timeout.
		settle(11 * time.Second)
		if now, most := s.backend.inFlight(); now != 0 || most != 1 {
			t.Errorf("got %d checks in flight, %d at once; want none, and 1", now, most)
		}
	}))
}

func TestRule6OnTime(t *testing.T) {
	letGo := make(map[string]chan struct{})
	for name, says := range map[string]caddyhttp.HandlerFunc{
		"hangs":       hung,
		"is deaf":     nil,
		"is slow":     slowly(8*time.Second, tagged("1")),
		"unreachable": unreachable,
		"aborts":      aborted,
		"is silent":   silent,
		"crashes":     crashing,
		"fails":       reply(http.StatusInternalServerError, ""),
	} {
		t.Run("when the backend "+name, virtual(func(t *testing.T) {
			if says == nil {
				letGo[name] = make(chan struct{})
				defer close(letGo[name])
				says = deaf(letGo[name])
			}
			s := newSite(t, "hold 25s 0%\ncheck_timeout 5s")
			c := s.get("/", has("1"))
			short := s.get("/", has("1"), "Prefer: wait=3")
			settle(1500 * time.Millisecond)
			s.backend.say(says)
			short.wants("304 expired").within(3*time.Second, 3*time.Second)
			c.wants("304 expired").within(25*time.Second, 25*time.Second)
			// One that is not parked yet does not wait for longer than a check.
			late := s.get("/", has("0"))
			late.within(0, 10*time.Second)
			if late.w.status < 500 && name != "is slow" {
				t.Errorf("got %v; want the backend's error", late)
			}
		}))
	}

	t.Run("a hung check ends at check_timeout", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ncheck_timeout 5s")
		s.backend.say(hung)
		c := s.get("/")
		settle(time.Second)
		s.backend.say(tagged("1"))
		c.wants("504 failed").within(5*time.Second, 5*time.Second)
		s.get("/").wants("200 answered state 1").within(0, 0)
	}))

	t.Run("deaf checks do not pile up", virtual(func(t *testing.T) {
		stop := make(chan struct{})
		s := newSite(t, "hold 25s 0%\ncheck_timeout 1s\nmax_checks 4")
		s.backend.say(deaf(stop))
		for i := range 20 {
			s.get(fmt.Sprintf("/%d", i)).within(0, 26*time.Second)
		}
		if now, most := s.backend.inFlight(); now > 4 || most > 4 {
			t.Errorf("got %d checks in flight, %d at once; want 4 at most", now, most)
		}
		close(stop)
		s.backend.say(tagged("1"))
		settle(time.Minute)
		s.get("/").wants("200 answered state 1")
	}))

	t.Run("the server's write_timeout", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.server.WriteTimeout = caddy.Duration(5 * time.Second)
		r := newRequest(http.MethodGet, "/", "", has("1"))
		s.before = func(w http.ResponseWriter, _ *http.Request) {
			w.(*response).SetWriteDeadline(time.Now().Add(5 * time.Second))
		}
		c := s.send(r)
		settle(10 * time.Second)
		if at := c.w.writeDeadline(); !at.IsZero() {
			t.Errorf("got write deadline %v; want that a parked request has none", at.Sub(c.began))
		}
		c.wants("304 expired").within(25*time.Second, 25*time.Second)
		if at := c.w.writeDeadline(); !at.Equal(c.began.Add(30 * time.Second)) {
			t.Errorf("got write deadline %v; want write_timeout from the answer on", at.Sub(c.began))
		}
	}))

	t.Run("the server's idle timeouts", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		reader := &caddyhttp.IdleTimeoutReader{}
		writer := &caddyhttp.IdleTimeoutWriter{}
		reader.Deadline.HardDeadline = time.Now().Add(5 * time.Second)
		writer.Deadline.HardDeadline = time.Now().Add(5 * time.Second)
		writer.Deadline.Start = time.Now()
		r := newRequest(http.MethodGet, "/", "", has("1"))
		r = r.WithContext(caddyhttp.ContextWithIdleTimeouts(r.Context(), reader, writer))
		c := s.send(r)
		c.mustWait()
		if !reader.Deadline.HardDeadline.IsZero() || !writer.Deadline.HardDeadline.IsZero() {
			t.Errorf("got hard deadlines %v and %v; want none while it is parked", reader.Deadline.HardDeadline, writer.Deadline.HardDeadline)
		}
		c.wants("304 expired")
		if !writer.Deadline.Start.Equal(c.began.Add(25 * time.Second)) {
			t.Errorf("got a rate that is counted from %v; want from the answer on", writer.Deadline.Start.Sub(c.began))
		}
	}))
}

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
			at := time.Now()
			late := s.get("/", since)
			late.wants(strconv.Itoa(f.status) + " failed")
			if d := time.Since(at); d > 4*time.Second {
				t.Errorf("a request that is not parked got the error after %v; want it at once", d)
			}
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
			s.get("/").wants("200 answered state 1").within(0, 0)
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
		s.get("/").wants("200 answered state 1")
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(unreachable)
		c.wants("502 failed").within(5*time.Second, 5*time.Second)
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
		s.get("/").wants("200 answered state 1")
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
		s.get("/").wants("200 answered state 1")
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
		s.get("/").wants("200 bypassed state 1").within(0, 0)
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
		fresh := s.get("/")
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
		s.get("/").wants("200 answered state 1")
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
			all = append(all, s.get("/", has("1"), fmt.Sprint("X-Tenant: ", i%20)))
		}
		settle(500 * time.Millisecond)
		s.backend.say(tagged("1", "Vary: X-Tenant"))
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

func TestRule9BoundsHold(t *testing.T) {
	t.Run("max_parked", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\nmax_parked 10")
		var parked []*client
		for i := range 10 {
			parked = append(parked, s.get(fmt.Sprintf("/%d", i%3), has("1")))
		}
		synctest.Wait()
		after := make(map[string]bool)
		for i := range 100 {
			c := s.get(fmt.Sprintf("/%d", i%5), has("1")).wants("503 refused").within(0, 0)
			n, err := strconv.Atoi(c.field("Retry-After"))
			if err != nil || n < 1 {
				t.Errorf("got Retry-After %q; want seconds", c.field("Retry-After"))
			}
			after[c.field("Retry-After")] = true
		}
		if len(after) < 5 {
			t.Errorf("got Retry-After %v for 100 clients; want that it differs", after)
		}
		// Who need not park is answered as ever.
		s.get("/0").wants("200 answered state 1").within(0, 0)
		s.get("/7").wants("200 answered state 1").within(0, 0)
		s.get("/0", has("0")).wants("200 answered state 1").within(0, 0)
		s.get("/0", has("1"), "Wait: 0").wants("304 answered").within(0, 0)
		if s.lot.Parked() != 10 {
			t.Errorf("got %d parked; want 10", s.lot.Parked())
		}
		if n := s.logs.FilterMessage("refusing requests").Len(); n != 1 {
			t.Errorf("got %d logs of the bound; want 1", n)
		}
		// There is room again when one leaves.
		parked[0].leave()
		parked[0].answer()
		late := s.get("/9", has("1"))
		late.mustWait()
		for _, c := range parked[1:] {
			c.wants("304 expired").within(25*time.Second, 25*time.Second)
		}
		late.wants("304 expired")
	}))

	t.Run("who is refused does not miss a change for ever", virtual(func(t *testing.T) {
		s := newSite(t, "hold 1h 0%\nmax_parked 1")
		parked := s.get("/parked", has("1"))
		parked.mustWait()
		s.get("/").wants("200 answered state 1")
		s.backend.say(tagged("2"))
		parked.wants("200 changed state 2")
		parked = s.get("/parked", has("2"))
		parked.mustWait()
		// It is polled all the time, but nobody is parked on it.
		for range 20 {
			c := s.get("/", has("1")).answer()
			if c.w.status == http.StatusOK {
				c.wants("200 answered state 2")
				parked.leave()
				return
			}
			settle(5 * time.Second)
		}
		parked.leave()
		t.Error("a client that is refused each time never learns of the change")
	}))

	t.Run("max_parked_per_client", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\nmax_parked_per_client 2")
		from := func(addr, target string) *client {
			r := newRequest(http.MethodGet, target, "", has("1"))
			r.RemoteAddr = addr
			return s.send(r)
		}
		a1, a2 := from("192.0.2.1:1000", "/"), from("192.0.2.1:2000", "/other")
		a1.mustWait()
		a2.mustWait()
		from("192.0.2.1:3000", "/").wants("503 refused").within(0, 0)
		b := from("192.0.2.2:1000", "/")
		b.mustWait()
		a1.leave()
		a1.answer()
		a3 := from("192.0.2.1:3000", "/")
		a3.mustWait()
		a2.wants("304 expired")
		a3.wants("304 expired")
		b.wants("304 expired")
	}))

	t.Run("max_resources", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\nmax_resources 2")
		a, b := s.get("/a", has("1")), s.get("/b", has("1"))
		a.mustWait()
		b.mustWait()
		c := s.get("/c", has("1")).wants("503 refused").within(0, 0)
		if c.field("Retry-After") == "" {
			t.Error("got no Retry-After")
		}
		s.get("/c").wants("200 answered state 1").within(0, 0)
		s.get("/a", has("1"), "Prefer: wait=1").wants("304 expired")
		if s.lot.Len() != 2 {
			t.Errorf("got %d resources; want 2", s.lot.Len())
		}
		// One that lingers makes room.
		b.leave()
		b.answer()
		d := s.get("/d", has("1"))
		d.mustWait()
		if s.lot.Len() != 2 {
			t.Errorf("got %d resources; want 2", s.lot.Len())
		}
		a.wants("304 expired")
		d.wants("304 expired")
	}))

	t.Run("a request's body", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\nmethods POST\nmax_body 10B")
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error { return reply(200, "ok")(w, r) })
		big := strings.Repeat("x", 11)
		s.post("/", big).wants("200 bypassed ok")
		if got := s.backend.last().body; got != big {
			t.Errorf("got body %q; want all of it", got)
		}
		r := newRequest(http.MethodPost, "/", big)
		r.ContentLength = -1
		s.send(r).wants("200 bypassed ok")
		if got := s.backend.last().body; got != big {
			t.Errorf("got body %q; want all of it", got)
		}
		s.post("/", "0123456789").wants("200 answered ok")
		if got := s.backend.last().body; got != "0123456789" {
			t.Errorf("got body %q; want all of it", got)
		}
	}))
}

func TestRule10ACheckBorrowsNothing(t *testing.T) {
	// Each test here is also one for the race detector: what a request leaves
	// behind is written to when it has ended (see site.send).
	t.Run("it outlives the request", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		var cancelled atomic.Bool
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			for range 20 {
				select {
				case <-time.After(100 * time.Millisecond):
				case <-r.Context().Done():
					cancelled.Store(true)
				}
				// What handlers read of a request.
				repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
				repl.ReplaceAll("{http.request.uri} {http.request.header.X} {http.vars.a} {http.request.orig_uri} {custom}", "")
				for name := range r.Header {
					_ = r.Header.Get(name)
				}
				caddyhttp.SetVar(r.Context(), "b", "2")
			}
			return tagged("1")(w, r)
		})
		s.before = func(w http.ResponseWriter, r *http.Request) {
			caddyhttp.SetVar(r.Context(), "a", "1")
			r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("custom", "value")
			w.Header().Set("Server", "Caddy")
		}
		for range 3 {
			first := s.get("/", "X: y")
			settle(time.Second)
			second := s.get("/", "X: z")
			settle(0)
			first.leave()
			first.wants("499 left")
			second.wants("200 answered state 1")
		}
		if cancelled.Load() {
			t.Error("a check was cancelled when a client left")
		}
	}))

	t.Run("it is a request of its own", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		var inner *http.Request
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			inner = r
			repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			got := repl.ReplaceAll("{http.request.uri} {http.request.orig_uri.path} {http.vars.a} {custom} {http.request.header.X}", "")
			r.Header.Set("X", "spoiled")
			r.URL.Path = "/spoiled"
			caddyhttp.SetVar(r.Context(), "a", "spoiled")
			repl.Set("custom", "spoiled")
			return reply(http.StatusOK, got, `ETag: "`+got+`"`)(w, r)
		})
		s.before = func(w http.ResponseWriter, r *http.Request) {
			caddyhttp.SetVar(r.Context(), "a", "1")
			r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("custom", "value")
			r.URL.Path = "/rewritten"
		}
		const want = "/rewritten?q /original 1 value x"
		c := s.get("/original?q", "X: x").wants("200 answered " + want)
		if inner.Context() == c.r.Context() || inner == c.r {
			t.Error("the check ran on the client's request")
		}
		// The second and the third check are like the first.
		c = s.get("/original?q", "X: x", `If-None-Match: "`+want+`"`)
		settle(5 * time.Second)
		c.mustWait()
		c.wants("304 expired")
	}))

	t.Run("it writes nothing to the client", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Link", "</a>")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			w.Header().Set("X-Late", "yes")
			w.WriteHeader(http.StatusOK)
			w.Header().Set("X-Too-Late", "yes")
			io.WriteString(w, "x")
			return http.NewResponseController(w).Flush()
		})
		c := s.get("/").wants("200 answered x").wantsField("X-Late", "yes").wantsField("X-Too-Late", "").wantsField("Link", "")
		if len(c.w.informed) > 0 {
			t.Errorf("got informational answers %v", c.w.informed)
		}
	}))

	t.Run("headers do not pile up", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.before = func(w http.ResponseWriter, r *http.Request) { w.Header().Add("X-Before", "1") }
		s.backend.say(tagged("1", "X-Backend: 1"))
		c := s.get("/", has("1"))
		settle(5 * time.Second)
		s.backend.say(tagged("2", "X-Backend: 2"))
		c.wants("200 changed state 2").wantsField("X-Before", "1").wantsField("X-Backend", "2").wantsField("ETag", `"2"`)
	}))

	t.Run("it knows the server", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		var got any
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			got = r.Context().Value(http.ServerContextKey)
			return tagged("1")(w, r)
		})
		server := new(http.Server)
		r := newRequest(http.MethodGet, "/", "")
		s.send(r.WithContext(context.WithValue(r.Context(), http.ServerContextKey, server))).wants("200 answered state 1")
		if got != server {
			t.Errorf("got server %v in a check; want that of the client", got)
		}
	}))

	t.Run("a client's deadline is not that of the check", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(slowly(3*time.Second, tagged("1")))
		r := newRequest(http.MethodGet, "/", "")
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		first := s.send(r.WithContext(ctx))
		settle(0)
		second := s.get("/")
		first.wants("499 left").within(time.Second, time.Second)
		second.wants("200 answered state 1").within(3*time.Second, 6*time.Second)
	}))
}

// TestSweep has every number of waiters, each of them leaving at each of several
// moments, wake-ups before, during and after a check or none, and a reload at each
// of these points or none. What holds in all of these is what the rules say.
//
// A check takes a second, and reads the state as it begins: the first from 0 to 1,
// while nobody is parked yet. At 2 the state becomes another.
func TestSweep(t *testing.T) {
	const never = time.Hour
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	wakes := map[string]struct {
		at []time.Duration
		by time.Duration // when everybody has the change
	}{
		"no wake-up":              {nil, ms(7500)},
		"wake-up before a check":  {[]time.Duration{ms(3000)}, ms(4000)},
		"wake-up during a check":  {[]time.Duration{ms(1500), ms(2200)}, ms(3500)},
		"wake-up after a check":   {[]time.Duration{ms(1500), ms(2600)}, ms(3600)},
		"wake-up before parking":  {[]time.Duration{ms(500)}, ms(8500)},
		"wake-up for each moment": {[]time.Duration{ms(500), ms(1500), ms(2000), ms(2200), ms(2500), ms(3000)}, ms(4000)},
	}
	leaves := []time.Duration{ms(300), ms(1200), ms(2300)}
	drains := []time.Duration{never, 0, ms(500), ms(1000), ms(1700), ms(2100), ms(2500), ms(3200), ms(6700)}

	for name, wake := range wakes {
		for waiters := range 4 {
			waiters++
			t.Run(fmt.Sprint(name, ", ", waiters, " waiters"), virtual(func(t *testing.T) {
				for leaver := range waiters + 1 { // one more: nobody leaves
					for _, leaveAt := range leaves {
						for _, drainAt := range drains {
							p := plan{waiters, leaver, leaveAt, wake.at, drainAt, wake.by}
							p.run(t)
						}
						if leaver == waiters {
							break
						}
					}
				}
			}))
		}
	}
}

// plan is one case of the sweep.
type plan struct {
	waiters int
	leaver  int
	leaveAt time.Duration
	wakes   []time.Duration
	drainAt time.Duration
	by      time.Duration
}

func (p plan) run(t *testing.T) {
	t.Helper()
	s := newSite(t, "hold 20s 0%\ninterval 5s\nlinger 30s")
	var state atomic.Value
	state.Store("1")
	s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
		return slowly(time.Second, tagged(state.Load().(string)))(w, r)
	})
	var all []*client
	for range p.waiters {
		all = append(all, s.get("/", has("1")))
	}
	time.AfterFunc(2*time.Second, func() { state.Store("2") })
	for _, at := range p.wakes {
		time.AfterFunc(at, func() { s.wake("/") })
	}
	time.AfterFunc(p.drainAt, s.drain)
	if p.leaver < p.waiters {
		time.AfterFunc(p.leaveAt, all[p.leaver].leave)
	}

	for i, c := range all {
		<-c.done
		got, drained := c.String(), p.drainAt <= c.took
		switch {
		case i == p.leaver && got == "499 left" && c.took == p.leaveAt:
		case got == "200 changed state 2" && c.took <= p.by && c.took > 2*time.Second:
		case drained && got == "304 drained" && c.took <= p.drainAt+time.Second:
		// It was not parked yet, and has asked for itself.
		case drained && strings.HasPrefix(got, "200 bypassed state ") && c.took <= p.drainAt+2*time.Second:
		case drained && got == "304 bypassed" && c.took <= p.drainAt+2*time.Second:
		default:
			t.Errorf("%+v: client %d got %q after %v", p, i, got, c.took)
		}
	}
	if _, most := s.backend.inFlight(); most > 1 && p.drainAt == time.Hour {
		t.Errorf("%+v: got %d checks at once", p, most)
	}
	if s.lot.Parked() != 0 {
		t.Errorf("%+v: got %d parked when all have gone", p, s.lot.Parked())
	}
	settle(10 * time.Second)
	n := s.backend.checks()
	settle(time.Minute)
	if more := s.backend.checks() - n; more != 0 || s.lot.Len() != 0 {
		t.Errorf("%+v: got %d checks and %d resources when all have gone", p, more, s.lot.Len())
	}
}
