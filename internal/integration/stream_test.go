package integration_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// ofStreams are the parts of TestStreams.
var ofStreams = map[string]func(*testing.T, binary){
	"protocols":      testStreamProtocols,
	"reload":         testStreamReload,
	"slow readers":   testStreamSlowReaders,
	"stalls":         testStreamStalls,
	"tokens":         testStreamTokens,
	"encode":         testStreamEncode,
	"nginx":          testStreamNginx,
	"curl":           testStreamCurl,
	"log":            testStreamLog,
	"browser":        testEventSource,
	"another origin": testEventSourceOfAnotherOrigin,
}

// TestStreams has real clients hear what a backend says that has never heard of streams
// (contract 13).
func TestStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	caddy := buildCaddy(t)
	for name, test := range ofStreams {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, caddy)
		})
	}
}

// Fields of those who would rather hear than ask.
const (
	acceptEvents = "Accept: text/event-stream"
	acceptLines  = "Accept: application/x-ndjson"
)

// listener is a client of a stream, and what it has heard so far.
type listener struct {
	t      *testing.T
	resp   *http.Response
	leave  context.CancelFunc
	reused bool // it is on a connection that had another request
	ended  chan struct{}

	mu   sync.Mutex // protects what follows
	text []byte
	err  error // that has ended it; nil for the end of the answer
}

// listen opens a stream, and returns when its head is there.
func (c *client) listen(path string, fields ...string) *listener {
	c.t.Helper()
	l := &listener{t: c.t, ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	l.leave = cancel
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { l.reused = info.Reused }})
	r, err := http.NewRequestWithContext(ctx, "GET", c.base+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		r.Header.Add(name, value)
	}
	late := time.AfterFunc(deadline, cancel)
	l.resp, err = c.http.Do(r)
	if err != nil {
		c.t.Fatalf("opening a stream: %v", err)
	}
	late.Stop()
	if l.resp.Proto != c.protocol {
		c.t.Errorf("speaking %s instead of %s", l.resp.Proto, c.protocol)
	}
	go func() {
		defer close(l.ended)
		l.hear(l.resp.Body)
	}()
	c.t.Cleanup(func() {
		cancel()
		<-l.ended
		l.resp.Body.Close()
	})
	return l
}

// hear notes what comes, to its end.
func (l *listener) hear(body io.Reader) {
	var r io.Reader = body
	if l.resp.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			l.note(nil, err)
			return
		}
		r = unzipped
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		l.note(buf[:n], err)
		if err != nil {
			return
		}
	}
}

func (l *listener) note(text []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, text...)
	if err != io.EOF {
		l.err = err
	}
}

// heard is all that has come.
func (l *listener) heard() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// events are those that are complete.
func (l *listener) events() []event { return readEvents(l.heard()) }

// values are what the events, or the lines, are of: what the backend has said.
func (l *listener) values() (all []string) {
	if l.resp.Header.Get("Content-Type") == "application/x-ndjson" {
		text := l.heard()
		for line := range strings.Lines(text[:strings.LastIndexByte(text, '\n')+1]) {
			if line != "\n" {
				all = append(all, valueOf(l.t, line))
			}
		}
		return all
	}
	for _, e := range l.events() {
		all = append(all, valueOf(l.t, e.data))
	}
	return all
}

// valueOf reads what the backend writes.
func valueOf(t *testing.T, text string) string {
	var state struct{ Value string }
	if err := json.Unmarshal([]byte(text), &state); err != nil {
		t.Errorf("got %.200q: %v", text, err)
	}
	return state.Value
}

// await waits until these have been heard, and no others.
func (l *listener) await(want ...string) {
	l.t.Helper()
	waitUntil(l.t, func() string {
		l.mu.Lock()
		defer l.mu.Unlock()
		return fmt.Sprintf("heard %.500q, %v; want the values %q", l.text, l.err, want)
	}, func() bool {
		return strings.Join(l.values(), " ") == strings.Join(want, " ")
	})
}

// wantEnd waits for the end of the stream, which is between two events.
func (l *listener) wantEnd() {
	l.t.Helper()
	select {
	case <-l.ended:
	case <-time.After(deadline):
		l.t.Fatalf("the stream does not end; heard %.500q", l.heard())
	}
	if l.err != nil {
		l.t.Errorf("the stream has ended with %v", l.err)
	}
	l.wantWhole()
}

