package integration_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// listenOn is a GET for a stream of events.
func listenOn(path string, fields ...string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\n" + strings.Join(append([]string{acceptEvents}, append(fields, "", "")...), "\r\n")
}

// stream is the answer that a wire is told piece by piece.
type stream struct {
	*wire
	body *bufio.Reader
}

// opened reads the head of a stream.
func (w *wire) opened() *stream {
	w.t.Helper()
	resp, err := http.ReadResponse(w.read, &http.Request{Method: "GET"})
	if err != nil {
		w.t.Fatalf("reading the head: %v", err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Long-Poll") != "streamed" || !slices.Equal(resp.TransferEncoding, []string{"chunked"}) {
		w.t.Fatalf("got %s, %v, %v", resp.Status, resp.Header, resp.TransferEncoding)
	}
	return &stream{w, bufio.NewReader(resp.Body)}
}

// hears reads until the data of an event is that.
func (s *stream) hears(data string) {
	s.t.Helper()
	for {
		line, err := s.body.ReadString('\n')
		if err != nil {
			s.t.Fatalf("reading until %q: %v", data, err)
		}
		if line == "data: "+data+"\n" {
			_, _ = s.body.ReadString('\n')
			return
		}
	}
}

// ends reads the rest, which is whole.
func (s *stream) ends() string {
	s.t.Helper()
	rest, err := io.ReadAll(s.body)
	if err != nil {
		s.t.Errorf("reading the rest: %v after %q", err, rest)
	}
	return string(rest)
}

// testDetachedStream uses connections before, during and after streams.
func testDetachedStream(t *testing.T, caddy binary) {
	var b *backend
	b = serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if value := b.get(); value == "forbidden" {
			http.Error(w, "no", http.StatusForbidden)
		} else {
			w.Header().Set("ETag", strconv.Quote(value))
			io.WriteString(w, value)
		}
	}))
	port := freePort(t)
	s := caddy.start(t, "", detachedSite(port, b, "stream", "stream_timeout 1h"))

	// An event ends a stream; then come a poll, and a stream that is not the last.
	w := dialWire(t, port)
	w.say(listenOn("/a"))
	st := w.opened()
	st.hears("one")
	s.waitDetached(1)
	s.waitStreams(1)
	b.set("two")
	st.hears("two")
	b.set("forbidden")
	if rest := st.ends(); !strings.Contains(rest, `data: {"status":403}`) {
		t.Errorf("got %q; want the status", rest)
	}
	s.waitDetached(0)
	s.waitStreams(0)
	b.set("three")
	w.say(ask("/b", "three", "Wait: 1"))
	w.want(304, "expired")
	w.say(listenOn("/a", `Last-Event-ID: "three"`))
	st = w.opened()
	s.waitDetached(1)

	// What comes meanwhile is read afterwards.
	w.say(listenOn("/b", "Connection: close"))
	wantStays(t, s, 1)
	b.set("forbidden")
	st.ends()
	w.want(403, "answered")
	w.wantEnd()

	// Who wants no other answer gets none.
	b.set("four")
	w = dialWire(t, port)
	w.say(listenOn("/a", "Connection: close"))
	st = w.opened()
	st.hears("four")
	s.waitDetached(1)
	b.set("forbidden")
	st.ends()
	w.wantEnd()

	// Who has said all that it will ever say has left, and gets the end of the stream.
	b.set("five")
	w = dialWire(t, port)
	w.say(listenOn("/a"))
	st = w.opened()
	st.hears("five")
	s.waitDetached(1)
	_ = w.Conn.(*net.TCPConn).CloseWrite()
	s.waitDetached(0)
	st.ends()
	w.wantEnd()
	s.waitStreams(0)

	// The request before that had all it was to have, and HTTP/1.0 knows no chunks.
	w = dialWire(t, port)
	w.say(strings.Replace(listenOn("/a"), "HTTP/1.1", "HTTP/1.0", 1))
	s.waitStreams(1)
	if n := s.metric("caddy_long_poll_detached_requests"); n != 0 {
		t.Errorf("%d are detached", n)
	}
	w.Close()
	s.waitStreams(0)
}

