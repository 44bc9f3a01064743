package contract_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

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
		s.get("/0", waits(5)).wants("200 answered state 1").within(0, 0)
		s.get("/7", waits(5)).wants("200 answered state 1").within(0, 0)
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
		s.get("/", waits(5)).wants("200 answered state 1")
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
		s.get("/c", waits(5)).wants("200 answered state 1").within(0, 0)
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
		s.post("/", big, waits(5)).wants("200 bypassed ok")
		if got := s.backend.last().body; got != big {
			t.Errorf("got body %q; want all of it", got)
		}
		r := newRequest(http.MethodPost, "/", big, waits(5))
		r.ContentLength = -1
		s.send(r).wants("200 bypassed ok")
		if got := s.backend.last().body; got != big {
			t.Errorf("got body %q; want all of it", got)
		}
		s.post("/", "0123456789", waits(5)).wants("200 answered ok")
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
			first := s.get("/", waits(9), "Referer: y")
			settle(time.Second)
			second := s.get("/", waits(9), "Referer: z")
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
		c := s.get("/original?q", "X: x", waits(9)).wants("200 answered " + want)
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
		c := s.get("/", waits(9)).wants("200 answered x").wantsField("X-Late", "yes").wantsField("X-Too-Late", "").wantsField("Link", "")
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
		withoutServer(t)
		s := newSite(t, steady)
		var got any
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			got = r.Context().Value(http.ServerContextKey)
			return tagged("1")(w, r)
		})
		server := new(http.Server)
		r := newRequest(http.MethodGet, "/", "", waits(9))
		s.send(r.WithContext(context.WithValue(r.Context(), http.ServerContextKey, server))).wants("200 answered state 1")
		if got != server {
			t.Errorf("got server %v in a check; want that of the client", got)
		}
	}))

	t.Run("a client's deadline is not that of the check", virtual(func(t *testing.T) {
		withoutServer(t)
		s := newSite(t, steady)
		s.backend.say(slowly(3*time.Second, tagged("1")))
		r := newRequest(http.MethodGet, "/", "", waits(9))
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		first := s.send(r.WithContext(ctx))
		settle(0)
		second := s.get("/", waits(9))
		first.wants("499 left").within(time.Second, time.Second)
		second.wants("200 answered state 1").within(3*time.Second, 6*time.Second)
	}))
}