// wantWhole fails the test if there is a part of an event, or of a line.
func (l *listener) wantWhole() {
	l.t.Helper()
	text := l.heard()
	end := strings.TrimLeft(text[strings.LastIndex(text, "\n\n")+1:], "\n")
	if l.resp.Header.Get("Content-Type") == "application/x-ndjson" {
		end = text[strings.LastIndexByte(text, '\n')+1:]
	}
	if strings.ReplaceAll(end, ":\n", "") != "" && text != "" {
		l.t.Errorf("the stream has ended with a part of an event: %.200q", end)
	}
}

// event is a server-sent event.
type event struct{ name, id, data string }

// readEvents reads events as a browser does: what is not complete is not told.
func readEvents(text string) (all []event) {
	var e event
	var data []string
	for {
		line, rest, complete := strings.Cut(text, "\n")
		if !complete {
			return all
		}
		text = rest
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if data != nil {
				e.data = strings.Join(data, "\n")
				all = append(all, e)
			}
			e, data = event{id: e.id}, nil
		case field == "data":
			data = append(data, value)
		case field == "event":
			e.name = value
		case field == "id":
			e.id = value
		}
	}
}

// streams is how many are open.
func (s *sidecar) waitStreams(n int) {
	s.t.Helper()
	var open int
	waitUntil(s.t, func() string { return fmt.Sprintf("%d streams are open instead of %d", open, n) }, func() bool {
		open = s.metric("caddy_long_poll_streams")
		return open == n
	})
}

// testStreamProtocols does on each protocol what streams are about.
func testStreamProtocols(t *testing.T, caddy binary) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			var status atomic.Int64
			b := serveBackend(t, nil)
			mux := http.NewServeMux()
			mux.Handle("/api/", b)
			mux.HandleFunc("/api/status", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("WWW-Authenticate", `Basic realm="shop"`)
				http.Error(w, "no", int(status.Load()))
			})
			b.kill()
			b.listen(t, mux)
			port := freePort(t)
			s := caddy.start(t, "", tlsSite(port, `
	long_poll /api/* {
		interval 100ms
		heartbeat 3s # after which a head is said without what is to be in it
		stream
	}
	reverse_proxy `+b.addr))
			c := s.newTLSClient(t, protocol, port)

			// A head may be said without its ETag where the machine stands still.
			listen := func(accept string) (l *listener) {
				open := s.metric("caddy_long_poll_streams")
				for range attempts {
					if l = c.listen("/api/a", accept); l.resp.Header.Get("ETag") != "" {
						break
					}
					l.leave()
					s.waitStreams(open)
				}
				return l
			}
			sse, ndjson := listen(acceptEvents), listen(acceptLines)
			for l, kind := range map[*listener]string{sse: "text/event-stream", ndjson: "application/x-ndjson"} {
				reply{status: l.resp.StatusCode, header: l.resp.Header}.want(t, 200, "streamed").
					wantFields(t, "Content-Type: "+kind, "Cache-Control: no-store", "X-Accel-Buffering: no", "Incremental: ?1", `ETag: "one"`)
				l.await("one")
			}
			if e := sse.events()[0]; e.id != `"one"` || e.name != "" {
				t.Errorf("got %q", e)
			}
			has := c.listen("/api/a", acceptEvents, `Last-Event-ID: "one"`)
			poll := c.poll("/api/a", `If-None-Match: "one"`)
			s.waitParked(4)
			s.waitStreams(3)
			waitFor(t, "a heartbeat", func() bool { return strings.HasPrefix(has.heard(), ":\n") })
			waitFor(t, "an empty line", func() bool { return strings.Contains(ndjson.heard(), "}\n\n") })
			b.set("two")
			sse.await("one", "two")
			ndjson.await("one", "two")
			has.await("two")
			poll.wait().want(t, 200, "changed")

			// Who leaves is gone, and the others are not disturbed.
			has.leave()
			s.waitStreams(2)
			b.set("three")
			sse.await("one", "two", "three")
			ndjson.await("one", "two", "three")

			// What is no state is told as it is.
			for _, code := range []int{401, 404} {
				status.Store(int64(code))
				c.get("/api/status", acceptEvents).want(t, code, "answered").wantBody(t, "no\n").
					wantFields(t, `WWW-Authenticate: Basic realm="shop"`, "Content-Type: text/plain; charset=utf-8")
			}

			// An outage is waited out, by those who come during it too.
			b.kill()
			waitFor(t, "the outage", func() bool { return s.metric(`caddy_long_poll_checks_total{result="failed"}`) > 0 })
			late := c.listen("/api/late", acceptEvents)
			b.set("four")
			b.listen(t, mux)
			sse.await("one", "two", "three", "four")
			ndjson.await("one", "two", "three", "four")
			late.await("four")

			s.exit(t)
			for _, l := range []*listener{sse, ndjson, late} {
				l.wantEnd()
			}
		})
	}
}

