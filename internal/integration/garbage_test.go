package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// raw answers with bytes that need not be HTTP, and then closes the connection.
func raw(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, text)
	}
}

// hang answers nothing until nobody asks any more.
func hang(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// reset breaks the connection off, in TCP's own way.
func reset(w http.ResponseWriter, r *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// testGarbage has a backend that fails in every way that it can think of, on one
// path each. Who is parked there stays parked until it says something, and who is
// parked elsewhere notices nothing.
func testGarbage(t *testing.T, caddy binary) {
	const ok = "HTTP/1.1 200 OK\r\n"
	garbage := map[string]http.HandlerFunc{
		"/nothing":          raw(""),
		"/hang":             hang,
		"/reset":            reset,
		"/noise":            raw("\x00\x01\x02 what is this?\r\n\r\n"),
		"/half-a-line":      raw("HTTP/1.1 2"),
		"/half-a-header":    raw(ok + "Content-Ty"),
		"/half-a-body":      raw(ok + "Content-Length: 100\r\n\r\nhalf"),
		"/half-a-chunk":     raw(ok + "Transfer-Encoding: chunked\r\n\r\n64\r\nhalf"),
		"/chunks-no-end":    raw(ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
		"/bad-chunk":        raw(ok + "Transfer-Encoding: chunked\r\n\r\nzz\r\nhalf\r\n0\r\n\r\n"),
		"/bad-header":       raw(ok + "Not A Header\r\n\r\n"),
		"/bad-header-value": raw(ok + "X-Y: \x00\x01\r\nContent-Length: 0\r\n\r\n"),
		"/bad-length":       raw(ok + "Content-Length: many\r\n\r\n"),
		"/two-lengths":      raw(ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
		"/huge-header":      raw(ok + "X-Huge: " + strings.Repeat("x", 11<<20) + "\r\n\r\n"),
		"/status-0":         raw("HTTP/1.1 000 Nothing\r\nContent-Length: 0\r\n\r\n"),
		"/status-99":        raw("HTTP/1.1 099 Nothing\r\nContent-Length: 0\r\n\r\n"),
		"/status-minus":     raw("HTTP/1.1 -12 Nothing\r\nContent-Length: 0\r\n\r\n"),
		"/status-word":      raw("HTTP/1.1 YES Nothing\r\nContent-Length: 0\r\n\r\n"),
		"/status-999":       raw("HTTP/1.1 999 Nothing\r\nContent-Length: 0\r\n\r\n"),
		"/500":              func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", 500) },
		"/429":              func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusTooManyRequests) },
		"/101":              raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: noise\r\nConnection: Upgrade\r\n\r\nnoise"),
	}
	good := &backend{value: "one"}
	var broken atomic.Bool
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h, ok := garbage[r.URL.Path]; ok && broken.Load() {
			h(w, r)
			return
		}
		good.ServeHTTP(w, r)
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	long_poll {
		hold 3m
		interval 100ms
		check_timeout 2s
	}
	reverse_proxy `+b.addr))
	c := newClient(t, port)

	parked := make(map[string]*pending)
	for path := range garbage {
		parked[path] = c.poll(path, `If-None-Match: "one"`)
	}
	neighbour := c.poll("/neighbour", `If-None-Match: "one"`)
	s.waitParked(len(parked) + 1)
	broken.Store(true)
	asked := make(map[string]*pending)
	for path := range garbage {
		asked[path] = c.poll(path, "Prefer: wait=170") // longer than any deadline
	}
	for path, p := range asked {
		r := p.wait()
		if r.err != nil || r.outcome() != "failed" || r.status < 400 {
			t.Errorf("%s: got %v, want it failed", path, r)
		}
	}
	for path, p := range parked {
		if !p.waiting() {
			t.Errorf("%s: was released with %v", path, p.reply)
		}
	}
	wantWaiting(t, []*pending{neighbour})

	good.set("two")
	neighbour.wait().want(t, 200, "changed").wantBody(t, `{"value":"two"}`)
	for path, p := range parked {
		if !p.waiting() {
			t.Errorf("%s: was released with %v", path, p.reply)
		}
	}
	broken.Store(false)
	for path, p := range parked {
		if r := p.wait(); r.err != nil || r.status != 200 || r.outcome() != "changed" || r.body != `{"value":"two"}` {
			t.Errorf("%s: got %v, want the change", path, r)
		}
	}
}

// testGigabyte has a backend that says too much: a check stops listening at
// max_body, and each client gets the whole of it by itself.
func testGigabyte(t *testing.T, caddy binary) {
	const gigabyte = 1 << 30
	small := &backend{value: "one"}
	var large atomic.Bool
	var inFlight atomic.Int64
	var most atomic.Int64 // that one exchange has sent without a client that read it
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !large.Load() || r.URL.Path == "/neighbour" {
			small.ServeHTTP(w, r)
			return
		}
		inFlight.Add(1)
		defer inFlight.Add(-1)
		if r.URL.Query().Has("length") {
			w.Header().Set("Content-Length", fmt.Sprint(gigabyte))
		}
		var sent int64
		for chunk := make([]byte, 1<<16); sent < gigabyte; {
			n, err := w.Write(chunk)
			sent += int64(n)
			for old := most.Load(); sent > old && !most.CompareAndSwap(old, sent); old = most.Load() {
			}
			if err != nil {
				return
			}
		}
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	long_poll {
		interval 100ms
		max_body 64KiB
	}
	reverse_proxy `+b.addr))
	c := newClient(t, port)

	for _, path := range []string{"/", "/?length"} {
		t.Run(path, func(t *testing.T) {
			large.Store(false)
			small.set("one")
			neighbour := c.poll("/neighbour", `If-None-Match: "one"`)
			s.waitParked(1)
			large.Store(true)
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "GET", c.base+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Prefer", "wait=20")
			resp, err := c.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != 200 || resp.Header.Get("Long-Poll") != "bypassed" {
				t.Errorf("got %s with Long-Poll: %q", resp.Status, resp.Header.Get("Long-Poll"))
			}
			// One exchange goes on, which is the client's own.
			waitFor(t, "the end of the check", func() bool { return inFlight.Load() == 1 })
			first := make([]byte, 1<<20)
			if _, err := io.ReadFull(resp.Body, first); err != nil || !bytes.Equal(first, make([]byte, 1<<20)) {
				t.Errorf("reading the first megabyte: %v", err)
			}
			resp.Body.Close()
			waitFor(t, "the end of the exchange", func() bool { return inFlight.Load() == 0 })
			// What was sent is in the buffers of sockets, and nowhere else.
			if n := most.Load(); n > 64<<20 {
				t.Errorf("%d MiB went to a client who has read one", n>>20)
			}
			wantWaiting(t, []*pending{neighbour})
			small.set("two")
			neighbour.wait().want(t, 200, "changed")
		})
	}
}

