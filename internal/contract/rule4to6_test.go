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
