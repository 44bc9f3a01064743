package integration_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// testTokens has visitors ask, faster than the backend answers, for what is made for
// each of them: each gets its own token, and the session that this is of.
func testTokens(t *testing.T, caddy binary) {
	var made atomic.Int64
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := made.Add(1)
		select {
		case <-time.After(150 * time.Millisecond):
		case <-r.Context().Done():
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "session", Value: fmt.Sprintf("session-of-visitor-%d", n)})
		fmt.Fprintf(w, `{"token":"session-of-visitor-%d"}`, n)
	}))
	port := freePort(t)
	caddy.start(t, "", site(port, "\tlong_poll /api/*\n\treverse_proxy "+b.addr))
	c := newClient(t, port)

	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	all := crowd(15, func(int) *pending {
		<-tick.C
		return c.poll("/api/csrf")
	})
	tokens := make(map[string]bool)
	for _, p := range all {
		r := p.wait().want(t, 200, "answered")
		_, session, _ := strings.Cut(r.header.Get("Set-Cookie"), "=")
		if session == "" || r.body != fmt.Sprintf(`{"token":%q}`, session) {
			t.Errorf("got %v with the session %q", r, session)
		}
		tokens[r.body] = true
	}
	if len(tokens) != len(all) || made.Load() != int64(len(all)) {
		t.Errorf("%d visitors got %d tokens, of %d that were made", len(all), len(tokens), made.Load())
	}
}

