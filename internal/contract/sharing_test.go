package contract_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Rule 4 of the contract in detail: who shares an answer.

// counted answers with what the request's fields say and how often they were
// asked for, so that a shared answer is told from a second one.
func counted(names []string, fields ...string) caddyhttp.HandlerFunc {
	var mu sync.Mutex
	count := make(map[string]int)
	return func(w http.ResponseWriter, r *http.Request) error {
		var who []string
		for _, name := range names {
			who = append(who, r.Header.Get(name))
		}
		guise := strings.Join(who, ",")
		mu.Lock()
		count[guise]++
		n := count[guise]
		mu.Unlock()
		return reply(200, guise+strconv.Itoa(n), fields...)(w, r)
	}
}

func TestVary(t *testing.T) {
	const fresh = steady + "freshness 1h\n"

	t.Run("a field that the backend names", virtual(func(t *testing.T) {
		s := newSite(t, fresh)
		s.backend.say(counted([]string{"Referer"}, "Vary: Referer"))
		for range 3 {
			s.get("/", "Referer: a").wants("200 answered a1")
			s.get("/", "Referer: b").wants("200 answered b1")
			s.get("/").wants("200 answered 1")
			s.get("/", "Referer: a", "User-Agent: x").wants("200 answered a1")
		}
	}))

	t.Run("of several lines, in any case", virtual(func(t *testing.T) {
		s := newSite(t, fresh)
		s.backend.say(counted([]string{"Referer", "From"}, "Vary: accept-encoding , referer", "Vary: From"))
		s.get("/", "Referer: 1", "From: 1").wants("200 answered 1,11")
		s.get("/", "Referer: 1", "From: 2").wants("200 answered 1,21")
		s.get("/", "Referer: 2", "From: 1").wants("200 answered 2,11")
		s.get("/", "Referer: 1", "From: 1").wants("200 answered 1,11")
	}))

	t.Run("what is learnt holds for other queries", virtual(func(t *testing.T) {
		s := newSite(t, fresh)
		s.backend.say(counted([]string{"Referer"}, "Vary: Referer"))
		s.get("/?1", "Referer: a").wants("200 answered a1")
		s.get("/?2", "Referer: a").wants("200 answered a2")
		s.get("/?2", "Referer: b").wants("200 answered b1")
		s.get("/?1", "Referer: a").wants("200 answered a1")
	}))

	t.Run("concurrent clients before anything is known", virtual(func(t *testing.T) {
		const tenants, each = 8, 25
		s := newSite(t, steady)
		flying := make(map[string]int)
		var mu sync.Mutex
		var state atomic.Int32
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			tenant := r.Header.Get("Referer")
			mu.Lock()
			if flying[tenant]++; flying[tenant] > 1 {
				t.Errorf("got %d checks for tenant %s at once", flying[tenant], tenant)
			}
			mu.Unlock()
			v := fmt.Sprint(tenant, "-", state.Load())
			time.Sleep(100 * time.Millisecond)
			mu.Lock()
			flying[tenant]--
			mu.Unlock()
			return reply(200, v, `ETag: "`+v+`"`, "Vary: Referer")(w, r)
		})
		ask := func(format string) (all []*client) {
			for range each {
				for i := range tenants {
					all = append(all, s.get("/", fmt.Sprint("Referer: ", i), fmt.Sprintf(format, i)))
				}
			}
			return all
		}
		for i, c := range ask("Wait: 1%d") {
			c.wants(fmt.Sprintf("200 answered %d-0", i%tenants)).within(0, time.Second)
		}
		parked := ask(`If-None-Match: "%d-0"`)
		settle(5 * time.Second)
		for _, c := range parked {
			c.mustWait()
		}
		// The first check was made for all, and so on behalf of none of them.
		if n := s.lot.Len(); n != tenants+1 {
			t.Errorf("got %d resources; want one for each of %d tenants, and one", n, tenants)
		}
		before := s.backend.checks()
		settle(10 * time.Second)
		if n := s.backend.checks() - before; n > tenants*10 {
			t.Errorf("got %d checks of %d tenants in 10s", n, tenants)
		}
		state.Store(1)
		for i, c := range parked {
			c.wants(fmt.Sprintf("200 changed %d-1", i%tenants))
		}
	}))

	t.Run("concurrent clients of two, one of whom has changed", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(byField("Referer", map[string]caddyhttp.HandlerFunc{
			"a": tagged("a1", "Vary: Referer"), "b": tagged("b1", "Vary: Referer"), "": tagged("0", "Vary: Referer"),
		}))
		a, b := s.get("/", "Referer: a", has("a1")), s.get("/", "Referer: b", has("b1"))
		settle(3 * time.Second)
		a.mustWait()
		b.mustWait()
		s.backend.say(byField("Referer", map[string]caddyhttp.HandlerFunc{
			"a": tagged("a2", "Vary: Referer"), "b": tagged("b1", "Vary: Referer"), "": tagged("0", "Vary: Referer"),
		}))
		a.wants("200 changed state a2")
		b.wants("304 expired")
	}))

	t.Run("that is named only while they are parked", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		var all []*client
		for i := range 6 {
			all = append(all, s.get("/", fmt.Sprint("Referer: ", i%2), has("1")))
		}
		settle(3 * time.Second)
		s.backend.say(byField("Referer", map[string]caddyhttp.HandlerFunc{
			"0": tagged("1", "Vary: Referer"), "1": tagged("2", "Vary: Referer"), "": tagged("0", "Vary: Referer"),
		}))
		for i, c := range all {
			if i%2 == 1 {
				c.wants("200 changed state 2").within(3*time.Second, 5*time.Second)
				c.wantsField("Long-Poll", fmt.Sprintf("changed;held=%.3f", c.took.Seconds()))
			}
		}
		for i, c := range all {
			if i%2 == 0 {
				c.wants("304 expired").wantsField("Long-Poll", "expired;held=25.000")
			}
		}
	}))

	t.Run("that is another each time", virtual(func(t *testing.T) {
		s := newSite(t, fresh)
		var n atomic.Int32
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			i := n.Add(1)
			return reply(200, r.Header.Get("Referer"), fmt.Sprintf("Vary: X-%d, Referer", i))(w, r)
		})
		for range 3 {
			for _, who := range []string{"a", "b"} {
				c := s.get("/", "Referer: "+who, fmt.Sprintf("X-%d: %s", n.Load(), who)).answer()
				if c.w.status != 200 || c.w.body.String() != who {
					t.Errorf("got %v; want %s", c, who)
				}
			}
		}
	}))

	t.Run("everything", virtual(func(t *testing.T) {
		s := newSite(t, fresh)
		s.backend.say(counted(nil, "Vary: *"))
		seen := make(map[string]bool)
		for range 5 {
			seen[s.get("/").answer().w.body.String()] = true
		}
		var all []*client
		for range 5 {
			all = append(all, s.get("/"))
		}
		for _, c := range all {
			seen[c.answer().w.body.String()] = true
		}
		if len(seen) != 10 {
			t.Errorf("got %d answers for 10 requests: %v", len(seen), seen)
		}
	}))

	t.Run("everything, parked", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("1", "Vary: *"))
		a, b := s.get("/", has("1")), s.get("/", has("1"))
		settle(3 * time.Second)
		a.mustWait()
		b.mustWait()
		s.backend.say(tagged("2", "Vary: *", "Set-Cookie: a=b"))
		a.wants("200 changed state 2").wantsField("Set-Cookie", "")
		b.wants("200 changed state 2").wantsField("Set-Cookie", "")
		settle(time.Minute)
		if n := s.lot.Len(); n != 0 {
			t.Errorf("got %d resources; want that they are forgotten", n)
		}
	}))

	t.Run("vary", virtual(func(t *testing.T) {
		s := newSite(t, fresh+"vary x-tenant X-Other")
		s.backend.say(counted([]string{"X-Tenant"}))
		for range 2 {
			s.get("/", "X-Tenant: a").wants("200 answered a1")
			s.get("/", "X-Tenant: b").wants("200 answered b1")
		}
		s.get("/", "X-Tenant: a", "X-Other: x").wants("200 answered a2")
	}))

	t.Run("fields that may be credentials", virtual(func(t *testing.T) {
		for _, name := range []string{"X-Api-Key", "X-Auth-Token", "X-Session-Id", "Api-Key", "Proxy-Authorization"} {
			s := newSite(t, fresh)
			s.backend.say(counted([]string{name}))
			s.get("/", name+": a").wants("200 answered a1")
			s.get("/", name+": b").wants("200 answered b1")
			s.get("/", name+": a").wants("200 answered a1")
		}
	}))
}

