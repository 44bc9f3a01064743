package integration_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// ofDetached are the parts of TestDetached that are about nothing else.
var ofDetached = map[string]func(*testing.T, binary){
	"connections":    testDetachedConnections,
	"pipelined":      testDetachedPipelined,
	"while parked":   testDetachedWhileParked,
	"and in TLS":     testDetachedWhileParkedTLS,
	"below TLS":      testDetachedBelowTLS,
	"few files":      testDetachedMoreThanFiles,
	"no check":       testDetachedNoFileForChecks,
	"no set":         testDetachedNoFileToWatch,
	"reload":         testDetachedReload,
	"slow reader":    testDetachedSlowReader,
	"passed":         testDetachedPassed,
	"not eligible":   testNotEligible,
	"idle timeout":   testDetachedIdle,
	"closed in TLS":  testDetachedTLS,
	"left early":     testDetachedLeftInAnswer,
	"under a change": testDetachedChurn,
	"the same":       testDetachedSame,
	"stream":         testDetachedStream,
	"streams end":    testDetachedStreamsEnd,
	"streams in TLS": testDetachedStreamTLS,
	"same streams":   testDetachedSameStreams,
	"logged":         testDetachedLogsAsCame,
}

// waitDetached waits until that many requests are parked, all without a goroutine.
func (s *sidecar) waitDetached(n int) {
	s.t.Helper()
	s.waitParked(n)
	var detached int
	waitUntil(s.t, func() string { return fmt.Sprintf("%d detached instead of %d", detached, n) }, func() bool {
		detached = s.metric("caddy_long_poll_detached_requests")
		return detached == n
	})
}

// files is how many descriptors the process has open.
func (s *sidecar) files() int {
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	return len(all)
}

// wire is a client that says what it likes on one connection.
type wire struct {
	net.Conn
	t    *testing.T
	read *bufio.Reader
}

func dialWire(t *testing.T, port string) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(deadline))
	return &wire{conn, t, bufio.NewReader(conn)}
}

// ask is a GET of a client that has that tag.
func ask(path, tag string, fields ...string) string {
	text := "GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-None-Match: " + strconv.Quote(tag) + "\r\n"
	for _, f := range fields {
		text += f + "\r\n"
	}
	return text + "\r\n"
}

func (w *wire) say(text string) {
	w.t.Helper()
	w.more()
	if _, err := io.WriteString(w, text); err != nil {
		w.t.Fatal(err)
	}
}

// more has what comes next take as long as anything may.
func (w *wire) more() { _ = w.SetDeadline(time.Now().Add(deadline)) }

