package integration_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// TestDetachedFront has handlers in front of long_poll do what makes the request that it
// sees another one than that of the client.
func TestDetachedFront(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	caddy := buildCaddy(t)
	for name, test := range map[string]func(*testing.T, binary){
		"another method":    testDetachedMethod,
		"passed twice":      testDetachedPassedTwice,
		"held, then passed": testDetachedHeldAndPassed,
		"left at once":      testDetachedLeftAtOnce,
		"back with a body":  testDetachedBackWithBody,
		"refused once back": testDetachedRefusedBack,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, caddy)
		})
	}
}

// testDetachedMethod has a handler in front make a GET of a HEAD, and a HEAD of a GET. The
// server answers the former without a body, since its client would take one for its next
// answer, and closes the connection of the latter, whose client waits for a body.
func testDetachedMethod(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	ports := []string{freePort(t), freePort(t)}
	made := func(port, method string) string {
		return site(port, "\tmethod "+method+"\n\tlong_poll {\n\t\tmethods GET HEAD\n\t\tinterval 50ms\n\t\tdetach\n\t}\n\treverse_proxy "+b.addr)
	}
	s := caddy.start(t, "", made(ports[0], "GET")+made(ports[1], "HEAD"))
	head, get := dialWire(t, ports[0]), dialWire(t, ports[1])
	head.say(strings.Replace(ask("/a", "one"), "GET", "HEAD", 1))
	get.say(ask("/a", "one"))
	s.waitParked(2)
	get.say(ask("/b", "none"))
	b.set("two")

	resp, err := http.ReadResponse(head.read, &http.Request{Method: "HEAD"})
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("got %v, %v; want 200", resp, err)
	}
	head.say(strings.Replace(ask("/b", "none"), "GET", "HEAD", 1))
	if resp, err := http.ReadResponse(head.read, &http.Request{Method: "HEAD"}); err != nil {
		t.Errorf("got %v, %v after the answer to a HEAD", resp, err)
	}
	resp, err = http.ReadResponse(get.read, &http.Request{Method: "GET"})
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("got %v, %v; want 200", resp, err)
	}
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("got %q for a body that there is not", body)
	}
}

// serveAuth is a backend that answers with its state, and at /auth with what forward_auth asks.
func serveAuth(t *testing.T, auth http.HandlerFunc) (state *backend) {
	state = serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch tag := strconv.Quote(state.get()); {
		case r.URL.Path == "/auth":
			auth(w, r)
		case r.Header.Get("If-None-Match") == tag:
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("ETag", tag)
			io.WriteString(w, state.get())
		}
	}))
	return state
}

// testDetachedPassedTwice has polls turn out to have to ask for themselves, on sites where a
// handler in front has set a field that another one reads when they pass once more.
func testDetachedPassedTwice(t *testing.T, caddy binary) {
	const grown = 2000
	for name, c := range map[string]struct{ address, options, front, field string }{
		"credentials": {
			front: "basic_auth {\n\t\tbob $2a$04$ReOQ0O2kdouy04OMEhYcIeqNkcTLwgZEzkU7CSNv8AJvQJhS6W5IS\n\t}\n\trequest_header Authorization \"Bearer backend\"",
			field: "Authorization: Basic Ym9iOmhpY2N1cA==",
		},
		"host":    {front: "request_header Host backend.internal"},
		"matcher": {front: "@given header X-Tenant *\n\terror @given 403\n\trequest_header X-Tenant default"},
		"address": {
			options: "\tservers {\n\t\ttrusted_proxies static 127.0.0.1\n\t}",
			front:   "@others not client_ip 127.0.0.1\n\terror @others 403\n\trequest_header X-Forwarded-For 192.0.2.9",
		},
		"forward_auth": {
			front: "forward_auth %[1]s {\n\t\turi /auth\n\t\tcopy_headers Authorization\n\t}",
			field: "Authorization: Basic Ym9iOmhpY2N1cA==",
		},
	} {
		t.Run(name, func(t *testing.T) {
			state := serveAuth(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == c.field[len("Authorization: "):] {
					w.Header().Set("Authorization", "Bearer backend")
				} else {
					w.WriteHeader(http.StatusUnauthorized)
				}
			})
			port := freePort(t)
			front := strings.ReplaceAll(c.front, "%[1]s", state.addr)
			s := caddy.start(t, c.options, site(port, "\troute {\n\t"+front+"\n\tlong_poll {\n\t\tinterval 50ms\n\t\tmax_body 1KiB\n\t\tdetach\n\t}\n\treverse_proxy "+state.addr+"\n\t}"))
			w := dialWire(t, port)
			var fields []string
			if c.field != "" {
				fields = append(fields, c.field)
			}
			w.say(ask("/a", "one", fields...))
			s.waitParked(1)
			state.set(strings.Repeat("x", grown))
			resp := w.want(200, "bypassed")
			if body, _ := io.ReadAll(resp.Body); len(body) != grown {
				t.Errorf("got %d bytes instead of %d", len(body), grown)
			}
		})
	}
}