// testDetachedStreamsEnd has clients leave and be reset in the middle of events, and a
// reload and a stop come there.
func testDetachedStreamsEnd(t *testing.T, caddy binary) {
	var b *backend
	b = serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value := b.get()
		w.Header().Set("ETag", strconv.Quote(value))
		size, _ := strconv.Atoi(value)
		io.WriteString(w, strings.Repeat("x", size))
	}))
	b.set("1")
	port := freePort(t)
	sites := detachedSite(port, b, "stream", "max_body 32MiB")
	s := caddy.start(t, "", sites)
	files := s.files()
	open := func(n int) (all []*stream) {
		before := s.metric("caddy_long_poll_detached_requests")
		for range n {
			w := dialWire(t, port)
			w.say(listenOn("/"))
			all = append(all, w.opened())
		}
		for _, st := range all {
			if _, err := st.body.ReadString('x'); err != nil {
				t.Fatal(err)
			}
		}
		s.waitDetached(before + n)
		return all
	}
	large := func(n int) { // more than fits on the way
		t.Helper()
		told := s.metric(`caddy_long_poll_events_total{format="sse"}`)
		b.set(fmt.Sprint(16<<20 + n))
		waitFor(t, "the event", func() bool {
			return s.metric(`caddy_long_poll_events_total{format="sse"}`) >= told+s.metric("caddy_long_poll_streams")
		})
	}

	leave, reset, stay := open(20), open(20), open(2)
	large(1)
	for _, st := range leave {
		st.Close()
	}
	for _, st := range reset {
		_ = st.Conn.(*net.TCPConn).SetLinger(0)
		st.Close()
	}
	s.waitDetached(2)
	s.waitStreams(2)
	for i, st := range stay {
		if n, err := st.body.Discard(16 << 20); err != nil {
			t.Fatalf("client %d has read %d bytes: %v", i, n, err)
		}
	}
	if got := s.outcomes("streamed"); got != 40 {
		t.Errorf("%d have ended as streamed; want 40", got)
	}

	// What is under way when a reload comes is told to its end, which is that of the stream.
	for _, end := range []func(){func() { s.reload(t, sites) }, func() { s.exit(t) }} {
		for _, st := range stay {
			st.Close()
		}
		s.waitDetached(0)
		b.set("1")
		stay = open(3)
		large(2)
		ended := make(chan string, len(stay))
		for _, st := range stay {
			go func() {
				rest, err := io.ReadAll(st.body)
				ended <- fmt.Sprint(bytes.Count(rest, []byte("x")), " ", err)
			}()
		}
		end()
		for range stay {
			if got := <-ended; got != fmt.Sprint(16<<20+2, " <nil>") {
				t.Errorf("read %s", got)
			}
		}
		for _, st := range stay {
			st.wantEnd()
		}
		if s.cmd.ProcessState == nil {
			waitUntil(t, func() string { return fmt.Sprintf("%d files are open; %d were at the beginning", s.files(), files) }, func() bool {
				return s.files() <= files+10
			})
		}
	}
}