// testStreamReload reloads Caddy while large bodies change: no stream ends within an
// event, and who comes back has missed nothing that it could have heard.
func testStreamReload(t *testing.T, caddy binary) {
	var n atomic.Int64
	padding := strings.Repeat(`"0123456789",`+"\n", 20000) // 280 KB
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := n.Load()
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, now))
		fmt.Fprintf(w, `{"value":"%d","padding":[%s%d]}`, now, padding, now)
	}))
	port := freePort(t)
	sites := tlsSite(port, `
	long_poll {
		interval 100ms
		stream
	}
	reverse_proxy `+b.addr)
	s := caddy.start(t, "", sites)
	stop := make(chan struct{})
	var changes, ended sync.WaitGroup
	defer ended.Wait()
	changes.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				n.Add(1)
			case <-stop:
				return
			}
		}
	})
	const reloads = 3
	var began atomic.Int64 // reloads, and one more at the end
	for _, protocol := range protocols {
		for _, accept := range []string{acceptEvents, acceptLines} {
			shared := s.newTLSClient(t, protocol, port)
			ended.Go(func() {
				t.Run(protocol+", "+accept, func(t *testing.T) {
					c := *shared
					c.t = t
					last, id := -1, ""
					for round := range int64(reloads + 1) {
						fields := []string{accept}
						if id != "" {
							fields = append(fields, "Last-Event-ID: "+id)
						}
						l := c.listen("/", fields...)
						waitFor(t, "two states", func() bool { return strings.Count(l.heard(), "value") >= 2 })
						began.Add(1)
						l.wantEnd()
						for i, value := range l.values() {
							var number int
							fmt.Sscan(value, &number)
							again := i == 0 && accept == acceptLines // which says nothing of what it has heard
							if number < last || number == last && !again {
								t.Errorf("round %d: got %d after %d", round, number, last)
							}
							last = number
						}
						if accept == acceptEvents {
							all := l.events()
							id = all[len(all)-1].id
							if id != fmt.Sprintf(`"%d"`, last) {
								t.Errorf("the last id is %s; want that of %d", id, last)
							}
						}
					}
				})
			})
		}
	}
	for round := range int64(reloads + 1) {
		waitUntil(t, func() string { return fmt.Sprintf("%d streams have begun", began.Load()) }, func() bool { return began.Load() == 6*(round+1) })
		if round < reloads {
			s.reload(t, sites)
		} else {
			s.exit(t)
		}
	}
	ended.Wait()
	close(stop)
	changes.Wait()
}

// TestStreamTimeouts has streams last for longer than the server lets anything last: none
// is cut, nor is what comes next on the connection.
func TestStreamTimeouts(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	testStreamTimeouts(t, buildCaddy(t))
}

func testStreamTimeouts(t *testing.T, caddy binary) {
	mux := http.NewServeMux()
	mux.Handle("/other", &backend{value: "other"})
	b := serveBackend(t, mux)
	var options, sites strings.Builder
	ports := make(map[string]string)
	for name, timeouts := range map[string]string{
		"write":                 "write 3s",
		"write idle":            "write_idle 3s 10000",
		"all":                   "write 3s\nwrite_idle 3s 10000\nread_body 3s\nread_body_idle 3s 10000\nread_header 3s\nidle 1m",
		"the timeouts handler":  "idle 5m",
		"the handler and write": "write 3s\nread_body 3s",
	} {
		port := freePort(t)
		ports[name] = port
		fmt.Fprintf(&options, "\tservers 127.0.0.1:%s {\n\t\ttimeouts {\n%s\n\t\t}\n\t}\n", port, timeouts)
		var handler string
		if strings.Contains(name, "handler") {
			handler = "\ttimeouts {\n\t\twrite_timeout 3s 10000\n\t\tread_timeout 3s 10000\n\t}\n"
		}
		sites.WriteString(tlsSite(port, handler+`
	long_poll /api/* {
		hold 2m 0%
		interval 100ms
		stream
		stream_timeout 20s
	}
	reverse_proxy `+b.addr))
	}
	s := caddy.start(t, options.String(), sites.String())
	// Each stream has a state and a goroutine of its own: what comes next on its connection
	// comes when it has ended, and not when all have, after which the connection may have
	// been idle for too long. Subtests that are parallel would be so by a few at a time.
	var lives sync.WaitGroup
	paths := 0
	for name, port := range ports {
		for _, protocol := range protocols {
			shared := s.newTLSClient(t, protocol, port)
			for _, accept := range []string{acceptEvents, acceptLines} {
				paths++
				path, state := fmt.Sprintf("/api/%d", paths), &backend{value: "one"}
				mux.Handle(path, state)
				lives.Go(func() {
					t.Run(name+", "+protocol+", "+accept, func(t *testing.T) {
						c := *shared
						c.t = t
						c.liveThroughTimeouts(path, accept, state)
					})
				})
			}
		}
	}
	lives.Wait()
}

