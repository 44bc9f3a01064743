package integration_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestTransparent has clients and backends that know nothing of long_poll: they see
// nothing of it.
func TestTransparent(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	caddy := buildCaddy(t)
	for name, test := range map[string]func(*testing.T, binary){
		"site":            testWholeSite,
		"sockets":         testSockets,
		"polling backend": testPollingBackend,
		"streams":         testOwnStreams,
		"browser":         testBrowser,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, caddy)
		})
	}
}

// legacy is a backend that does what backends do, none of it for long_poll.
func legacy() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f http.HandlerFunc) { mux.HandleFunc(pattern, f) }
	tell := func(w http.ResponseWriter, kind, text string) {
		w.Header().Set("Content-Type", kind)
		io.WriteString(w, text)
	}
	handle("/app/plain", func(w http.ResponseWriter, r *http.Request) { tell(w, "application/json", `{"a":1}`) })
	handle("/app/cached", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=60")
		w.Header().Set("CDN-Cache-Control", "max-age=600")
		w.Header().Set("Vary", "Accept-Language")
		tell(w, "text/html", "<p>"+r.Header.Get("Accept-Language"))
	})
	handle("/app/private", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "private, no-store")
		w.Header().Set("Vary", "*")
		tell(w, "text/plain", "of "+r.Header.Get("User-Agent")+" at "+r.Header.Get("X-Forwarded-For"))
	})
	handle("/app/modified", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "modified.txt", time.Unix(1e9, 0), strings.NewReader(strings.Repeat("0123456789", 100)))
	})
	handle("/app/tagged", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, r, "tagged.txt", time.Time{}, strings.NewReader("tagged"))
	})
	handle("/app/weak", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `W/"v1"`)
		tell(w, "text/plain", "always all of it")
	})
	handle("/app/cookies", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
		http.SetCookie(w, &http.Cookie{Name: "b", Value: "2", HttpOnly: true})
		tell(w, "text/plain", "cookies: "+r.Header.Get("Cookie"))
	})
	handle("/app/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		names := slices.Sorted(maps.Keys(r.Header))
		for _, name := range names {
			if name != "X-Forwarded-Host" { // the port of each site is another
				fmt.Fprintf(w, "%s: %q\n", name, r.Header[name])
			}
		}
		fmt.Fprintf(w, "%s %s %d %v %v %v", r.Method, r.RequestURI, r.ContentLength, len(body), r.Trailer, err)
	})
	handle("/app/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		var code int
		fmt.Sscan(r.PathValue("code"), &code)
		w.Header().Set("Location", "/elsewhere")
		w.Header().Set("Retry-After", "7")
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(code)
		if code != 204 && code != 304 {
			fmt.Fprintf(w, "status %d", code)
		}
	})
	handle("/app/empty", func(http.ResponseWriter, *http.Request) {})
	handle("/app/untyped", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html><p>sniff me") })
	handle("/app/chunks", func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			fmt.Fprintf(w, "chunk %d\n", i)
			w.(http.Flusher).Flush()
		}
	})
	handle("/app/large", func(w http.ResponseWriter, r *http.Request) {
		w.Write(bytes.Repeat([]byte("large "), 1<<19)) // 3 MiB
	})
	handle("/app/long", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(6<<19))
		w.Write(bytes.Repeat([]byte("large "), 1<<19))
	})
	handle("/app/zipped", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Type", "application/json")
		z := gzip.NewWriter(w)
		io.WriteString(z, `{"zipped":true}`)
		z.Close()
	})
	handle("/app/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		tell(w, "text/html", "<p>hinted")
	})
	handle("/app/trailers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Checksum")
		tell(w, "text/plain", "with a trailer")
		w.Header().Set("X-Checksum", "42")
	})
	handle("/app/cors", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		w.Header().Set("Access-Control-Allow-Methods", "GET, POST")
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		tell(w, "application/json", "{}")
	})
	handle("/app/broken", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, "half")
		panic(http.ErrAbortHandler)
	})
	return mux
}

