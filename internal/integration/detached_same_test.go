package integration_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sameCase is an exchange that is to look the same whether its poll is detached or not.
type sameCase struct {
	method string
	fields []string // of the request
	body   string
	status int         // of the answer that ends the wait
	header http.Header // of it
	text   string
	stays  bool // nothing changes until the time is up
}

// patient is for longer than a busy machine takes for all first checks, before which nobody
// is parked whose time could be up.
const patient = "Wait: 12"

// sameCases are many answers, statuses, methods and fields.
func sameCases() []sameCase {
	var all []sameCase
	for _, status := range []int{200, 201, 203, 204, 205, 206, 299, 301, 307, 400, 401, 403, 404, 410, 418, 451} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			all = append(all, sameCase{method: method, status: status, text: "some text"}, sameCase{method: method, status: status})
		}
	}
	for _, h := range []http.Header{
		{"Content-Type": {"text/html"}}, {"Content-Type": nil}, {"Content-Type": {""}},
		{"X-Odd": {"a\x80\xffb\t c", " led and trailed ", ""}},
		{"Content-Encoding": {"gzip"}}, {"Content-Encoding": {""}},
		{"Trailer": {"X-Later"}}, {"X-Under_score": {"a"}}, {"Set-Cookie": {"a=b", "c=d"}},
		{"Date": {"Sun, 06 Nov 1994 08:49:37 GMT"}}, {"Server": {"other"}}, {"Connection": {"close"}},
		{"Connection": {"X-Hop"}, "X-Hop": {"1"}}, {"Keep-Alive": {"timeout=5"}}, {"Cache-Control": {"max-age=5"}},
		{"Vary": {"Accept"}}, {"Location": {"/b"}}, {"Last-Modified": {"Sun, 06 Nov 1994 08:49:37 GMT"}},
		{"Www-Authenticate": {"Basic"}}, {"Link": {"</a>; rel=preload"}}, {"Alt-Svc": {"clear"}}, {"X-Content-Type-Options": {"nosniff"}},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			all = append(all, sameCase{method: method, status: 200, header: h, text: "some text"})
		}
	}
	for _, size := range []int{1, 2047, 2048, 2049, 4096, 8 << 10, 8<<10 + 1, 100 << 10} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			all = append(all, sameCase{method: method, status: 200, text: strings.Repeat("x", size), body: "asked"})
		}
	}
	for _, fields := range [][]string{
		{"Connection: close"}, {"Connection: keep-alive"}, {"Connection: Keep-Alive, close"},
		{"TE: trailers"}, {"Accept-Encoding: gzip"}, {"Origin: https://example.com"},
		{"Authorization: Basic YTpi"}, {"Cookie: a=b"}, {"X-Forwarded-For: 10.0.0.1"}, {"User-Agent: other"},
	} {
		all = append(all, sameCase{method: "GET", fields: fields, status: 200, text: "some text"},
			sameCase{method: "GET", fields: append([]string{patient}, fields...), stays: true})
	}
	return append(all,
		sameCase{method: "POST", fields: []string{"Expect: 100-continue"}, body: "asked", status: 200, text: "some text"},
		sameCase{method: "POST", fields: []string{"Transfer-Encoding: chunked"}, body: "5\r\nasked\r\n0\r\n\r\n", status: 200, text: "some text"},
		sameCase{method: "HEAD", fields: []string{patient}, stays: true},
		sameCase{method: "GET", fields: []string{"Prefer: wait=12"}, stays: true},
		sameCase{method: "POST", fields: []string{patient}, body: "asked", stays: true},
	)
}

// serve answers with what the case says that the path names, once told to.
func (c sameCase) serve(w http.ResponseWriter, r *http.Request, changed bool) {
	if !changed || c.stays {
		w.Header().Set("ETag", `"one"`)
		if r.Header.Get("If-None-Match") == `"one"` {
			w.WriteHeader(http.StatusNotModified)
		} else {
			io.WriteString(w, "one")
		}
		return
	}
	w.Header().Set("ETag", `"two"`)
	maps.Copy(w.Header(), c.header)
	w.WriteHeader(c.status)
	if r.Method != "HEAD" {
		io.WriteString(w, c.text)
	}
}