// liveThroughTimeouts has a stream be silent for longer than any timeout of
// TestStreamTimeouts, but for that of an idle connection, and be told of two states
// before it ends; and then another one, on the same connection.
func (c *client) liveThroughTimeouts(path, accept string, state *backend) {
	// The connection is there when the stream begins: the timeouts are for the handshake too.
	waitFor(c.t, "a connection", func() bool { return c.get("/other").status == 200 })
	var l *listener
	for range attempts {
		state.set("one")
		l = c.listen(path, accept)
		l.await("one")
		silence := time.NewTimer(4500 * time.Millisecond) // which is not to be seen from outside
		<-silence.C
		select {
		case <-l.ended: // the machine has stood still for all of the stream
			continue
		default:
		}
		break
	}
	state.set("two")
	l.wantEnd() // at its stream_timeout
	state.set("three")
	next := c.listen(path, acceptEvents)
	if !next.reused && c.protocol != "HTTP/3.0" { // which does not say so
		c.t.Error("the next request is on another connection")
	}
	if got := strings.Join(l.values(), " "); got != "one two" {
		c.t.Errorf("heard %s; want one two", got)
	}
	next.wantEnd()
	if got := strings.Join(next.values(), " "); got != "three" {
		c.t.Errorf("then heard %s; want three", got)
	}
	waitFor(c.t, "another answer", func() bool { return c.get("/other").status == 200 })
}

// testStreamEncode has `encode` in front of streams: they come when they are told all the
// same.
func testStreamEncode(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	caddy.start(t, "", site(port, `
	route {
		encode {
			gzip
			minimum_length 1
			match {
				header Content-Type text/*
				header Content-Type application/x-ndjson*
			}
		}
		long_poll {
			interval 100ms
			heartbeat 10m
			stream
		}
		reverse_proxy `+b.addr+`
	}`))
	c := newClient(t, port)
	var all []*listener
	for _, accept := range []string{acceptEvents, acceptLines} {
		for _, encoding := range []string{"Accept-Encoding: gzip", "Accept-Encoding: identity"} {
			all = append(all, c.listen("/", accept, encoding))
			// Its head comes though there is nothing to tell.
			c.listen("/", accept, encoding, `Last-Event-ID: "one"`)
		}
	}
	var want []string
	for _, value := range []string{"one", "two", "three"} {
		b.set(value)
		want = append(want, value)
		for _, l := range all {
			l.await(want...)
		}
	}
	if all[0].resp.Header.Get("Content-Encoding") != "gzip" {
		t.Error("nothing is compressed: the test is of no use")
	}
}

// testStreamNginx has an nginx in front with its defaults, which keep back what an
// upstream says.
func testStreamNginx(t *testing.T, caddy binary) {
	path, err := exec.LookPath("nginx")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			t.Skip("nginx is not installed: streams behind it are not tested")
		}
	}
	b := serveBackend(t, nil)
	port, front := freePort(t), freePort(t)
	s := caddy.start(t, "", site(port, `
	long_poll /api/* {
		interval 100ms
		heartbeat 300ms
		stream
	}
	reverse_proxy `+b.addr))
	dir := shortTempDir(t)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(fmt.Sprintf(`
daemon off;
master_process off;
pid %[1]s/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen 127.0.0.1:%[2]s;
		location / {
			proxy_pass http://127.0.0.1:%[3]s;
		}
		location /api/http1.1/ {
			proxy_pass http://127.0.0.1:%[3]s;
			proxy_http_version 1.1;
		}
	}
}
`, dir, front, port)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", file, "-p", dir)
	var said journal
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	waitUntil(t, func() string { return "nginx does not listen: " + said.String() }, func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+front)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	c := newClient(t, front)
	c.get("/other").want(t, 200, "")
	var all []*listener
	for _, path := range []string{"/api/http1.0/", "/api/http1.1/"} {
		for _, accept := range []string{acceptEvents, acceptLines} {
			all = append(all, c.listen(path, accept))
		}
	}
	has := c.listen("/api/http1.0/", acceptEvents, `Last-Event-ID: "one"`)
	waitFor(t, "a heartbeat", func() bool { return strings.HasPrefix(has.heard(), ":\n") })
	var want []string
	for _, value := range []string{"one", "two", "three"} {
		b.set(value)
		want = append(want, value)
		for _, l := range all {
			l.await(want...)
		}
	}
	for _, l := range all {
		l.leave()
	}
	has.leave()
	s.waitStreams(0)
}

