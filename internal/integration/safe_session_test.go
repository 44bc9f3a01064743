package integration_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// testGatesBehind has those who authenticate clients stand behind long_poll: who is
// nobody to them gets nothing, whoever is parked.
func testGatesBehind(t *testing.T, caddy binary) {
	see := &recall{see: func(r *http.Request) string { return "user " + r.Header.Get("X-User") }}
	b := serveBackend(t, see)
	gate := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cookie, err := r.Cookie("session")
		name, known := map[string]string{"alice's": "alice", "bob's": "bob"}[fmt.Sprint(cookie)[strings.Index(fmt.Sprint(cookie), "=")+1:]]
		if err != nil || !known || r.Header.Get("X-Forwarded-Method") == "" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-User", name)
	}))
	basic, forward := freePort(t), freePort(t)
	const poll = "\t\tlong_poll {\n\t\t\tinterval 100ms\n\t\t}\n"
	s := caddy.start(t, "", site(basic, "\troute {\n"+poll+accounts+"\n\t\treverse_proxy "+b.addr+" {\n\t\t\theader_up X-User {http.auth.user.id}\n\t\t}\n\t}\n")+
		site(forward, "\troute {\n"+poll+"\t\tforward_auth "+gate.addr+" {\n\t\t\turi /verify\n\t\t\tcopy_headers X-User\n\t\t}\n\t\treverse_proxy "+b.addr+"\n\t}\n"))
	s.wantLooks(t)

	for name, by := range map[string]struct{ port, alice, bob, eve string }{
		"basic_auth":   {basic, asAlice, asBob, asEve},
		"forward_auth": {forward, "Cookie: session=alice's", "Cookie: session=bob's", "Cookie: session=eve's"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, by.port)
			see.set("before " + name)
			alice := c.get("/", by.alice, "Prefer: wait=20").want(t, 200, "answered").wantBody(t, "user alice, before "+name)
			bob := c.get("/", by.bob).want(t, 200, "answered").wantBody(t, "user bob, before "+name)
			version := "If-None-Match: " + alice.header.Get("ETag")
			parked := []*pending{c.poll("/", by.alice, version), c.poll("/", by.bob, "If-None-Match: "+bob.header.Get("ETag"))}
			s.waitParked(len(parked))
			for _, fields := range [][]string{{version}, {version, by.eve}, {"Prefer: wait=20"}, {by.eve}, {}, {version, "X-User: alice"}} {
				if r := c.get("/", fields...); r.status != 401 || strings.Contains(r.body, "user") {
					t.Errorf("with %q: got %v, want 401", fields, r)
				}
			}
			see.waitChecks(t, "user alice")
			see.waitChecks(t, "user bob")
			wantWaiting(t, parked)
			see.set("after " + name)
			parked[0].wait().want(t, 200, "changed").wantBody(t, "user alice, after "+name)
			parked[1].wait().want(t, 200, "changed").wantBody(t, "user bob, after "+name)
		})
	}
}

// testSessionsOfAddresses has a backend bind each session to the address and the
// User-Agent that it was begun with, and end it when it is used from elsewhere. The
// backend learns the address as it does without us: from Caddy, from a proxy that
// Caddy trusts, or from one that reverse_proxy trusts.
func testSessionsOfAddresses(t *testing.T, caddy binary) {
	var mu sync.Mutex
	bound, value := make(map[string]string), "one"
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		sid, err := r.Cookie("sid")
		from := r.Header.Get("X-Forwarded-For") + " " + r.UserAgent()
		switch {
		case err != nil:
			w.WriteHeader(http.StatusUnauthorized)
			return
		case bound[sid.Value] == "":
			bound[sid.Value] = from
		case bound[sid.Value] != from:
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "the session of %q is used by %q", bound[sid.Value], from)
			return
		}
		w.Header().Set("ETag", `"`+value+`"`)
		fmt.Fprintf(w, "%s of %s", value, sid.Value)
	}))
	open, trusted, proxied := freePort(t), freePort(t), freePort(t)
	const poll = "\tlong_poll {\n\t\tinterval 100ms\n\t}\n"
	s := caddy.start(t, "\tservers 127.0.0.1:"+trusted+" {\n\t\ttrusted_proxies static 127.0.0.1/32\n\t}\n",
		site(open, poll+"\treverse_proxy "+b.addr)+site(trusted, poll+"\treverse_proxy "+b.addr)+
			site(proxied, poll+"\treverse_proxy "+b.addr+" {\n\t\ttrusted_proxies 127.0.0.1/32\n\t}\n"))

	for name, port := range map[string]string{"open": open, "trusted": trusted, "trusted by reverse_proxy": proxied} {
		t.Run(name, func(t *testing.T) {
			var all []*pending
			for i := range 3 {
				c, fields := newClient(t, port), []string{fmt.Sprintf("Cookie: sid=%s/%d/%016d", strings.ReplaceAll(name, " ", "-"), i, i), fmt.Sprintf("User-Agent: Agent/%d", i)}
				if name == "open" {
					c = newClientAt(t, net.IPv4(127, 0, 0, byte(i+1)).String(), port)
				} else {
					fields = append(fields, fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", i+1))
				}
				c.get("/", fields...).want(t, 200, "answered")
				c.get("/", append(fields, "Prefer: wait=20")...).want(t, 200, "answered")
				mu.Lock()
				version := `If-None-Match: "` + value + `"`
				mu.Unlock()
				all = append(all, c.poll("/", append(fields, version)...))
				s.waitParked(len(all))
			}
			asked := b.asked.Load()
			waitFor(t, "checks", func() bool { return b.asked.Load() > asked+6 })
			wantWaiting(t, all)
			mu.Lock()
			value = "news of " + name
			mu.Unlock()
			for i, p := range all {
				p.wait().want(t, 200, "changed").wantBody(t, fmt.Sprintf("news of %s of %s/%d/%016d", name, strings.ReplaceAll(name, " ", "-"), i, i))
			}
			s.waitParked(0)
		})
	}
}