// answer reads the next answer.
func (w *wire) answer() *http.Response {
	w.t.Helper()
	w.more()
	resp, err := http.ReadResponse(w.read, &http.Request{Method: "GET"})
	if err != nil {
		w.t.Fatalf("reading the answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("reading the answer's body: %v", err)
	}
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return resp
}

func (w *wire) want(status int, outcome string) *http.Response {
	w.t.Helper()
	resp := w.answer()
	if got, _, _ := strings.Cut(resp.Header.Get("Long-Poll"), ";"); resp.StatusCode != status || got != outcome {
		w.t.Errorf("got %s, %q; want %d, %q", resp.Status, got, status, outcome)
	}
	return resp
}

// expires has the time of a poll be up while it is parked, as [client.expires] does.
func (w *wire) expires(poll string) (resp *http.Response) {
	w.t.Helper()
	for range attempts {
		w.say(poll)
		resp = w.answer()
		if outcome, _, _ := strings.Cut(resp.Header.Get("Long-Poll"), ";"); resp.StatusCode == http.StatusNotModified && outcome == "expired" {
			return resp
		} else if resp.StatusCode != http.StatusNotModified || outcome != "answered" || resp.Close {
			break
		}
	}
	w.t.Errorf("got %s, %q; want 304, expired", resp.Status, resp.Header.Get("Long-Poll"))
	return resp
}

// wantEnd reads the end of the connection.
func (w *wire) wantEnd() {
	w.t.Helper()
	w.more()
	if b, err := w.read.ReadByte(); err == nil {
		w.t.Errorf("the connection goes on with %q", b)
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		w.t.Error("the connection is not closed")
	}
}

// detachedSite is a site whose polls are detached, in front of b.
func detachedSite(port string, b *backend, more ...string) string {
	return site(port, "\tlong_poll {\n\t\tinterval 50ms\n\t\tdetach\n\t\t"+strings.Join(more, "\n\t\t")+"\n\t}\n\treverse_proxy "+b.addr)
}

// testDetachedConnections uses one connection again and again, for polls and for others.
func testDetachedConnections(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", detachedSite(port, b))
	w := dialWire(t, port)
	tag := "one"
	for i := range 5 {
		w.say(ask("/a", tag))
		s.waitDetached(1)
		next := fmt.Sprint("v", i)
		b.set(next)
		resp := w.want(200, "changed")
		if resp.Header.Get("ETag") != strconv.Quote(next) || resp.Header.Get("Date") == "" || resp.ContentLength <= 0 {
			t.Errorf("got %v", resp.Header)
		}
		tag = next
		s.waitDetached(0)
		w.say("GET /plain HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		w.want(200, "answered")
	}
	w.expires(ask("/a", tag, "Wait: 1"))
	w.say(ask("/a", tag, "Connection: close", "Wait: 12"))
	if resp := w.want(304, "expired"); !resp.Close {
		t.Error("the answer does not say that it is the last")
	}
	w.wantEnd()

	left := dialWire(t, port)
	left.say(ask("/a", tag))
	wantDeparture(t, s, left)
}

// wantDeparture has the only client that is detached leave, which is the first to do so.
func wantDeparture(t *testing.T, s *sidecar, client io.Closer) {
	t.Helper()
	s.waitDetached(1)
	client.Close()
	s.waitDetached(0)
	waitFor(t, "the departure", func() bool { return s.outcomes("left") == 1 })
}

// testDetachedPipelined sends requests before the answers to those before them.
func testDetachedPipelined(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", detachedSite(port, b))

	// At once, so that the server has read the second with the first.
	w := dialWire(t, port)
	w.say(ask("/a", "one") + ask("/b", "other") + ask("/c", "one", "Wait: 1"))
	s.waitParked(1)
	b.set("two")
	w.want(200, "changed")
	w.want(200, "answered")
	w.want(200, "answered")

	// While the first is detached, and its client hears no more of it.
	w = dialWire(t, port)
	w.say(ask("/a", "two"))
	s.waitDetached(1)
	w.say(ask("/b", "other") + ask("/c", "other"))
	wantStays(t, s, 1)
	b.set("three")
	w.want(200, "changed")
	w.want(200, "answered")
	w.want(200, "answered")

	// Who has sent all that it will ever ask waits for the answers.
	w.say(ask("/a", "three"))
	s.waitDetached(1)
	w.say("GET /b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	wantStays(t, s, 1)
	_ = w.Conn.(*net.TCPConn).CloseWrite()
	wantStays(t, s, 1)
	b.set("four")
	w.want(200, "changed")
}

// wantStays makes sure that as many are parked for a while.
func wantStays(t *testing.T, s *sidecar, n int) {
	t.Helper()
	for range 5 {
		time.Sleep(20 * time.Millisecond)
		if parked := s.metric("caddy_long_poll_parked_requests"); parked != n {
			t.Fatalf("%d are parked instead of %d", parked, n)
		}
	}
}

// testDetachedWhileParked sends what is no request while a poll is detached.
func testDetachedWhileParked(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", detachedSite(port, b))
	s.talkWhileParked(b, "127.0.0.1", func() *wire { return dialWire(t, port) })
}

// testDetachedWhileParkedTLS does so in TLS.
func testDetachedWhileParkedTLS(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", tlsSite(port, "\tlong_poll {\n\t\tinterval 50ms\n\t\tdetach\n\t}\n\treverse_proxy "+b.addr))
	s.talkWhileParked(b, "localhost", s.tlsWires(port))
}

// tlsWires makes clients of a tlsSite.
func (s *sidecar) tlsWires(port string) func() *wire {
	s.t.Helper()
	config := &tls.Config{RootCAs: s.authority(s.t), ServerName: "localhost", NextProtos: []string{"http/1.1"}}
	plain := s.newTLSClient(s.t, "HTTP/1.1", port)
	waitFor(s.t, "the certificate", func() bool { return plain.get("/plain").err == nil })
	return func() *wire {
		conn := tls.Client(dialWire(s.t, port).Conn, config)
		return &wire{conn, s.t, bufio.NewReader(conn)}
	}
}

// talkWhileParked has each of some clients, of the site on host that dial connects to, say
// something else while its poll is detached: it is read after the answer, as net/http would.
func (s *sidecar) talkWhileParked(b *backend, host string, dial func() *wire) {
	t := s.t
	all := map[string]*wire{}
	for what, text := range map[string]string{
		"garbage":        "\x00\xff no request at all\r\n\r\n",
		"half a request": "GET /half HTTP/1.1\r\nHost: " + host[:5],
		"64 KiB":         strings.Repeat("x", 64<<10),
		"a large header": "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 2<<20),
	} {
		w := dial()
		w.say(strings.ReplaceAll(ask("/"+strings.ReplaceAll(what, " ", "-"), "one"), "127.0.0.1", host))
		all[what] = w
		s.waitDetached(len(all))
		go io.WriteString(w, text) // which may be more than fits on the way
	}
	wantStays(t, s, len(all))
	b.set("two")
	for what, w := range all {
		w.want(200, "changed")
		switch what {
		case "half a request":
			w.say(host[5:] + "\r\n\r\n")
			w.want(200, "answered")
		case "a large header":
			if resp := w.answer(); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("got %s after %s", resp.Status, what)
			}
		default:
			if resp := w.answer(); resp.StatusCode != http.StatusBadRequest && resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("got %s after %s", resp.Status, what)
			}
		}
		w.Close()
	}
	s.waitDetached(0)
}

// toLocalhost is a request by the name that a tlsSite has.
func toLocalhost(text string) string {
	return strings.ReplaceAll(text, "Host: 127.0.0.1", "Host: localhost")
}

// testDetachedBelowTLS has clients whose polls are detached send what is no TLS, or the
// beginning of some: who makes no sense is cut, and the others are answered.
func testDetachedBelowTLS(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", tlsSite(port, "\tlong_poll {\n\t\tinterval 50ms\n\t\tdetach\n\t}\n\treverse_proxy "+b.addr))
	dial := s.tlsWires(port)
	stays := dial()
	stays.say(toLocalhost(ask("/", "one")))
	s.waitDetached(1)
	below := func(w *wire) net.Conn { return w.Conn.(*tls.Conn).NetConn() }
	for i, text := range []string{
		"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"\x17\x03\x03\x00\x20" + strings.Repeat("x", 32), // a record that nobody has encrypted
		strings.Repeat("\x00", 64<<10),
	} {
		w := dial()
		w.say(toLocalhost(ask("/", "one")))
		s.waitDetached(2)
		_, _ = io.WriteString(below(w), text) // of which the end may find nobody any more
		w.wantEnd()
		s.waitDetached(1)
		waitFor(t, "the departure", func() bool { return s.outcomes("left") == i+1 })
	}
	half := dial()
	half.say(toLocalhost(ask("/", "one")))
	s.waitDetached(2)
	_, _ = io.WriteString(below(half), "\x17\x03\x03\x00\x20half of it")
	wantStays(t, s, 2)
	b.set("two")
	stays.want(200, "changed")
	half.want(200, "changed")
}

// testDetachedReload reloads and stops while some are detached and some are idle.
func testDetachedReload(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	sites := detachedSite(port, b)
	s := caddy.start(t, "", sites)
	for range 2 {
		idle := dialWire(t, port)
		idle.expires(ask("/idle", b.get(), "Wait: 1"))
		var all []*wire
		for range 100 {
			w := dialWire(t, port)
			w.say(ask("/", b.get()))
			all = append(all, w)
		}
		s.waitDetached(len(all))
		s.reload(t, sites)
		for _, w := range all {
			if resp := w.want(304, "drained"); !resp.Close {
				t.Error("a client is told to come back on the same connection")
			}
			w.wantEnd()
		}
		idle.wantEnd()
	}
	w := dialWire(t, port)
	w.say(ask("/", b.get()))
	s.waitDetached(1)
	s.exit(t)
	w.want(304, "drained")
	w.wantEnd()
}

// testDetachedSlowReader has a client read nothing of a large answer.
func testDetachedSlowReader(t *testing.T, caddy binary) {
	const size = 8 << 20
	var b *backend
	b = serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value := b.get()
		w.Header().Set("ETag", strconv.Quote(value))
		if r.Header.Get("If-None-Match") == strconv.Quote(value) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		io.WriteString(w, strings.Repeat(value[:1], size))
	}))
	port := freePort(t)
	s := caddy.start(t, "", detachedSite(port, b, "max_body 16MiB"))
	slow := dialWire(t, port)
	slow.say(ask("/", "one"))
	s.waitDetached(1)
	var all []*wire
	for range 3 {
		w := dialWire(t, port)
		w.say(ask("/", "one"))
		all = append(all, w)
	}
	s.waitDetached(4)
	b.set("two")
	for _, w := range all {
		resp := w.want(200, "changed")
		if body, _ := io.ReadAll(resp.Body); len(body) != size || strings.Trim(string(body), "t") != "" {
			t.Errorf("got %d bytes", len(body))
		}
	}
	resp := slow.want(200, "changed")
	if body, _ := io.ReadAll(resp.Body); len(body) != size {
		t.Errorf("the slow reader got %d bytes", len(body))
	}
	slow.say(ask("/", "one"))
	slow.want(200, "answered")
}

