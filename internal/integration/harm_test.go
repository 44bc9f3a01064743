package integration_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestHarm has clients of one site do to one another what they can, through handlers of
// Caddy's own in front of long_poll and behind it.
func TestHarm(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	caddy := buildCaddy(t)
	for name, test := range map[string]func(*testing.T, binary){
		"addresses that requests come to":       testLocalAddresses,
		"fields in front that are added behind": testFieldsAddedBehind,
		"fields of the answer, read behind":     testFieldsReadBehind,
		"authentication behind":                 testAuthenticationBehind,
		"two handlers of ours":                  testTwoHandlers,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, caddy)
		})
	}
}

// testLocalAddresses has one client come to each of two addresses, by one name: what
// stands behind sees to which, in checks too.
func testLocalAddresses(t *testing.T, caddy binary) {
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(200 * time.Millisecond): // so that both could share
		case <-r.Context().Done():
		}
		fmt.Fprint(w, "at ", r.Header.Get("X-Local"))
	}))
	port := freePort(t)
	caddy.start(t, "", fmt.Sprintf(`http://127.0.0.1:%s {
	bind 127.0.0.1 127.0.0.2
	long_poll /api/*
	@inside vars {http.request.local.host} 127.0.0.2
	respond @inside "inside"
	reverse_proxy %s {
		header_up X-Local {http.request.local}
	}
}
`, port, b.addr))
	outside, inside := newClient(t, port), newClient(t, port)
	inside.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort("127.0.0.2", port))
	}
	for range 2 {
		out, in := outside.poll("/api/x", "Prefer: wait=20"), inside.poll("/api/x", "Prefer: wait=20")
		out.wait().want(t, 200, "answered").wantBody(t, "at 127.0.0.1:"+port)
		in.wait().want(t, 200, "answered").wantBody(t, "inside")
	}
}

// testFieldsAddedBehind has a handler in front say something to each client alone, in a
// field that the backend uses too.
func testFieldsAddedBehind(t *testing.T, caddy binary) {
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(200 * time.Millisecond): // so that all could share
		case <-r.Context().Done():
		}
		w.Header().Set("X-Trace", "backend")
		w.Header().Set("ETag", `"1"`)
		fmt.Fprint(w, "one")
	}))
	port := freePort(t)
	caddy.start(t, "", site(port, `
	header X-Trace {http.request.header.User-Agent}
	long_poll /api/*
	reverse_proxy `+b.addr))
	c := newClient(t, port)
	for _, fields := range [][]string{{"Prefer: wait=20"}, {"Prefer: wait=3", `If-None-Match: "1"`}} {
		all := crowd(5, func(i int) *pending {
			return c.poll("/api/x", append(fields, fmt.Sprint("User-Agent: client-", i))...)
		})
		for i, p := range all {
			if got, want := strings.Join(p.wait().header.Values("X-Trace"), " | "), fmt.Sprintf("client-%d | backend", i); got != want {
				t.Errorf("client %d is told %q, want %q", i, got, want)
			}
		}
	}
}

// testFieldsReadBehind has handlers behind read what others behind, and the backend, have
// set on the answer: in an ordinary exchange, and in a check.
func testFieldsReadBehind(t *testing.T, caddy binary) {
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", "7")
		fmt.Fprint(w, "one")
	}))
	port := freePort(t)
	caddy.start(t, "", site(port, `
	header X-Nonce front
	long_poll
	handle /api/* {
		header X-Nonce abc
		header X-Policy "nonce-{http.response.header.X-Nonce}"
		header >X-Seen {http.response.header.X-Version}
		reverse_proxy `+b.addr+`
	}
	handle {
		header X-Nonce def
		respond "nonce {http.response.header.X-Nonce}"
	}`))
	c := newClient(t, port)
	for _, fields := range [][]string{nil, {"Prefer: wait=1"}} {
		c.get("/api/x", fields...).want(t, 200, "answered").wantFields(t, "X-Nonce: abc", "X-Policy: nonce-abc", "X-Seen: 7")
		c.get("/page", fields...).want(t, 200, "answered").wantBody(t, "nonce def").wantFields(t, "X-Nonce: def")
	}
}

// testAuthenticationBehind has a poll without credentials come to a handle that asks for
// them, which stands behind: it gets the challenge.
func testAuthenticationBehind(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	caddy.start(t, "", site(port, `
	long_poll
	handle /api/* {
		basic_auth {
			alice $2a$04$ZBBkzX2/yX9f7UNkb5fJrOD7XLB9cQTDHTWWRR7A2P6iEZLzA7Usy
		}
		reverse_proxy `+b.addr+`
	}`))
	c := newClient(t, port)
	for _, fields := range [][]string{nil, {"Prefer: wait=20"}, {`If-None-Match: "one"`}} {
		c.get("/api/x", fields...).want(t, 401, "answered").wantFields(t, `Www-Authenticate: Basic realm="restricted"`)
	}
}

// testTwoHandlers has requests pass two handlers of ours, of which the one in front takes
// them: the other one neither counts them once more nor has them wait.
func testTwoHandlers(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	route {
		long_poll /api/v1/* {
			max_body 1
		}
		header X-Between yes
		long_poll /api/* {
			wake writes
		}
		@renamed path /api/v1/renamed
		request_header @renamed Host other.example
		method @renamed SEARCH
		header @renamed X-Now "{method} {host}"
		reverse_proxy `+b.addr+`
	}`))
	c := newClient(t, port)
	parked := c.poll("/api/a", `If-None-Match: "one"`)
	s.waitParked(1)
	for outcome, ask := range map[string]func() reply{
		"answered": func() reply { return c.get("/api/v1/a") },
		"bypassed": func() reply { return c.get("/api/v1/a", `If-None-Match: "none"`, "Prefer: wait=20") },
	} {
		before := s.outcomes(outcome)
		ask().want(t, 200, outcome)
		if n := s.outcomes(outcome) - before; n != 1 {
			t.Errorf("%s: one request was counted %d times", outcome, n)
		}
	}
	// It is the same request still, of which placeholders speak.
	c.get("/api/v1/renamed").want(t, 200, "answered").wantFields(t, "X-Now: SEARCH other.example")
	c.get("/api/a", "Prefer: wait=20").want(t, 200, "answered") // which the one in front does not take
	parked.leave()
}