// testDetachedStreamTLS has streams told over TLS, one of whose clients says farewell.
func testDetachedStreamTLS(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", tlsSite(port, `
	long_poll {
		interval 50ms
		stream
		stream_timeout 3s
		detach
	}
	reverse_proxy `+b.addr))
	config := &tls.Config{RootCAs: s.authority(t), ServerName: "localhost", NextProtos: []string{"http/1.1"}}
	plain := s.newTLSClient(t, "HTTP/1.1", port)
	waitFor(t, "the certificate", func() bool { return plain.get("/plain").err == nil })
	dial := func() *wire {
		conn := tls.Client(dialWire(t, port).Conn, config)
		return &wire{conn, t, bufio.NewReader(conn)}
	}
	on := func(text string) string { return strings.Replace(text, "Host: 127.0.0.1", "Host: localhost:"+port, 1) }
	stays, leaves := dial(), dial()
	for range 2 { // on the same connection
		b.set("one")
		stays.say(on(listenOn("/")))
		st := stays.opened()
		st.hears(`{"value":"one"}`)
		s.waitDetached(1)
		b.set("two")
		st.hears(`{"value":"two"}`)
		st.ends()
	}
	leaves.say(on(listenOn("/")))
	leaves.opened().hears(`{"value":"two"}`)
	s.waitDetached(1)
	_ = leaves.Conn.(*tls.Conn).CloseWrite()
	s.waitDetached(0)
	s.waitStreams(0)
}

// streamCases are streams that are to look the same whether they are detached or not.
func streamCases() []sameCase {
	var all []sameCase
	for _, accept := range []string{acceptEvents, acceptLines} {
		add := func(c sameCase, fields ...string) {
			c.method, c.fields = "GET", append([]string{accept}, fields...)
			all = append(all, c)
		}
		for _, status := range []int{200, 203, 204, 301, 401, 403, 404, 500} {
			add(sameCase{status: status, text: "some text"})
		}
		for _, size := range []int{0, 1, 8<<10 - 20, 8<<10 - 10, 8 << 10, 100 << 10} {
			add(sameCase{status: 200, text: strings.Repeat("x", size)})
		}
		for _, text := range []string{"two\nlines\n", "\xff", `{"a":1}`} {
			add(sameCase{status: 200, text: text})
		}
		for _, field := range []string{"Connection: close", "Connection: keep-alive", `Last-Event-ID: "one"`, `Last-Event-ID: "two"`, "Accept: text/plain;q=0.5", "Origin: https://example.com", "X-A: b"} {
			add(sameCase{status: 200, text: "some text"}, field)
			add(sameCase{stays: true}, field)
		}
		for _, h := range []http.Header{{"Set-Cookie": {"a=b"}}, {"Access-Control-Allow-Origin": {"*"}}, {"Connection": {"close"}}} {
			add(sameCase{status: 200, header: h, text: "some text"})
		}
	}
	return all
}

// testDetachedSameStreams is testDetachedSame for streams.
func testDetachedSameStreams(t *testing.T, caddy binary) {
	cases := streamCases()
	var state *backend
	state = serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil || i >= len(cases) {
			http.NotFound(w, r)
			return
		}
		cases[i].serve(w, r, state.get() == "two")
	}))
	ports := []string{freePort(t), freePort(t)}
	all := func(port, detach string) string {
		return site(port, `
	log
	log_append port {http.request.local.port}
	log_append outcome {lp.outcome}
	header X-Preset {path}
	long_poll {
		hold 90s 0%
		interval 100ms
		stream
		stream_timeout 45s # until all are open
		delta json_patch
		header X-Ours {lp.outcome}
		`+detach+`
	}
	reverse_proxy `+state.addr)
	}
	s := caddy.start(t, "", all(ports[0], "")+all(ports[1], "detach"))
	wires := make([][]*wire, len(ports))
	for i, c := range cases {
		for n, port := range ports {
			w := dialWire(t, port)
			w.say(fmt.Sprintf("GET /%d?q=%%20 HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n", i, strings.Join(append(c.fields, ""), "\r\n")))
			wires[n] = append(wires[n], w)
		}
	}
	s.waitStreams(2 * len(cases))
	s.waitParked(2 * len(cases))
	if n := s.metric("caddy_long_poll_detached_requests"); n != len(cases) {
		t.Errorf("%d of %d are detached", n, len(cases))
	}
	state.set("two")
	retries := regexp.MustCompile(`retry: \d+`)
	sizes := make(map[string]int)
	for i, c := range cases {
		var texts []string
		for n := range ports {
			w := wires[n][i]
			_ = w.SetDeadline(time.Now().Add(deadline))
			w.say("GET /none HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
			names := order(w.read)
			resp, err := http.ReadResponse(w.read, nil)
			if err != nil {
				t.Fatalf("case %d: %v", i, err)
			}
			body, err := io.ReadAll(resp.Body)
			sizes[fmt.Sprint(n, "/", i)] = len(body)
			resp.Header.Set("Date", fmt.Sprint(len(resp.Header["Date"])))
			head, _ := json.MarshalIndent(resp.Header, "", " ")
			texts = append(texts, fmt.Sprintf("%v\n%s %s %v close %t %v %v\n%s\n%d %s\nthen %s", names, resp.Proto, resp.Status, resp.TransferEncoding, resp.Close, resp.Trailer, err,
				head, len(body), retries.ReplaceAll(body, []byte("retry: N")), c.read(t, w.read)))
		}
		if texts[0] != texts[1] {
			t.Errorf("case %d: %+.200v:\n%.2000s\nand detached:\n%.2000s", i, c, texts[0], texts[1])
		}
	}
	s.wantSameLines(ports, len(cases), func(port int, path string, entry map[string]any) {
		if want := sizes[fmt.Sprint(port, path)]; entry["size"] != float64(want) {
			t.Errorf("%s of %d has size %v; want %d", path, port, entry["size"], want)
		}
	})
}