// files are a directory with what a site has.
func files(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"index.html": "<!DOCTYPE html><p>index", "style.css": strings.Repeat("p { color: red }\n", 200),
		"app.js": strings.Repeat("console.log('app');\n", 200), "movie.mp4": strings.Repeat("0123456789abcdef", 1<<17), // 2 MiB
		"data/list.json": `[1,2,3]`, "empty.txt": "",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// told is an answer in full.
type told struct {
	status  int
	header  http.Header
	body    string
	trailer http.Header
	informs []string // informational responses
	err     bool
}

// ask makes a request, and notes all that comes back.
func (c *client) ask(t *testing.T, method, path, body string, fields []string) told {
	t.Helper()
	var tell told
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			if code != http.StatusContinue { // Caddy's own and the backend's may be one
				tell.informs = append(tell.informs, fmt.Sprint(code, " ", header["Link"]))
			}
			return nil
		},
	}), method, c.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		req.Header.Add(name, value)
	}
	resp, err := c.http.Transport.RoundTrip(req) // a redirection is an answer too
	if err != nil {
		tell.err = true
		return tell
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	tell.status, tell.header, tell.body, tell.trailer, tell.err = resp.StatusCode, resp.Header, string(text), resp.Trailer, err != nil
	if _, boundary, ok := strings.Cut(resp.Header.Get("Content-Type"), "boundary="); ok { // chosen at random
		resp.Header.Set("Content-Type", "multipart")
		tell.body = strings.ReplaceAll(tell.body, boundary, "boundary")
	}
	if resp.Proto != c.protocol {
		t.Errorf("got an answer by %s instead of %s", resp.Proto, c.protocol)
	}
	return tell
}

// wantSame fails the test unless got is what want is: the answer of the same site
// without long_poll. What long_poll may add to it is Long-Poll, and the ETag of a 2xx
// that has none, with a Cache-Control that has nobody keep what nobody kept before.
func wantSame(t *testing.T, what string, got, want told) {
	t.Helper()
	if why := got.header.Get("Long-Poll"); !got.err && !strings.HasPrefix(why, "answered") && why != "bypassed" {
		t.Errorf("%s: got Long-Poll: %q", what, why)
	}
	for _, h := range []http.Header{got.header, want.header} {
		for _, name := range []string{"Date", "Long-Poll", "Alt-Svc"} {
			h.Del(name)
		}
		if (want.status == http.StatusNoContent || want.status == http.StatusNotModified) && h.Get("Content-Length") == "0" {
			h.Del("Content-Length") // by HTTP/3, depending on who is faster
		}
	}
	if tag := got.header.Get("ETag"); tag != "" && want.header.Get("ETag") == "" {
		if !strings.HasPrefix(tag, `W/"`) || want.status/100 != 2 {
			t.Errorf("%s: got ETag: %s with a %d", what, tag, got.status)
		}
		got.header.Del("ETag")
		if len(want.header["Cache-Control"])+len(want.header["Last-Modified"])+len(want.header["Expires"]) == 0 {
			if cc := got.header.Get("Cache-Control"); cc != "no-store" {
				t.Errorf("%s: got Cache-Control: %q", what, cc)
			}
			got.header.Del("Cache-Control")
		}
		// What is known to its end has a length.
		if want.header.Get("Content-Length") == "" && got.header.Get("Content-Length") == fmt.Sprint(len(got.body)) {
			got.header.Del("Content-Length")
		}
	}
	if got.status != want.status || got.err != want.err || !slices.Equal(got.informs, want.informs) {
		t.Errorf("%s: got %d, %q, failure %t, want %d, %q, failure %t", what, got.status, got.informs, got.err, want.status, want.informs, want.err)
	}
	if !maps.EqualFunc(got.header, want.header, slices.Equal) || !maps.EqualFunc(got.trailer, want.trailer, slices.Equal) {
		t.Errorf("%s: got the fields\n%v %v, want\n%v %v", what, got.header, got.trailer, want.header, want.trailer)
	}
	if got.body != want.body {
		t.Errorf("%s: got %d bytes, %.200q, want %d, %.200q", what, len(got.body), got.body, len(want.body), want.body)
	}
}