// testDetachedLeftInAnswer has clients leave when they have taken little of a large answer:
// that is logged, and not all of it, with detach and without.
func testDetachedLeftInAnswer(t *testing.T, caddy binary) {
	const size = 24 << 20 // more than sockets hold
	var b *backend
	b = serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tag := strconv.Quote(b.get())
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		io.WriteString(w, strings.Repeat("x", size))
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	log
	long_poll /parked {
		max_body 32MiB
	}
	long_poll /detached {
		max_body 32MiB
		detach
	}
	reverse_proxy `+b.addr))
	wires := map[string]*wire{"/parked": dialWire(t, port), "/detached": dialWire(t, port)}
	for path, w := range wires {
		w.say(ask(path, "one"))
	}
	s.waitParked(2)
	waitFor(t, "one to be detached", func() bool { return s.metric("caddy_long_poll_detached_requests") == 1 })
	b.set("two")
	for path, w := range wires {
		if _, err := w.read.Peek(1); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		_ = w.Close()
	}
	lines := func() []map[string]any { return s.logs.entries("handled request") }
	waitFor(t, "both to be logged", func() bool { return len(lines()) == 2 })
	for _, line := range lines() {
		if n, is := line["size"].(float64); !is || n >= size {
			t.Errorf("%v: size is %v", line["request"].(map[string]any)["uri"], line["size"])
		}
	}
}

// testDetachedPassed has an answer outgrow max_body while polls are detached: they ask for
// themselves, a POST with its body.
func testDetachedPassed(t *testing.T, caddy binary) {
	var b *backend
	b = serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value := b.get()
		w.Header().Set("ETag", strconv.Quote(value))
		if r.Header.Get("If-None-Match") == strconv.Quote(value) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s ", r.Method, r.URL, body)
		if value != "one" {
			io.WriteString(w, strings.Repeat("x", 4<<10))
		}
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	rewrite /old/* /new{uri}
	long_poll {
		interval 50ms
		max_body 1KiB
		methods GET POST
		detach
	}
	reverse_proxy `+b.addr))
	get, post := dialWire(t, port), dialWire(t, port)
	get.say(ask("/old/get?a=b", "one"))
	post.say("POST /post HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-None-Match: \"one\"\r\nContent-Length: 5\r\n\r\nhello")
	s.waitDetached(2)
	b.set("two")
	for w, begins := range map[*wire]string{get: "GET /new/old/get?a=b  x", post: "POST /post hello x"} {
		resp := w.want(200, "bypassed")
		if body, _ := io.ReadAll(resp.Body); !strings.HasPrefix(string(body), begins) {
			t.Errorf("got %.40q; want %q", body, begins)
		}
		w.say("GET /next HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		w.want(200, "answered")
	}
	s.waitDetached(0)
}