// testFrontController has every path rewritten to one script, which looks at what the
// request was before.
func testFrontController(t *testing.T, caddy binary) {
	see := &recall{see: func(r *http.Request) string { return r.Header.Get("X-Orig") + " by " + r.RequestURI }}
	b := serveBackend(t, see)
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	rewrite /api/* /index.php?{query}
	long_poll {
		interval 100ms
	}
	reverse_proxy `+b.addr+` {
		header_up X-Orig {http.request.orig_uri}
	}`))
	c := newClient(t, port)

	says := func(id int) string { return fmt.Sprintf("/api/orders/%d?q by /index.php?q", id) }
	var all []*pending
	for id := range 3 {
		path := fmt.Sprintf("/api/orders/%d?q", id)
		first := c.get(path, "Prefer: wait=20").want(t, 200, "answered").wantBody(t, says(id)+", ")
		all = append(all, c.poll(path, "If-None-Match: "+first.header.Get("ETag")))
		s.waitParked(len(all))
		see.waitChecks(t, says(id))
		// One that has what another order is does not have this one.
		c.get(fmt.Sprintf("/api/orders/%d?q", id+1), "If-None-Match: "+first.header.Get("ETag")).
			want(t, 200, "answered").wantBody(t, says(id+1)+", ")
	}
	wantWaiting(t, all)
	see.set("changed")
	for id, p := range all {
		p.wait().want(t, 200, "changed").wantBody(t, says(id)+", changed")
	}
}

// testFieldsOfOthers has one client say what others do not, before they come and while
// they are parked: they are told what their own requests ask for.
func testFieldsOfOthers(t *testing.T, caddy binary) {
	see := &recall{see: func(r *http.Request) string {
		if url := r.Header.Get("X-Original-Url"); url != "" {
			return url // as IIS and Symfony do
		}
		return r.URL.Path + " of " + r.Header.Get("X-Tenant") + " as " + r.Header.Get("Accept")
	}}
	b := serveBackend(t, see)
	port := freePort(t)
	s := caddy.start(t, "", site(port, "\tlong_poll {\n\t\tinterval 100ms\n\t}\n\treverse_proxy "+b.addr))
	usual := []string{"X-Tenant: acme", "Accept: text/csv"}
	const says = "/report of acme as text/csv"

	for i, odd := range []string{
		"Connection: Accept, X-Tenant", "X-Original-URL: /evil", "X-Rewrite-URL: /evil", "X-HTTP-Method-Override: DELETE",
		"Transfer-Encoding: trailers", "TE: trailers", "Upgrade: h2c", "Keep-Alive: timeout=1", "Expect: 100-continue",
	} {
		t.Run(odd, func(t *testing.T) {
			see.set(fmt.Sprint("before ", i))
			c, odds := newClient(t, port), newClient(t, port)
			first := odds.poll("/report", append(usual, odd, `If-None-Match: "zero"`)...)
			before := c.get("/report", append(usual, "Prefer: wait=20")...).want(t, 200, "answered").wantBody(t, fmt.Sprint(says, ", before ", i))
			first.wait()
			version := "If-None-Match: " + before.header.Get("ETag")
			var strange []*pending
			for range 3 {
				strange = append(strange, odds.poll("/report", append(usual, odd, version)...))
			}
			p := c.poll("/report", append(usual, version)...)
			see.waitChecks(t, says)
			wantWaiting(t, []*pending{p})
			see.set(fmt.Sprint("after ", i))
			p.wait().want(t, 200, "changed").wantBody(t, fmt.Sprint(says, ", after ", i))
			for _, p := range strange {
				p.wait()
			}
			s.waitParked(0)
		})
	}
}

// testVaryOnAddress has a backend answer by the address that Caddy tells it, and say
// so.
func testVaryOnAddress(t *testing.T, caddy binary) {
	see := &recall{see: func(r *http.Request) string { return r.Header.Get("X-Forwarded-For") }}
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "X-Forwarded-For")
		see.ServeHTTP(w, r)
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, "\tlong_poll {\n\t\tinterval 100ms\n\t}\n\treverse_proxy "+b.addr))

	addresses := []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"}
	var all []*pending
	for _, address := range addresses {
		c := newClientAt(t, address, port)
		first := c.get("/").want(t, 200, "answered").wantBody(t, address+", ")
		for range 2 {
			all = append(all, c.poll("/", "If-None-Match: "+first.header.Get("ETag")))
		}
	}
	for _, address := range addresses {
		see.waitChecks(t, address)
	}
	s.waitParked(len(all))
	wantWaiting(t, all)
	see.set("changed")
	for i, p := range all {
		p.wait().want(t, 200, "changed").wantBody(t, addresses[i/2]+", changed")
	}
}

// testForwarded compares what the backend is told of how the site was asked for with
// what it is told without us, behind a proxy that is trusted and behind one that is
// not; and has tenants who differ in that alone.
func testForwarded(t *testing.T, caddy binary) {
	see := &recall{see: func(r *http.Request) string {
		return r.Host + " " + r.Header.Get("X-Forwarded-Host") + " " + r.Header.Get("X-Forwarded-Proto")
	}}
	b := serveBackend(t, see)
	behind := "\treverse_proxy " + b.addr
	poll := "\tlong_poll {\n\t\tinterval 100ms\n\t}\n" + behind
	port, twin, open, openTwin, secure, secureTwin := freePort(t), freePort(t), freePort(t), freePort(t), freePort(t), freePort(t)
	var options string
	for _, p := range []string{port, twin} {
		options += "\tservers 127.0.0.1:" + p + " {\n\t\ttrusted_proxies static 127.0.0.1/32\n\t}\n"
	}
	s := caddy.start(t, options, site(port, poll)+site(twin, behind)+site(open, poll)+site(openTwin, behind)+
		tlsSite(secure, poll)+tlsSite(secureTwin, behind))

	pairs := map[string][2]*client{
		"trusted":   {newClient(t, port), newClient(t, twin)},
		"untrusted": {newClient(t, open), newClient(t, openTwin)},
	}
	for _, protocol := range protocols {
		pairs[protocol] = [2]*client{s.newTLSClient(t, protocol, secure), s.newTLSClient(t, protocol, secureTwin)}
	}
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			see.set("before " + name)
			c, plain := pair[0], pair[1]
			ports := strings.NewReplacer(c.base[strings.LastIndex(c.base, ":"):], ":PORT", plain.base[strings.LastIndex(plain.base, ":"):], ":PORT")
			var all []*pending
			tenants := [][]string{
				nil,
				{"X-Forwarded-Host: acme.example", "X-Forwarded-Proto: https"},
				{"X-Forwarded-Host: bolt.example", "X-Forwarded-Proto: https"},
				{"X-Forwarded-Host: acme.example", "X-Forwarded-Proto: http"},
			}
			var says []string
			for _, tenant := range tenants {
				want := ports.Replace(plain.get("/", tenant...).want(t, 200, "").body)
				says = append(says, strings.TrimSuffix(want, ", before "+name))
				r := c.get("/", append(tenant, "Prefer: wait=20")...).want(t, 200, "answered")
				if got := ports.Replace(r.body); got != want {
					t.Errorf("%q: the backend was told %q, want %q", tenant, got, want)
				}
				all = append(all, c.poll("/", append(tenant, "If-None-Match: "+r.header.Get("ETag"))...))
				s.waitParked(len(all))
			}
			if name == "trusted" && len(slices.Compact(slices.Sorted(slices.Values(says)))) != len(tenants) {
				t.Errorf("the backend can not tell the tenants apart: %q", says)
			}
			wantWaiting(t, all)
			see.set("after " + name)
			for i, p := range all {
				r := p.wait().want(t, 200, "changed")
				if got, want := ports.Replace(r.body), says[i]+", after "+name; got != want {
					t.Errorf("%q: got %q, want %q", tenants[i], got, want)
				}
			}
		})
	}
}

// proxied is a listener for a backend that is told by PROXY protocol, version 1, who
// the client is.
type proxied struct{ net.Listener }

func (l proxied) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &proxiedConn{Conn: conn, in: bufio.NewReader(conn)}, nil
}

type proxiedConn struct {
	net.Conn
	in     *bufio.Reader
	once   sync.Once
	failed error
	source string
}

func (c *proxiedConn) Read(p []byte) (int, error) {
	c.once.Do(func() {
		var line string
		if line, c.failed = c.in.ReadString('\n'); c.failed != nil {
			return
		}
		if words := strings.Fields(line); len(words) > 2 && words[0] == "PROXY" {
			c.source = words[2]
		} else {
			c.failed = fmt.Errorf("reading %q in place of PROXY protocol", line)
		}
	})
	if c.failed != nil {
		return 0, c.failed
	}
	return c.in.Read(p)
}

// testProxyProtocolBehind has a backend that takes no connection without being told
// who it is for.
func testProxyProtocolBehind(t *testing.T, caddy binary) {
	type connKey struct{}
	see := &recall{see: func(r *http.Request) string { return r.Context().Value(connKey{}).(*proxiedConn).source }}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: see, ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}}
	go server.Serve(proxied{ln})
	t.Cleanup(func() { server.Close() })
	port, shared := freePort(t), freePort(t)
	behind := "\treverse_proxy " + ln.Addr().String() + " {\n\t\ttransport http {\n\t\t\tproxy_protocol v1\n\t\t}\n\t}\n"
	s := caddy.start(t, "", site(port, "\tlong_poll {\n\t\tinterval 100ms\n\t}\n"+behind)+
		site(shared, "\tlong_poll {\n\t\tinterval 100ms\n\t\tvary -client_ip\n\t}\n"+behind))
	s.wantLooks(t, "proxy_protocol")

	for _, test := range []struct{ name, port, first, second string }{
		{"its client's", port, "127.0.0.1", "127.0.0.2"},
		{"nobody's", shared, "192.0.2.1", "192.0.2.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			see.set("before " + test.name)
			var all []*pending
			for address, told := range map[string]string{"127.0.0.1": test.first, "127.0.0.2": test.second} {
				c := newClientAt(t, address, test.port)
				c.get("/").want(t, 200, "answered").wantBody(t, address+", before "+test.name)
				r := c.get("/", "Prefer: wait=20").want(t, 200, "answered").wantBody(t, told+", before "+test.name)
				all = append(all, c.poll("/", "If-None-Match: "+r.header.Get("ETag")))
				s.waitParked(len(all))
				see.waitChecks(t, told)
			}
			wantWaiting(t, all)
			see.set("after " + test.name)
			wantAll(t, all, 200, "changed")
		})
	}
}

// testEarlyData has a poll come in the first flight of an HTTP/3 connection. A handler
// in front lets it pass; what is behind does not see a check as early, whoever it is
// made for.
func testEarlyData(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", tlsSite(port, `
	long_poll /api/* {
		interval 100ms
	}
	@early expression tls('early_data')
	respond @early "too early" 425
	reverse_proxy `+b.addr))
	s.newTLSClient(t, "HTTP/1.1", port) // waits for the certificate
	config := &tls.Config{RootCAs: s.authority(t), ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	var last atomic.Pointer[quic.Conn]
	dial := func() *client {
		transport := &http3.Transport{
			TLSClientConfig: config, DisableCompression: true,
			Dial: func(ctx context.Context, _ string, config *tls.Config, settings *quic.Config) (*quic.Conn, error) {
				conn, err := quic.DialAddrEarly(ctx, "127.0.0.1:"+port, config, settings)
				last.Store(conn)
				return conn, err
			},
		}
		t.Cleanup(func() { transport.Close() })
		return &client{t: t, http: &http.Client{Transport: transport}, protocol: "HTTP/3.0", base: "https://localhost:" + port}
	}
	first := dial()
	first.get("/api/x").want(t, 200, "answered")
	first.http.CloseIdleConnections()
	first.http.Transport.(*http3.Transport).Close()

	early := dial().send(http3.MethodGet0RTT, "/api/x", "", `If-None-Match: "one"`, "Prefer: wait=20")
	s.waitParked(1)
	select { // quic-go changes its state until then
	case <-last.Load().HandshakeComplete():
	case <-time.After(deadline):
		t.Fatal("the handshake does not end")
	}
	if !last.Load().ConnectionState().Used0RTT {
		t.Skip("the connection has no early data")
	}
	late := s.newTLSClient(t, "HTTP/2.0", port).poll("/api/x", `If-None-Match: "one"`)
	s.waitParked(2)
	asked := b.asked.Load()
	waitFor(t, "checks", func() bool { return b.asked.Load() > asked+2 })
	b.set("two")
	for _, p := range []*pending{early, late} {
		p.wait().want(t, 200, "changed").wantBody(t, `{"value":"two"}`)
	}
}

// testUnsharedErrors has a backend turn two users away, each with a page of its own:
// neither sees the other's, nor is anybody the second's first.
func testUnsharedErrors(t *testing.T, caddy binary) {
	var made atomic.Int64
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := made.Add(1)
		select {
		case <-time.After(600 * time.Millisecond):
		case <-r.Context().Done():
			return
		}
		w.Header().Set("Vary", "*")
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprintf(w, "quota of account %d is used up", n)
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, "\tlong_poll {\n\t\tinterval 100ms\n\t}\n\treverse_proxy "+b.addr))

	for name, fields := range map[string][]string{
		"ordinary":    nil,
		"poll":        {"Prefer: wait=1"},
		"conditional": {`If-None-Match: "one"`, "Prefer: wait=1"},
	} {
		t.Run(name, func(t *testing.T) {
			path := "/" + name
			all := []*pending{
				newClientAt(t, "127.0.0.1", port).poll(path, append(fields, "User-Agent: Alice/1")...),
				newClientAt(t, "127.0.0.2", port).poll(path, append(fields, "User-Agent: Bob/1")...),
			}
			seen := make(map[string]int)
			for _, p := range all {
				r := p.wait()
				if r.err != nil || r.status != http.StatusTooManyRequests {
					t.Errorf("got %v, want 429", r)
				}
				if r.body != "" {
					seen[r.body]++
				}
			}
			for body, n := range seen {
				if n > 1 {
					t.Errorf("%d were told %q", n, body)
				}
			}
			s.waitParked(0)
		})
	}
}

// testRenewedSession has a backend put another cookie in the place of a session's with
// each answer, and know the last two only.
func testRenewedSession(t *testing.T, caddy binary) {
	var mu sync.Mutex
	counter, value := 1000, "one"
	session := func(n int) string { return fmt.Sprintf("session-number-%d", n) }
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		cookie, err := r.Cookie("sid")
		if err != nil || cookie.Value != session(counter) && cookie.Value != session(counter-1) {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		counter++
		http.SetCookie(w, &http.Cookie{Name: "sid", Value: session(counter), Path: "/"})
		http.SetCookie(w, &http.Cookie{Name: "csrf", Value: "made for somebody else", Path: "/"})
		w.Header().Set("ETag", `"`+value+`"`)
		if r.Header.Get("If-None-Match") == `"`+value+`"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		io.WriteString(w, value)
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, "\tlong_poll {\n\t\tinterval 100ms\n\t}\n\treverse_proxy "+b.addr))
	c := newClient(t, port)

	latest := func(r reply) string {
		t.Helper()
		for _, line := range r.header["Set-Cookie"] {
			if text, ok := strings.CutPrefix(line, "sid="); ok {
				text, _, _ = strings.Cut(text, ";")
				return "Cookie: sid=" + text
			}
		}
		t.Fatalf("got %v with the cookies %q", r, r.header["Set-Cookie"])
		return ""
	}
	cookie := latest(c.get("/", "Cookie: sid="+session(1000)).want(t, 200, "answered"))
	// At a time-out, and then at a change, each after several checks.
	cookie = latest(c.get("/", cookie, `If-None-Match: "one"`, "Prefer: wait=12").want(t, 304, "expired"))
	p := c.poll("/", cookie, `If-None-Match: "one"`)
	s.waitParked(1)
	asked := b.asked.Load()
	waitFor(t, "checks", func() bool { return b.asked.Load() > asked+4 })
	wantWaiting(t, []*pending{p})
	mu.Lock()
	value = "two"
	mu.Unlock()
	r := p.wait().want(t, 200, "changed").wantBody(t, "two")
	for _, line := range r.header["Set-Cookie"] {
		if strings.HasPrefix(line, "csrf=") {
			t.Errorf("got %q, which was set for one exchange", line)
		}
	}
	c.get("/", latest(r)).want(t, 200, "answered").wantBody(t, "two")
}