// testWholeSite compares all that a site does with what it does without long_poll,
// which is on all of it.
func testWholeSite(t *testing.T, caddy binary) {
	b := serveBackend(t, legacy())
	root := files(t)
	const parts = `
	@app path /app/*
	reverse_proxy @app BACKEND
	root * ROOT
	file_server
	handle_errors {
		header X-Page error
		respond "sorry, {err.status_code}"
	}`
	layouts := map[string]string{
		"plain":        "\tPOLL\n" + parts,
		"encode":       "\tencode gzip\n\tPOLL\n" + parts, // behind, by the order of directives
		"encode first": "\troute {\n\t\tencode gzip\n\t\tPOLL\n\t\treverse_proxy /app/* BACKEND\n\t\troot * ROOT\n\t\tfile_server\n\t}\n\thandle_errors {\n\t\trespond \"sorry, {err.status_code}\"\n\t}\n",
		"streaming":    "\tPOLL\n\troot * ROOT\n\theader X-Site yes\n\theader /app/* Cache-Control max-age=5\n\theader >X-Late late\n\theader ?X-Default default\n\treverse_proxy /app/* BACKEND {\n\t\tflush_interval -1\n\t\theader_down -X-None\n\t}\n\tfile_server {\n\t\tprecompressed gzip\n\t}\n",
	}
	requests := []struct {
		method, path, body string
		fields             []string
	}{
		{path: "/"}, {path: "/style.css"}, {path: "/app.js", fields: []string{"Accept-Encoding: gzip"}}, {path: "/movie.mp4"}, {path: "/empty.txt"},
		{path: "/data"}, {path: "/data/"}, {path: "/data/list.json?q=1"}, {path: "/missing"}, {path: "/../etc/passwd"},
		{path: "/movie.mp4", fields: []string{"Range: bytes=100-199"}}, {path: "/movie.mp4", fields: []string{"Range: bytes=0-1,5-6"}},
		{path: "/movie.mp4", fields: []string{"Range: bytes=99999999-"}}, {path: "/movie.mp4", fields: []string{"Range: bytes=-10", `If-Range: "no"`}},
		{method: "HEAD", path: "/movie.mp4"}, {method: "OPTIONS", path: "/"}, {method: "POST", path: "/", body: "a form"}, {method: "PUT", path: "/index.html", body: "x"},
		{path: "/style.css", fields: []string{"If-Modified-Since: Wed, 01 Jan 2122 00:00:00 GMT", "Sec-Fetch-Dest: style"}},
		{path: "/style.css", fields: []string{`If-None-Match: *`, "User-Agent: Mozilla/5.0"}},
		{path: "/style.css", fields: []string{`If-Match: "none"`}}, {path: "/style.css", fields: []string{"If-Unmodified-Since: Wed, 01 Jan 2003 00:00:00 GMT"}},
		{path: "/app/plain"}, {path: "/app/plain", fields: []string{"Accept-Encoding: gzip, br", "Accept: */*"}}, {path: "/app/cached", fields: []string{"Accept-Language: de"}},
		{path: "/app/cached", fields: []string{"Cache-Control: no-cache", "Pragma: no-cache"}}, {path: "/app/private", fields: []string{"User-Agent: Alice/1"}},
		{path: "/app/modified"}, {path: "/app/modified", fields: []string{"Range: bytes=1-2"}}, {method: "HEAD", path: "/app/modified"},
		{path: "/app/modified", fields: []string{"If-Modified-Since: Sun, 09 Sep 2001 01:46:40 GMT", "User-Agent: Mozilla/5.0"}},
		{path: "/app/tagged"}, {path: "/app/tagged", fields: []string{`If-None-Match: "v1"`, "Sec-Fetch-Site: same-origin", "Sec-Fetch-Dest: empty"}},
		{path: "/app/tagged", fields: []string{`If-None-Match: "v0"`, "Sec-Fetch-Site: same-origin"}}, {path: "/app/weak"},
		{path: "/app/weak", fields: []string{`If-None-Match: W/"v1"`, "User-Agent: Mozilla/5.0"}},
		{path: "/app/cookies", fields: []string{"Cookie: a=1; b=2", "Cookie: c=3"}}, {path: "/app/cookies"},
		{path: "/app/echo?x=1&y=%2F", fields: []string{"X-One: 1", "Referer: http://a.example/", "User-Agent: Eve/2", "Traceparent: 00-1", "X-Request-Id: 7", "DNT: 1", "TE: trailers", "Cache-Control: max-age=0"}},
		{method: "POST", path: "/app/echo", body: strings.Repeat("body ", 100)}, {method: "DELETE", path: "/app/echo"}, {method: "HEAD", path: "/app/echo"},
		{method: "PATCH", path: "/app/echo", body: "{}", fields: []string{"Content-Type: application/json", `If-Match: "v1"`}}, {path: "/app/echo", body: "a GET with a body"},
		{method: "POST", path: "/app/echo", body: strings.Repeat("large body", 200000)}, {method: "QUERY", path: "/app/echo", body: "select"},
		{method: "POST", path: "/app/echo", body: "expected", fields: []string{"Expect: 100-continue"}},
		{path: "/app/empty"}, {path: "/app/untyped"}, {path: "/app/chunks"}, {path: "/app/large"}, {path: "/app/long"}, {path: "/app/zipped"},
		{path: "/app/zipped", fields: []string{"Accept-Encoding: gzip"}}, {path: "/app/hints"}, {path: "/app/trailers"}, {path: "/app/cors", fields: []string{"Origin: http://a.example"}},
		{method: "OPTIONS", path: "/app/cors", fields: []string{"Origin: http://a.example", "Access-Control-Request-Method: POST"}}, {path: "/app/broken"},
		{path: "/app/none"}, {path: "/socket", fields: []string{"Accept: text/event-stream"}},
	}
	for _, code := range []int{201, 202, 203, 204, 205, 206, 300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 409, 410, 412, 418, 422, 429, 451, 500, 501, 502, 503, 504} {
		requests = append(requests, struct {
			method, path, body string
			fields             []string
		}{path: fmt.Sprint("/app/status/", code)})
	}
	fill := strings.NewReplacer("BACKEND", b.addr, "ROOT", root)
	var sites strings.Builder
	ports, twins := make(map[string]string), make(map[string]string)
	for name, layout := range layouts {
		ports[name], twins[name] = freePort(t), freePort(t)
		sites.WriteString(tlsSite(ports[name], fill.Replace(strings.Replace(layout, "POLL", "long_poll", 1))) +
			tlsSite(twins[name], fill.Replace(strings.Replace(layout, "POLL", "", 1))))
	}
	s := caddy.start(t, "", sites.String())
	for name := range layouts {
		for _, protocol := range protocols {
			t.Run(name+", "+protocol, func(t *testing.T) {
				c, twin := s.newTLSClient(t, protocol, ports[name]), s.newTLSClient(t, protocol, twins[name])
				for _, r := range requests {
					before := b.asked.Load()
					want := twin.ask(t, r.method, r.path, r.body, r.fields)
					cost := b.asked.Load() - before
					got := c.ask(t, r.method, r.path, r.body, r.fields)
					what := fmt.Sprintf("%s %s %q", r.method, r.path, r.fields)
					wantSame(t, what, got, want)
					if n := b.asked.Load() - before - cost; n != cost {
						t.Errorf("%s: the backend was asked %d times, and %d without us", what, n, cost)
					}
				}
			})
		}
	}
	if n := s.metric("caddy_long_poll_resources"); n != 0 {
		t.Errorf("%d resources are kept of what nobody polls", n)
	}
}