// testNotEligible parks as ever what can not be detached.
func testNotEligible(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	for name, sites := range map[string]func(port string) string{
		"handle_errors": func(port string) string {
			return site(port, "\tlong_poll {\n\t\tdetach\n\t}\n\treverse_proxy "+b.addr+"\n\thandle_errors {\n\t\trespond {err.status_code}\n\t}\n")
		},
		"a writer around it": func(port string) string {
			return site(port, "\theader >X-Late {http.response.header.ETag}\n\tlong_poll {\n\t\tdetach\n\t}\n\treverse_proxy "+b.addr)
		},
		"a field that is taken off": func(port string) string {
			return site(port, "\trequest_header -Authorization\n\tlong_poll {\n\t\tdetach\n\t}\n\treverse_proxy "+b.addr)
		},
		"a field that is added to, in a handle": func(port string) string {
			return site(port, "\thandle {\n\t\trequest_header +X-Site a\n\t\tlong_poll {\n\t\t\tdetach\n\t\t}\n\t\treverse_proxy "+b.addr+"\n\t}")
		},
		"placeholders of the request": func(port string) string {
			return detachedSite(port, b, "header X-Path {path}")
		},
	} {
		t.Run(name, func(t *testing.T) {
			port := freePort(t)
			s := caddy.start(t, "", sites(port))
			c := newClient(t, port)
			p := c.poll("/", `If-None-Match: "`+b.get()+`"`)
			s.waitParked(1)
			wantStays(t, s, 1)
			if n := s.metric("caddy_long_poll_detached_requests"); n != 0 {
				t.Errorf("%d are detached", n)
			}
			b.set(b.get() + "x")
			p.wait().want(t, 200, "changed")
		})
	}
}

