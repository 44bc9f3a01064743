package contract_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

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
	guises["Accept-Encoding"] = func(r *http.Request) *http.Request { r.Header.Set("Accept-Encoding", "gzip, br"); return r }
	for _, name := range []string{"Authorization", "Cookie", "Accept", "Accept-Language", "Content-Type", "X-Vary"} {
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
		s.get("/", "Authorization: a", waits(5)).wants("200 answered state a1")
		s.get("/", "Authorization: b", waits(5)).wants("200 answered state b1")
		s.get("/", waits(5)).wants("401 answered ")
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
		first := s.get("/", waits(5))
		settle(time.Second)
		second := s.get("/", waits(5))
		settle(0)
		first.leave()
		first.wants("499 left").within(time.Second, time.Second)
		second.wants("200 answered state 1").within(3*time.Second, 3*time.Second)
	}))

	t.Run("the client whose check it is leaves alone", virtual(func(t *testing.T) {
		// Its check ends with it, and is nobody's failure: who comes next is checked for.
		s := newSite(t, steady)
		s.backend.say(slowly(2*time.Second, tagged("1")))
		first := s.get("/", waits(5))
		settle(time.Second)
		first.leave()
		synctest.Wait()
		if now, _ := s.backend.inFlight(); now != 0 {
			t.Errorf("got %d checks in flight; want none that nobody waits for", now)
		}
		s.get("/", waits(5)).wants("200 answered state 1").within(2*time.Second, 2*time.Second)
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
			if n := len(stacks("(*poller).turn(")); n != 0 {
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
			c := s.get("/", waits(5))
			c.mustWait()
			c.leave()
			c.wants("499 left").within(0, 0)
			synctest.Wait()
			if now, most := s.backend.inFlight(); now != 0 || most != 1 {
				t.Fatalf("got %d checks in flight, %d at once; want none, and 1", now, most)
			}
		}
		if n := s.lot.Len(); n != 1 {
			t.Errorf("got %d resources; want 1", n)
		}
	}))

	// Who leaves at once leaves nothing in the way of others, whatever the backend does
	// to the path that was asked for: not among the checks, and not of a resource that
	// has a wake-up due.
	for name, says := range map[string]caddyhttp.HandlerFunc{"hangs": hung, "is slow": slowly(time.Minute, tagged("1"))} {
		t.Run("a burst to a path that "+name, virtual(func(t *testing.T) {
			s := newSite(t, steady) // 64 checks at once
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				if r.URL.Path == "/fast" {
					return tagged("1")(w, r)
				}
				return says(w, r)
			})
			for i := range 3 * 64 {
				fields := [][]string{{waits(5)}, {has("1")}, {}}[i%3]
				c := s.get(fmt.Sprint("/slow/", i), fields...)
				if i%2 == 0 {
					synctest.Wait()
				}
				c.leave()
			}
			s.get("/fast", waits(5)).wants("200 answered state 1").within(0, 0)
			s.get("/fast", has("1"), waits(5)).wants("304 expired")
			if now, _ := s.backend.inFlight(); now != 0 {
				t.Errorf("got %d requests to the backend in flight when all have left", now)
			}
		}))
	}

	t.Run("a place that is waited for in vain", virtual(func(t *testing.T) {
		// Who waits for one of the places, and leaves, leaves the queue too.
		s := newSite(t, steady+"max_checks 1")
		s.backend.say(slowly(2*time.Second, tagged("1")))
		first := s.get("/a", waits(5))
		synctest.Wait()
		var all []*client
		for i := range 50 {
			all = append(all, s.get(fmt.Sprint("/b/", i), waits(5)))
		}
		synctest.Wait()
		last := s.get("/c", waits(5))
		synctest.Wait()
		for _, c := range all {
			c.leave()
		}
		first.wants("200 answered state 1").within(2*time.Second, 2*time.Second)
		last.wants("200 answered state 1").within(4*time.Second, 4*time.Second)
		if n := s.backend.checks(); n != 2 {
			t.Errorf("got %d checks; want none for those who had left", n)
		}
	}))

	t.Run("a place is free when its handlers have returned", virtual(func(t *testing.T) {
		letGo := make(chan struct{})
		s := newSite(t, steady+"max_checks 1")
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			if r.URL.Path == "/deaf" {
				<-letGo
				return nil
			}
			return tagged("1")(w, r)
		})
		c := s.get("/deaf", waits(5))
		c.mustWait()
		c.leave()
		other := s.get("/other", waits(20))
		settle(3 * time.Second)
		other.mustWait() // the backend is still at it
		close(letGo)
		other.wants("200 answered state 1").within(3*time.Second, 3*time.Second)
	}))

	t.Run("a check that was given up is no failure", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("1"))
		s.get("/", waits(5)).wants("200 answered state 1")
		s.backend.say(hung)
		for range 5 {
			c := s.get("/", waits(5))
			c.mustWait()
			c.leave()
			c.wants("499 left")
		}
		s.backend.say(tagged("2"))
		s.get("/", waits(5)).wants("200 answered state 2").within(0, 0)
		s.wantsTold(t, nil)
		if r := s.lot.Resources()[0].Snapshot(); r.Failed() {
			t.Errorf("got fault %+v", r.Fault)
		}
	}))

	t.Run("a wake-up outlives the check that was given up", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 1h")
		c := s.get("/", has("1"))
		settle(time.Second)
		s.backend.say(hung)
		s.wake("/")
		settle(time.Second)
		c.leave()
		s.backend.say(tagged("2"))
		settle(time.Second)
		s.get("/", has("1")).wants("200 changed state 2").within(0, 0)
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
		c := s.get("/", waits(5))
		settle(time.Second)
		s.backend.say(tagged("1"))
		c.wants("504 failed").within(5*time.Second, 5*time.Second)
		s.get("/", waits(5)).wants("504 failed").within(0, 0) // until the pause is over
		settle(1100 * time.Millisecond)
		s.get("/", waits(5)).wants("200 answered state 1").within(0, 0)
	}))

	t.Run("deaf checks do not pile up", virtual(func(t *testing.T) {
		stop := make(chan struct{})
		s := newSite(t, "hold 25s 0%\ncheck_timeout 1s\nmax_checks 4")
		s.backend.say(deaf(stop))
		for i := range 20 {
			s.get(fmt.Sprintf("/%d", i), waits(5)).within(0, 26*time.Second)
		}
		if now, most := s.backend.inFlight(); now > 4 || most > 4 {
			t.Errorf("got %d checks in flight, %d at once; want 4 at most", now, most)
		}
		close(stop)
		s.backend.say(tagged("1"))
		settle(time.Minute)
		s.get("/", waits(5)).wants("200 answered state 1")
	}))

	t.Run("the server's write_timeout", virtual(func(t *testing.T) {
		withoutServer(t)
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

	t.Run("a poll that moves to another resource", virtual(func(t *testing.T) {
		// Its time counts from its arrival, wherever it waits.
		s := newSite(t, steady)
		s.backend.say(slowly(2*time.Second, tagged("1", "Vary: User-Agent")))
		all := []*client{s.get("/", has("1"), "User-Agent: a"), s.get("/", has("1"), "User-Agent: b"), s.get("/", has("1"), waits(7), "User-Agent: c")}
		settle(10 * time.Second)
		s.backend.say(hung)
		all[0].wants("304 expired").within(25*time.Second, 25*time.Second)
		all[1].wants("304 expired").within(25*time.Second, 25*time.Second)
		all[2].wants("304 expired").within(7*time.Second, 7*time.Second)
	}))

	t.Run("the server's timeouts and an ordinary request", virtual(func(t *testing.T) {
		withoutServer(t)
		// They are its own, as without us.
		s := newSite(t, steady)
		s.server.WriteTimeout = caddy.Duration(5 * time.Second)
		at := time.Now().Add(5 * time.Second)
		s.before = func(w http.ResponseWriter, _ *http.Request) { w.(*response).SetWriteDeadline(at) }
		s.backend.say(slowly(time.Second, reply(200, "x")))
		if c := s.get("/").wants("200 answered x"); !c.w.writeDeadline().Equal(at) {
			t.Errorf("got write deadline %v; want it as it was", c.w.writeDeadline().Sub(c.began))
		}
	}))

	t.Run("the server's idle timeouts", virtual(func(t *testing.T) {
		withoutServer(t)
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