// read reads what comes over the wire, but for times.
func (c sameCase) read(t *testing.T, from *bufio.Reader) string {
	t.Helper()
	var b bytes.Buffer
	for range 3 { // with a 100, and one more that tells where it ends
		fmt.Fprintln(&b, order(from))
		resp, err := http.ReadResponse(from, &http.Request{Method: c.method})
		if errors.Is(err, syscall.ECONNRESET) {
			err = io.ErrUnexpectedEOF // which of them it is, is a matter of when the next request comes
		}
		if err != nil {
			fmt.Fprintf(&b, "%v\n", err)
			break
		}
		body, err := io.ReadAll(resp.Body)
		resp.Header.Set("Date", fmt.Sprint(len(resp.Header["Date"]), resp.Header.Get("Date") == "Sun, 06 Nov 1994 08:49:37 GMT"))
		outcome, _, _ := strings.Cut(resp.Header.Get("Long-Poll"), ";")
		resp.Header.Set("Long-Poll", outcome)
		fmt.Fprintf(&b, "%s %s %v %d close %t %v\n", resp.Proto, resp.Status, resp.TransferEncoding, resp.ContentLength, resp.Close, err)
		for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
			fmt.Fprintf(&b, "%s: %q\n", name, resp.Header[name])
		}
		fmt.Fprintf(&b, "\n%d %.40q\n", len(body), body)
		if resp.StatusCode >= 200 {
			if c.method = "GET"; resp.Close {
				rest, _ := io.ReadAll(from)
				fmt.Fprintf(&b, "then %q\n", rest)
				break
			}
		}
	}
	return b.String()
}

// order is the names of the fields of the response that comes next, as they come.
func order(from *bufio.Reader) (names []string) {
	for {
		some, err := from.Peek(from.Buffered() + 1)
		if head, _, whole := bytes.Cut(some, []byte("\r\n\r\n")); whole || err != nil {
			for line := range bytes.Lines(head) {
				if name, _, is := bytes.Cut(line, []byte(":")); is {
					names = append(names, string(name))
				}
			}
			return names
		}
	}
}

// testDetachedSame has the same exchanges take place with and without detach: what comes
// over the wire and what the access log tells of it are the same but for times and ports.
func testDetachedSame(t *testing.T, caddy binary) {
	cases := sameCases()
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
		methods GET HEAD POST
		hold 90s 0%
		header X-Ours {lp.outcome}
		`+detach+`
	}
	reverse_proxy `+state.addr)
	}
	s := caddy.start(t, "", all(ports[0], "")+all(ports[1], "detach"))
	wires := make([][]*wire, len(ports))
	send := func(stays bool) (sent int) {
		for n, port := range ports {
			wires[n] = append(wires[n], make([]*wire, len(cases)-len(wires[n]))...)
			for i, c := range cases {
				if c.stays != stays {
					continue
				}
				w := dialWire(t, port)
				w.say(fmt.Sprintf("%s /%d?q=%%20 HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-None-Match: \"one\"\r\nContent-Length: %d\r\n%s\r\n%s",
					c.method, i, len(c.body), strings.Join(append(c.fields, ""), "\r\n"), c.body))
				wires[n][i] = w
				sent++
			}
		}
		return sent
	}
	parked := send(false)
	s.waitParked(parked)
	if n := s.metric("caddy_long_poll_detached_requests"); n != parked/2 {
		t.Errorf("%d of %d are detached", n, parked/2)
	}
	send(true)
	state.set("two")
	for i, c := range cases {
		var texts []string
		for n := range ports {
			w := wires[n][i]
			_ = w.SetDeadline(time.Now().Add(deadline))
			w.say("GET /none HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
			texts = append(texts, c.read(t, w.read))
		}
		if texts[0] != texts[1] {
			t.Errorf("case %d: %+.200v:\n%s\nand detached:\n%s", i, c, texts[0], texts[1])
		}
	}
	s.wantSameLines(ports, len(cases), nil)
}

// wantSameLines waits until each of two ports has logged so many exchanges, and fails the
// test where they are logged in two ways, or check objects to an entry.
func (s *sidecar) wantSameLines(ports []string, want int, check func(port int, path string, entry map[string]any)) {
	s.t.Helper()
	lines := make([]map[string]string, len(ports))
	waitUntil(s.t, func() string { return fmt.Sprintf("%d lines, and %d", len(lines[0]), len(lines[1])) }, func() bool {
		for n := range ports {
			lines[n] = make(map[string]string)
		}
		for _, e := range s.logs.entries("handled request") {
			r := e["request"].(map[string]any)
			n := slices.Index(ports, fmt.Sprint(e["port"]))
			delete(e, "port")
			uri, _ := url.Parse(r["uri"].(string))
			if uri.Path == "/none" {
				continue
			}
			for _, name := range []string{"ts", "duration"} {
				if e[name] == nil {
					s.t.Fatalf("%v has no %s", e, name)
				}
				delete(e, name)
			}
			if check != nil {
				check(n, uri.Path, e)
			}
			delete(r, "remote_port")
			h := e["resp_headers"].(map[string]any)
			delete(h, "Date")
			if of, ok := h["Long-Poll"].([]any); ok {
				h["Long-Poll"], _, _ = strings.Cut(of[0].(string), ";")
			}
			text, _ := json.MarshalIndent(e, "", " ")
			lines[n][uri.Path] = string(text)
		}
		return len(lines[0]) == want && len(lines[1]) == want
	})
	for _, path := range slices.Sorted(maps.Keys(lines[0])) {
		if usual := lines[0][path]; lines[1][path] != usual {
			s.t.Errorf("%s is logged as\n%s\nand detached as\n%s", path, usual, lines[1][path])
		}
	}
}