// testSockets has a connection upgraded, over HTTP/1.1, on a site without a matcher and
// behind encode, and both ends speak in turn.
func testSockets(t *testing.T, caddy binary) {
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\nConnection: Upgrade\r\n\r\nwelcome\n")
		for {
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(conn, "echo of "+line)
		}
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, "\troute {\n\t\tencode gzip\n\t\tlong_poll\n\t\treverse_proxy "+b.addr+"\n\t}"))
	for _, fields := range []string{
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
		"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nIf-None-Match: \"a\"\r\nPrefer: wait=5\r\n",
		"Upgrade: SPDY/3.1\r\nConnection: Upgrade\r\n",
	} {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(deadline))
		io.WriteString(conn, "GET /socket HTTP/1.1\r\nHost: 127.0.0.1:"+port+"\r\n"+fields+"\r\n")
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Long-Poll") != "bypassed" {
			t.Fatalf("%q: got %v, %v", fields, resp, err)
		}
		for _, want := range []string{"welcome\n", "echo of hello\n"} {
			if line, err := r.ReadString('\n'); err != nil || line != want {
				t.Fatalf("%q: got %q, %v, want %q", fields, line, err, want)
			}
			io.WriteString(conn, "hello\n")
		}
	}
	if n := b.asked.Load(); n != 3 {
		t.Errorf("the backend was asked %d times for 3 connections", n)
	}
	if n := s.metric("caddy_long_poll_parked_requests"); n != 0 {
		t.Errorf("%d are parked", n)
	}
}