// testDetachedIdle has the server's idle_timeout end a connection whose poll was answered.
func testDetachedIdle(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "\tservers {\n\t\ttimeouts {\n\t\t\tidle 1s\n\t\t\twrite 2s\n\t\t\tread_body 2s\n\t\t}\n\t}", detachedSite(port, b))
	w := dialWire(t, port)
	w.say(ask("/", "one", "Wait: 12")) // longer than the machine may stand still
	s.waitDetached(1)
	w.want(304, "expired")
	w.wantEnd()
}

// testDetachedTLS has clients close their TLS connections, and use them again.
func testDetachedTLS(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", tlsSite(port, "\tlong_poll {\n\t\tinterval 50ms\n\t\tdetach\n\t}\n\treverse_proxy "+b.addr))
	dial := s.tlsWires(port)
	w := dial()
	w.say(toLocalhost(ask("/", "one")))
	s.waitDetached(1)
	b.set("two")
	w.want(200, "changed")
	w.say(toLocalhost(ask("/", "two") + ask("/b", "other")))
	s.waitParked(1)
	b.set("three")
	w.want(200, "changed")
	w.want(200, "answered")
	w.say(toLocalhost(ask("/", "three")))
	wantDeparture(t, s, w)
}

// testDetachedChurn has clients ask again at once, leave, and be drained, while the value
// changes all the time: each answer is of what its own connection has asked for.
func testDetachedChurn(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	sites := detachedSite(port, b)
	s := caddy.start(t, "", sites)
	done := make(chan struct{})
	var ended sync.WaitGroup
	for i := range 40 {
		ended.Go(func() {
			path := fmt.Sprint("/", i%3)
			for n := 0; ; n++ {
				conn, err := net.Dial("tcp", "127.0.0.1:"+port)
				if err != nil {
					continue // the moment of a reload
				}
				w := &wire{conn, t, bufio.NewReader(conn)}
				_ = conn.SetDeadline(time.Now().Add(deadline))
				tag := "none"
				for turn := 0; ; turn++ {
					select {
					case <-done:
						conn.Close()
						return
					default:
					}
					if i%4 == 0 && turn > n%5 {
						break // it leaves with a poll under way
					}
					if _, err := io.WriteString(w, ask(path, tag, "Wait: 1")); err != nil {
						break
					}
					if i%4 == 0 && turn == n%5 {
						break
					}
					resp, err := http.ReadResponse(w.read, &http.Request{Method: "GET"})
					if err != nil {
						if e, ok := err.(net.Error); ok && e.Timeout() {
							t.Error("an answer does not come")
						}
						break // a reload has closed what was idle
					}
					body, _ := io.ReadAll(resp.Body)
					now, _ := strconv.Unquote(resp.Header.Get("ETag"))
					switch {
					case resp.StatusCode == 200 && now != tag && string(body) == fmt.Sprintf(`{"value":%q}`, now):
					case resp.StatusCode == 304 && now == tag:
					default:
						t.Errorf("who has %q got %s, %q, %q", tag, resp.Status, now, body)
					}
					if tag = now; resp.Close {
						break
					}
				}
				conn.Close()
			}
		})
	}
	for i := range 40 {
		time.Sleep(25 * time.Millisecond)
		b.set(fmt.Sprint("v", i))
		if i%20 == 10 {
			s.reload(t, sites)
		}
	}
	close(done)
	ended.Wait()
	s.waitDetached(0)
	if lines := s.logs.entries("panic"); len(lines) > 0 {
		t.Error(lines)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", s.cmd.Process.Pid)); err != nil {
		t.Error(err)
	}
}
