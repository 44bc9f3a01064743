package contract_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
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
			all = append(all, s.get("/", waits(5)))
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
		first := s.get("/", waits(5))
		settle(500 * time.Millisecond)
		var all []*client
		for range 100 {
			all = append(all, s.get("/", waits(5)))
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
			all = append(all, s.get(fmt.Sprintf("/%d", i), waits(5)))
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
		s.get("/", waits(5)).wants("200 answered state 1")
		s.backend.say(tagged("2"))
		// The state that is remembered is the one that the client has.
		c := s.get("/", has("1"))
		c.wants("200 changed state 2").within(0, 1100*time.Millisecond)
	}))

	t.Run("long before the poll", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.get("/", waits(5)).wants("200 answered state 1")
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
		s.get("/", waits(5)).wants("200 answered state 1")
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
		s.get("/", waits(5)).wants("200 answered state 2").within(0, 0)
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
		for _, fields := range [][]string{{waits(5)}, {has("0")}, {has("2")}} {
			s := newSite(t, "hold 25s 0%\ninterval 1h")
			var state atomic.Value
			state.Store("1")
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				return slowly(time.Second, tagged(state.Load().(string)))(w, r)
			})
			early := s.get("/", waits(5))
			settle(500 * time.Millisecond)
			state.Store("2")
			late := s.get("/", fields...)
			early.wants("200 answered state 1").within(time.Second, time.Second)
			if fields[0] == has("2") {
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
			s.get("/", waits(5)).wants("200 answered state "+strconv.Itoa(i)).within(0, 0)
			s.get("/", waits(5)).wants("200 answered state "+strconv.Itoa(i)).within(0, 0) // or it were restless
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
		s.get("/", waits(5)).wants("200 answered state 1")
		s.backend.say(tagged("2"))
		settle(2 * time.Second)
		s.get("/", waits(5)).wants("200 answered state 1")
		settle(2 * time.Second)
		s.get("/", waits(5)).wants("200 answered state 2")
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

	t.Run("what an ordinary request has seen is nobody else's", virtual(func(t *testing.T) {
		s := newSite(t, "hold 10s 0%\ninterval 1h")
		s.backend.say(tagged("2"))
		s.get("/").wants("200 answered state 2")
		s.backend.say(tagged("1")) // rolled back
		s.get("/", has("2")).wants("200 answered state 1").within(0, 0)
		s.get("/").wants("200 answered state 1")
		s.backend.say(tagged("2"))
		s.get("/").wants("200 answered state 2")
		s.get("/", waits(5)).wants("200 answered state 2").within(0, 0)
	}))

	t.Run("freshness allows no more than its age", virtual(func(t *testing.T) {
		// Whoever asks: a browser's revalidation, one that waits, one that does not.
		for _, fields := range [][]string{nil, {waits(5)}, {browser}, {browser, has("0")}, {has("0")}, {has("0"), waits(0)}} {
			s := newSite(t, "hold 25s 0%\nfreshness 3s")
			s.get("/").wants("200 answered state 1")
			s.backend.say(tagged("2"))
			settle(3 * time.Second)
			s.get("/", fields...).wants("200 answered state 1").within(0, 0)
			settle(1)
			s.get("/", fields...).wants("200 answered state 2").within(0, 0)
		}
	}))

	t.Run("nor an error", virtual(func(t *testing.T) {
		// The state that is known from before is no answer to who asks during an outage.
		s := newSite(t, "hold 25s 0%\ninterval 10s")
		s.get("/", waits(5)).wants("200 answered state 1")
		s.backend.say(reply(503, "later"))
		for _, fields := range [][]string{{waits(5)}, {has("0")}, {has("1"), waits(0)}, {browser, waits(5)}} {
			s.get("/", fields...).wants("503 failed later").within(0, 0)
		}
		if n := s.backend.checks(); n != 2 {
			t.Errorf("got %d checks; want one that failed", n)
		}
	}))

	t.Run("during a check that is given up", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 1h")
		s.backend.say(hung)
		c := s.get("/", waits(5))
		settle(time.Second)
		s.backend.say(tagged("2"))
		c.leave()
		c.answer()
		s.get("/", has("1")).wants("200 answered state 2").within(0, 0)
	}))

	t.Run("what the client has named is not made up", virtual(func(t *testing.T) {
		s := newSite(t, "hold 10s 0%\ninterval 1h")
		s.get("/", waits(5)).wants("200 answered state 1")
		s.get("/", has("1")).wants("304 expired").within(10*time.Second, 10*time.Second)
		if n := s.backend.checks(); n != 1 {
			t.Errorf("got %d checks; want 1", n)
		}
	}))
}