func TestKey(t *testing.T) {
	t.Run("tells consumers apart", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1h\nkey {query.consumer} {cookie.lane}\nstrip_query consumer")
		s.backend.say(counted(nil))
		s.get("/?consumer=a").wants("200 answered 1")
		s.get("/?consumer=b").wants("200 answered 2")
		s.get("/?consumer=a").wants("200 answered 1")
	}))

	t.Run("its values do not run into one another", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1h\nkey {query.a} {query.b}\nstrip_query a b")
		s.backend.say(counted(nil))
		s.get("/?a=xy").wants("200 answered 1")
		s.get("/?b=xy").wants("200 answered 2")
		s.get("/?a=x&b=y").wants("200 answered 3")
	}))
}

func TestPublic(t *testing.T) {
	t.Run("one for all", virtual(func(t *testing.T) {
		s := newSite(t, steady+"public")
		var all []*client
		for i := range 50 {
			all = append(all, s.get("/", fmt.Sprint("Authorization: ", i), fmt.Sprint("Cookie: ", i), has("1")))
		}
		settle(10 * time.Second)
		if n := s.backend.checks(); n > 11 {
			t.Errorf("got %d checks; want one for all", n)
		}
		s.backend.say(tagged("2"))
		for _, c := range all {
			c.wants("200 changed state 2")
		}
	}))

	for name, field := range map[string]string{"private": "Cache-Control: private", "Vary": "Vary: Authorization"} {
		t.Run("but "+name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"public\nfreshness 1h")
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				return reply(200, "for "+r.Header.Get("Authorization"), field)(w, r)
			})
			var all []*client
			for i := range 6 {
				all = append(all, s.get("/", fmt.Sprint("Authorization: ", i%3)))
			}
			for i, c := range all {
				c.wants(fmt.Sprintf("200 %s for %d", c.answer().outcome(), i%3))
			}
			s.get("/").wants("200 answered for ")
			s.get("/", "Authorization: 1").wants("200 answered for 1")
		}))
	}
}

