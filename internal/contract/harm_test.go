package contract_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// What one client can do to another.

// What handlers in front have set for one client, and handlers behind add to, as
// reverse_proxy does with what the backend says, is for that client alone.
func TestFieldsOfOneClientThatAreAddedTo(t *testing.T) {
	const nonces = "Content-Security-Policy-Report-Only"
	front := func(s *site) {
		n := 0
		s.before = func(w http.ResponseWriter, _ *http.Request) {
			n++
			w.Header().Set("X-Client", fmt.Sprint("client ", n))
			w.Header().Set(nonces, fmt.Sprint("nonce-", n))
		}
	}
	added := []string{"X-Client: behind", nonces + ": script-src 'self'"}

	t.Run("of an answer", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		front(s)
		s.backend.say(tagged("1", added...))
		one, two := s.get("/", has("1")), s.get("/", has("1"))
		settle(2 * time.Second)
		s.backend.say(tagged("2", added...))
		one.wants("200 changed state 2").wantsField("X-Client", "client 1 | behind").wantsField(nonces, "nonce-1 | script-src 'self'")
		two.wants("200 changed state 2").wantsField("X-Client", "client 2 | behind").wantsField(nonces, "nonce-2 | script-src 'self'")
	}))

	t.Run("of a 304", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		front(s)
		s.backend.say(tagged("1", added...))
		one, two := s.get("/", has("1"), waits(5)), s.get("/", has("1"), waits(5))
		one.wants("304 expired").wantsField("X-Client", "client 1 | behind")
		two.wants("304 expired").wantsField("X-Client", "client 2 | behind")
	}))

	t.Run("with a configured body", virtual(func(t *testing.T) {
		s := newSite(t, steady+"on_change 200 yes")
		n := 0
		s.before = func(w http.ResponseWriter, _ *http.Request) {
			n++
			w.Header().Set("Access-Control-Expose-Headers", fmt.Sprint("X-", n))
		}
		s.backend.say(tagged("1", "Access-Control-Expose-Headers: ETag"))
		one, two := s.get("/", has("0")), s.get("/", has("0"))
		one.wants("200 answered yes").wantsField("Access-Control-Expose-Headers", "X-1 | ETag")
		two.wants("200 answered yes").wantsField("Access-Control-Expose-Headers", "X-2 | ETag")
	}))
}

// A cache in front of Caddy must not answer polls, whoever has told it to (contract 5).
func TestSharedCachesThatHandlersInFrontSpeakTo(t *testing.T) {
	for name, says := range map[string]string{"and the backend to others": "Cache-Control: no-cache", "and nobody else": "X-Nothing: 1"} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.before = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("CDN-Cache-Control", "max-age=60")
				w.Header().Set("Surrogate-Control", "max-age=60")
			}
			s.backend.say(tagged("1", says))
			for _, c := range []*client{s.get("/", waits(5)), s.get("/", has("1"), waits(5))} {
				c.wantsField("CDN-Cache-Control", "").wantsField("Surrogate-Control", "").wantsField("Cache-Control", "no-cache")
			}
		}))
	}

	t.Run("by a field that the backend adds to", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.before = func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Cache-Control", "max-age=3600") }
		s.backend.say(tagged("1", "Cache-Control: must-revalidate"))
		s.get("/", waits(5)).wants("200 answered state 1").wantsField("Cache-Control", "no-cache")
		s.get("/", has("1"), waits(5)).wants("304 expired").wantsField("Cache-Control", "no-cache")
	}))
}

// An answer that was made of more placeholders than are remembered is for who it was
// made for: nobody can tell any more whose else it is.
func TestRule4MorePlaceholdersThanAreRemembered(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.before = func(_ http.ResponseWriter, r *http.Request) {
			r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("tenant", r.Header.Get("Sec-Tenant"))
		}
		s.backend.say(slowly(time.Second, func(w http.ResponseWriter, r *http.Request) error {
			repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			for i := range 200 {
				repl.Get(fmt.Sprint("unknown.", i))
			}
			return reply(200, "for "+repl.ReplaceAll("{tenant}", "nobody"))(w, r)
		}))
		for range 3 {
			for i, told := range together(s, []string{"Sec-Tenant: a"}, []string{"Sec-Tenant: b"}, []string{"Sec-Tenant: c"}) {
				if want := "for " + string(rune('a'+i)); told != want {
					t.Errorf("poll %d got %q; want %q", i, told, want)
				}
			}
		}
	})(t)
}