// testStreamCurl has curl say what it hears at once.
func testStreamCurl(t *testing.T, caddy binary) {
	path, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed: it is not tested as a client of streams")
	}
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", tlsSite(port, `
	long_poll {
		interval 100ms
		stream
	}
	reverse_proxy `+b.addr))
	s.newTLSClient(t, "HTTP/2.0", port) // waits for the certificate
	type run struct {
		said journal
		cmd  *exec.Cmd
		want string
	}
	var all []*run
	for _, version := range []string{"--http1.1", "--http2"} {
		for accept, want := range map[string]string{acceptEvents: "data: %s\n\n", acceptLines: "%s\n"} {
			r := &run{cmd: exec.Command(path, "-N", "-s", "-k", version, "-H", accept, "https://localhost:"+port+"/"), want: want}
			r.cmd.Stdout = &r.said
			if err := r.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			all = append(all, r)
		}
	}
	t.Cleanup(func() {
		for _, r := range all {
			r.cmd.Process.Kill()
			r.cmd.Wait()
		}
	})
	for _, value := range []string{"one", "two", "three"} {
		b.set(value)
		for _, r := range all {
			waitUntil(t, func() string { return fmt.Sprintf("%q says %q; want %s", r.cmd.Args, r.said.String(), value) }, func() bool {
				return strings.HasSuffix(r.said.String(), fmt.Sprintf(r.want, fmt.Sprintf(`{"value":%q}`, value)))
			})
		}
	}
}

// testStreamLog reads the access log: a stream is one request, of the outcome streamed,
// whoever has ended it.
func testStreamLog(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	log
	log_append outcome {lp.outcome}
	log_append held {lp.held}
	long_poll /over {
		hold 2m 0%
		interval 100ms
		stream
		stream_timeout 5s
	}
	long_poll {
		hold 2m 0%
		interval 100ms
		stream
		max_parked 3
	}
	reverse_proxy `+b.addr))
	c := newClient(t, port)
	c.listen("/over", acceptEvents).wantEnd()
	left := c.listen("/left", acceptLines)
	left.await("one")
	left.leave()
	s.waitStreams(0)
	full := []*listener{c.listen("/full", acceptEvents), c.listen("/full", acceptEvents), c.listen("/full", acceptEvents)}
	c.get("/refused", acceptEvents).want(t, 503, "refused")
	for _, l := range full {
		l.leave()
	}
	s.waitStreams(0)
	drained := c.listen("/drained", acceptEvents)
	s.exit(t)
	drained.wantEnd()
	wants := map[string]string{"/over": "streamed", "/left": "streamed", "/full": "streamed", "/refused": "refused", "/drained": "streamed"}
	entries := s.logs.entries("handled request")
	if len(entries) != 7 {
		t.Errorf("there are %d entries instead of 7", len(entries))
	}
	for _, entry := range entries {
		uri := entry["request"].(map[string]any)["uri"].(string)
		held := fmt.Sprint(entry["held"])
		if entry["outcome"] != wants[uri] {
			t.Errorf("%s: got outcome %q", uri, entry["outcome"])
		}
		var seconds float64
		if _, err := fmt.Sscan(held, &seconds); err != nil {
			t.Errorf("%s: held is %q", uri, held)
		}
		if uri == "/over" && seconds < 4 {
			t.Errorf("%s: held for %v seconds; want 5", uri, seconds)
		}
	}
}

// testStreamTokens has clients that can send no Authorization name their token in the
// query: the backend gets it as Authorization, and what is private stays apart.
func testStreamTokens(t *testing.T, caddy binary) {
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "private")
		fmt.Fprintf(w, `{"value":"%s, %s"}`, r.Header.Get("Authorization"), r.URL.RawQuery)
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	@token query token=*
	request_header @token Authorization "Bearer {query.token}"
	long_poll {
		interval 100ms
		strip_query token
		stream
	}
	reverse_proxy `+b.addr))
	c := newClient(t, port)
	c.listen("/?token=alice", acceptEvents).await("Bearer alice, ")
	c.listen("/?token=bob", acceptLines).await("Bearer bob, ")
	c.listen("/?token=alice", acceptLines).await("Bearer alice, ")
	c.listen("/", acceptEvents).await(", ")
	if n := s.metric("caddy_long_poll_resources"); n != 3 {
		t.Errorf("there are %d resources; want one for each user", n)
	}
}