func TestPrivate(t *testing.T) {
	t.Run("is shared by who shares credentials", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1h")
		s.backend.say(counted([]string{"Cookie"}, "Cache-Control: private"))
		for range 2 {
			s.get("/", "Cookie: a").wants("200 answered a1")
			s.get("/", "Cookie: b").wants("200 answered b1")
		}
	}))

	t.Run("client certificates", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1h")
		s.backend.say(counted(nil))
		with := func(cert string) *client {
			r := newRequest(http.MethodGet, "https://a.example/", "")
			r.TLS = &tls.ConnectionState{}
			if cert != "" {
				r.TLS.PeerCertificates = []*x509.Certificate{{Raw: []byte(cert)}}
			}
			return s.send(r)
		}
		for range 2 {
			with("a").wants("200 answered 1")
			with("b").wants("200 answered 2")
			with("").wants("200 answered 3")
		}
	}))

	t.Run("users that a handler has found out", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1h")
		s.backend.say(counted(nil))
		s.before = func(w http.ResponseWriter, r *http.Request) {
			r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("http.auth.user.id", r.Header.Get("X-User"))
		}
		for range 2 {
			s.get("/", "X-User: a").wants("200 answered 1")
			s.get("/", "X-User: b").wants("200 answered 2")
		}
	}))

	t.Run("schemes", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1h")
		s.backend.say(counted(nil))
		secure := newRequest(http.MethodGet, "http://a.example/", "")
		secure.TLS = &tls.ConnectionState{}
		s.get("http://a.example/").wants("200 answered 1")
		s.send(secure).wants("200 answered 2")
	}))

	t.Run("the case of the host", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1h")
		s.backend.say(counted(nil))
		s.get("http://a.example/").wants("200 answered 1")
		s.get("http://A.Example/").wants("200 answered 1")
	}))
}