// A var that is a list is compared as one.
func TestRule4VarsThatAreLists(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady)
		roles := map[string][]string{"a": {"user", "admin"}, "b": {"user admin"}}
		s.before = func(_ http.ResponseWriter, r *http.Request) {
			caddyhttp.SetVar(r.Context(), "roles", roles[r.Header.Get("Sec-Who")])
		}
		s.backend.say(slowly(time.Second, func(w http.ResponseWriter, r *http.Request) error {
			return reply(200, fmt.Sprintf("%q", caddyhttp.GetVar(r.Context(), "roles")))(w, r)
		}))
		told := together(s, []string{"Sec-Who: a"}, []string{"Sec-Who: b"})
		if told[0] != `["user" "admin"]` || told[1] != `["user admin"]` {
			t.Errorf("got %v", told)
		}
	})(t)
}

// The address that early data comes from may be forged (RFC 9001, section 9.2). Who looks
// at it behind us says 425, and has to see that it is early: a check would vouch for it.
func TestEarlyDataVouchesForNoAddress(t *testing.T) {
	early := func(fields ...string) *http.Request {
		r := newRequest("GET", "https://a.example/", "", fields...)
		r.TLS = &tls.ConnectionState{ServerName: "a.example", HandshakeComplete: false}
		return r
	}
	says := func(w http.ResponseWriter, r *http.Request) error {
		if !r.TLS.HandshakeComplete && r.RemoteAddr != "" {
			return caddyhttp.Error(http.StatusTooEarly, io.EOF)
		}
		return tagged("1")(w, r)
	}
	for block, want := range map[string]string{
		"vary client_ip": "425 bypassed",
		"":               "200 answered state 1",
	} {
		t.Run(block, virtual(func(t *testing.T) {
			s := newSite(t, steady+block)
			s.backend.say(says)
			s.send(early(waits(5))).wants(want)
			s.send(early(has("0"))).wants(want)
			r := early(has("1"), waits(5))
			r.TLS.HandshakeComplete = true
			s.send(r).wants("304 expired")
		}))
	}
}

// A page that a browser asks for over plain HTTP, where it says no Sec-Fetch-Dest, is a
// page all the same (contract 3.1): it neither waits nor gets what keeps it out of the
// browser's history.
func TestPagesOverPlainHTTP(t *testing.T) {
	page := []string{"User-Agent: Mozilla/5.0", "Accept: text/html,*/*;q=0.8", "Upgrade-Insecure-Requests: 1"}
	for _, block := range []string{"", "unversioned park", "freshness 1m", "hold_while {lp.status} is 200", "since {query.since}"} {
		t.Run(block, virtual(func(t *testing.T) {
			s := newSite(t, steady+block)
			s.backend.say(reply(200, "<html>", "Content-Type: text/html"))
			s.get("/?since=1", page...).wants("200 bypassed <html>").within(0, 0).wantsField("ETag", "").wantsField("Cache-Control", "")
			c := s.get("/", append(page, "Sec-Fetch-Dest: empty", waits(0))...) // a script can set no such field, but a proxy may
			c.answer()
			if got := c.outcome(); got == "bypassed" {
				t.Errorf("got %v", c)
			}
		}))
	}
}

// An error has the fields that its handlers have set, in a check too: without a
// challenge nobody logs in, and a 405 says what is allowed.
func TestFieldsOfErrors(t *testing.T) {
	says := func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Www-Authenticate", `Basic realm="a"`)
		w.Header().Add("Set-Cookie", "behind=1")
		return caddyhttp.Error(http.StatusUnauthorized, io.EOF)
	}
	for name, fields := range map[string][]string{"an ordinary request": nil, "a poll": {waits(5)}, "another": {has("1")}} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			n := 0
			s.before = func(w http.ResponseWriter, _ *http.Request) {
				n++
				w.Header().Set("X-Client", fmt.Sprint(n))
			}
			s.backend.say(says)
			for i := range 2 {
				c := s.get("/", fields...).wants("401 answered").wantsField("Www-Authenticate", `Basic realm="a"`)
				c.wantsField("X-Client", fmt.Sprint(i+1))
				if fields != nil {
					c.wantsField("Set-Cookie", "")
				}
			}
		}))
	}
}