// testPollingBackend has a backend that holds its clients by itself, each in a session
// of its own, as socket.io's transport by polling does: a request that it holds for
// longer than a check may take is answered when the backend says so, with what is its
// own.
func testPollingBackend(t *testing.T, caddy binary) {
	var mu sync.Mutex
	queues := make(map[string]chan string)
	queue := func(sid string) chan string {
		mu.Lock()
		defer mu.Unlock()
		if queues[sid] == nil {
			queues[sid] = make(chan string, 10)
		}
		return queues[sid]
	}
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sid := r.URL.Query().Get("sid")
		if r.Method == http.MethodPost {
			text, _ := io.ReadAll(r.Body)
			queue(sid) <- string(text)
			io.WriteString(w, "ok")
			return
		}
		select {
		case text := <-queue(sid):
			w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
			io.WriteString(w, text)
		case <-r.Context().Done():
		}
	}))
	port := freePort(t)
	s := caddy.start(t, "", tlsSite(port, "\tlong_poll {\n\t\tcheck_timeout 100ms\n\t\thold 100ms\n\t}\n\treverse_proxy "+b.addr))
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			c := s.newTLSClient(t, protocol, port)
			const path = "/socket.io/?EIO=4&transport=polling&sid="
			var all []*pending
			before := b.asked.Load()
			for i := range 3 {
				all = append(all, c.poll(fmt.Sprint(path, protocol, i), "Cookie: io=1", "User-Agent: Mozilla/5.0"))
			}
			waitFor(t, "the backend to hold them", func() bool { return b.asked.Load() == before+int64(len(all)) })
			<-time.After(500 * time.Millisecond) // longer than anything of ours may last
			wantWaiting(t, all)
			for i, p := range all {
				c.send("POST", fmt.Sprint(path, protocol, i), fmt.Sprint("event ", i)).wait().want(t, 200, "bypassed").wantBody(t, "ok")
				p.wait().want(t, 200, "answered").wantBody(t, fmt.Sprint("event ", i))
			}
			if n := b.asked.Load() - before; n != int64(2*len(all)) {
				t.Errorf("the backend was asked %d times", n)
			}
		})
	}
}