// testManyStatuses has a backend answer with another status each time.
func testManyStatuses(t *testing.T, caddy binary) {
	var status atomic.Int64
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(int(status.Load()))
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	long_poll {
		hold 1m
		interval 10ms
	}
	reverse_proxy `+b.addr))
	c := newClient(t, port)
	status.Store(200)
	version := "If-None-Match: " + c.get("/").want(t, 200, "answered").header.Get("ETag")
	parked := c.poll("/", version)
	s.waitParked(1)
	for n := 500; n < 600; n += 2 { // none of these releases anybody
		status.Store(int64(n))
		c.get("/").want(t, n, "answered")
	}
	wantWaiting(t, []*pending{parked})
	for n := 201; n < 500; n += 6 {
		status.Store(int64(n))
		c.get("/").want(t, n, "answered")
	}
	if r := parked.wait(); r.err != nil || r.outcome() != "changed" || r.status == 200 {
		t.Errorf("got %v, want the first change", r)
	}
}

// testInformational has a backend send many 1xx before its answer.
func testInformational(t *testing.T, caddy binary) {
	good := &backend{value: "one"}
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := range 50 {
			w.Header().Set("Link", fmt.Sprintf("</%d>; rel=preload", i))
			w.WriteHeader(http.StatusEarlyHints)
		}
		w.Header().Del("Link")
		good.ServeHTTP(w, r)
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	long_poll {
		interval 100ms
	}
	reverse_proxy `+b.addr))
	c := newClient(t, port)
	c.get("/").want(t, 200, "answered").wantBody(t, `{"value":"one"}`)
	p := c.poll("/", `If-None-Match: "one"`)
	s.waitParked(1)
	asked := b.asked.Load()
	waitFor(t, "checks", func() bool { return b.asked.Load() > asked+2 })
	wantWaiting(t, []*pending{p})
	good.set("two")
	p.wait().want(t, 200, "changed").wantBody(t, `{"value":"two"}`)
}