// testDetachedHeldAndPassed has what is logged and counted of a poll that asks for itself
// say for how long it was parked before that.
func testDetachedHeldAndPassed(t *testing.T, caddy binary) {
	for _, detach := range []string{"", "detach"} {
		b := serveBackend(t, nil)
		port := freePort(t)
		s := caddy.start(t, "", site(port, "\tlog\n\tlog_append held {lp.held}\n\tlong_poll {\n\t\tinterval 50ms\n\t\tmax_body 1KiB\n\t\t"+detach+"\n\t}\n\treverse_proxy "+b.addr))
		w := dialWire(t, port)
		w.say(ask("/a", "one"))
		s.waitParked(1)
		b.set(strings.Repeat("x", 2000))
		w.want(200, "bypassed")
		var all []map[string]any
		waitUntil(t, func() string { return "no line" }, func() bool {
			all = s.logs.entries("handled request")
			return len(all) > 0
		})
		if held, _ := strconv.ParseFloat(fmt.Sprint(all[0]["held"]), 64); held <= 0 {
			t.Errorf("with %q: held %v", detach, all[0]["held"])
		}
		if n := s.metric(`caddy_long_poll_hold_seconds_count{outcome="bypassed"}`); n != 1 {
			t.Errorf("with %q: %d times held", detach, n)
		}
	}
}

// testDetachedLeftAtOnce has clients leave just when their polls are detached: the lines of
// all have all of their fields.
func testDetachedLeftAtOnce(t *testing.T, caddy binary) {
	const crowd = 300
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", site(port, "\tlog\n\tlog_append outcome {lp.outcome}\n\tlong_poll {\n\t\tinterval 50ms\n\t\thold 3m 0%\n\t\tdetach\n\t}\n\treverse_proxy "+b.addr))
	dialWire(t, port).say(ask("/a", "one")) // whose state the others find
	s.waitParked(1)
	for range crowd {
		w := dialWire(t, port)
		w.say(ask("/a", "one"))
		if err := w.Conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, w)
		w.Close()
	}
	var all []map[string]any
	waitUntil(t, func() string { return fmt.Sprintf("%d lines", len(all)) }, func() bool {
		all = s.logs.entries("handled request")
		return len(all) == crowd
	})
	without := 0
	for _, line := range all {
		if line["outcome"] != "left" {
			without++
		}
	}
	if without > 0 {
		t.Errorf("%d of %d lines have no outcome", without, crowd)
	}
}

// testDetachedBackWithBody has the only poll that may be parked turn out to have to ask for
// itself. Its body is read once more, and its place is its own meanwhile.
func testDetachedBackWithBody(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", site(port, "\tlong_poll {\n\t\tmethods POST\n\t\tinterval 50ms\n\t\tmax_body 1KiB\n\t\tmax_parked 1\n\t\tdetach\n\t}\n\treverse_proxy "+b.addr))
	w := dialWire(t, port)
	w.say(strings.Replace(ask("/a", "one", "Content-Length: 3"), "GET", "POST", 1) + "abc")
	s.waitParked(1)
	b.set(strings.Repeat("x", 2000))
	w.want(200, "bypassed")
	b.set("one")
	other := dialWire(t, port) // for whom the place is free again
	other.say(strings.Replace(ask("/b", "one", "Content-Length: 3"), "GET", "POST", 1) + "abc")
	s.waitParked(1)
}

// testDetachedRefusedBack has a handler in front refuse a poll that comes back to ask for
// itself. What its client asks next, by the same connection, is another poll, and the place
// that was kept is free.
func testDetachedRefusedBack(t *testing.T, caddy binary) {
	var closed atomic.Bool
	state := serveAuth(t, func(w http.ResponseWriter, _ *http.Request) {
		if closed.Load() {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	port := freePort(t)
	one := "\troute %s {\n\tforward_auth " + state.addr + " {\n\t\turi /auth\n\t}\n\tlong_poll {\n\t\tinterval 50ms\n\t\tmax_body 1KiB\n\t\tmax_parked 1\n\t\tdetach\n\t}\n\treverse_proxy " + state.addr + "\n\t}\n"
	s := caddy.start(t, "", site(port, fmt.Sprintf(one, "/a")+fmt.Sprintf(one, "/b")))
	w := dialWire(t, port)
	w.say(ask("/a", "one"))
	s.waitParked(1)
	closed.Store(true)
	state.set(strings.Repeat("x", 2000))
	w.want(401, "")
	closed.Store(false)
	state.set("one")
	for _, path := range []string{"/b", "/a"} {
		w.say(ask(path, "one"))
		s.waitParked(1)
		state.set("two")
		w.want(200, "changed")
		s.waitParked(0)
		state.set("one")
	}
	other := dialWire(t, port)
	other.say(ask("/b", "one"))
	s.waitParked(1)
	w.say(ask("/b", "one"))
	w.want(503, "refused")
}
