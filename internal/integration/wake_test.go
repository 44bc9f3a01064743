package integration_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestWakeIntegration has the real binary woken by real writes and by a real
// redis-server.
func TestWakeIntegration(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	caddy := buildCaddy(t)
	for name, test := range map[string]func(*testing.T, binary){
		"writes of many sites": testWritesOfManySites,
		"a thousand by PUT":    testThousandByWrite,
		"writes in JSON":       testWritesInJSON,
		"a writer's stream":    testWriterStreams,
		"upgrades":             testWriteUpgrades,
		"polls by POST":        testPollsByPost,
		"write during reload":  testWriteDuringReload,
		"validate":             testValidateDialsNothing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, caddy)
		})
	}
	for name, test := range map[string]func(*testing.T, binary){
		"publish":        testPublish,
		"killed":         testRedisKilled,
		"down at start":  testRedisDownAtStart,
		"half-open":      testRedisHalfOpen,
		"wrong password": testRedisWrongPassword,
		"reloads":        testRedisReloads,
		"sidecars":       testRedisSidecars,
		"fail-over":      testRedisFailover,
	} {
		t.Run("redis "+name, func(t *testing.T) {
			if _, err := exec.LookPath("redis-server"); err != nil {
				t.Skip("needs redis-server, which is not installed")
			}
			t.Parallel()
			test(t, caddy)
		})
	}
}

// store is a backend of things that all change at once. What a write does is up
// to the test: the store only answers it, as the fields X-Status, X-Location and
// X-Content-Location ask.
type store struct {
	addr  string
	reads atomic.Int64

	mu    sync.Mutex // protects what follows
	value string
	gate  chan struct{} // what reads wait for, when they have read
}

func serveStore(t *testing.T) *store {
	t.Helper()
	s := &store{value: "one"}
	s.addr = serveBackend(t, s).addr
	return s
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Header.Get("X-Search") == "" {
		for _, name := range []string{"Location", "Content-Location"} {
			if place := r.Header.Get("X-" + name); place != "" {
				w.Header().Set(name, place)
			}
		}
		status := http.StatusNoContent
		fmt.Sscan(r.Header.Get("X-Status"), &status)
		w.WriteHeader(status)
		return
	}
	s.reads.Add(1)
	s.mu.Lock()
	value, gate := s.value, s.gate
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
	tag := strconv.Quote(value)
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	io.WriteString(w, value)
}

func (s *store) set(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value = value
}

// shut has reads wait, when they have read, until it is opened.
func (s *store) shut() (open func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gate := make(chan struct{})
	s.gate = gate
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gate = nil
		close(gate)
	})
}

// quiet waits until nothing is read any more, and returns how often it was.
func (s *store) quiet(t *testing.T) int64 {
	t.Helper()
	return waitQuiet(t, "an end of checks", 100, s.reads.Load)
}

// waitQuiet waits until a count has stayed the same for so many looks, of which there are a
// hundred in a second: where the machine stands still, nobody looks.
func waitQuiet(t *testing.T, what string, looks int, count func() int64) (last int64) {
	t.Helper()
	same := -1
	waitFor(t, what, func() bool {
		if n := count(); n != last {
			same, last = 0, n
		}
		same++
		return same > looks
	})
	return last
}

const (
	hasOne = `If-None-Match: "one"`
	hasTwo = `If-None-Match: "two"`
)

// seldom leaves all checks but the first to wake-ups.
const seldom = "\n\t\thold 2m\n\t\tinterval 60s\n"

// stubborn sends a GET again that got no answer at all: Caddy loses what connects to
// a listener in the moment in which a reload closes it.
type stubborn struct{ http.RoundTripper }

func (s stubborn) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	for range 5 {
		resp, err = s.RoundTripper.RoundTrip(r)
		if err == nil || r.Context().Err() != nil || r.Method != http.MethodGet {
			break
		}
	}
	return resp, err
}

// newStubbornClient is for tests that reload.
func newStubbornClient(t *testing.T, port string) *client {
	t.Helper()
	c := newClient(t, port)
	c.http.Transport = stubborn{c.http.Transport}
	return c
}

// testWritesOfManySites sends writes through sites of every shape. All that is
// parked has changed when the write comes; what it does not wake is checked only
// when a later write wakes that.
func testWritesOfManySites(t *testing.T, caddy binary) {
	const inSite = "\tlong_poll {" + seldom + "\t\twake writes {dir}\n\t}\n\treverse_proxy BACKEND\n"
	const readsOnly = "\t@reads method GET\n\tlong_poll @reads {" + seldom + "\t\twake writes {dir}\n\t}\n\treverse_proxy BACKEND\n"
	tests := []struct {
		name  string
		site  string
		write string // method, path, and fields behind commas
		wakes string // what clients ask for
		not   string // what they ask for too; a write to one of these wakes none that follows
	}{
		{"itself and its collection", inSite, "PUT /orders/42", "/orders/42 /orders /orders/", "/orders/43 /items"},
		{"any query", inSite, "PATCH /orders/42?by=7", "/orders/42?a=1 /orders/42?a=2 /orders/?page=3", "/items?by=7"},
		{"what was created", inSite, "POST /orders, X-Status: 201, X-Location: /orders/43", "/orders /orders/43", "/orders/42"},
		{"what was created, by a URL", inSite, "POST /orders/, X-Status: 201, X-Location: http://backend.internal/orders/43", "/orders /orders/43", "/orders/42"},
		{"what was created, relative", inSite, "POST /orders/, X-Status: 201, X-Content-Location: 43", "/orders/ /orders/43", "/orders/42"},
		{"a failure", inSite, "PUT /orders/42, X-Status: 409", "", "/orders /orders/42"},
		{"a failure of the server", inSite, "DELETE /orders/42, X-Status: 503", "", "/orders /orders/42"},
		{"no write", inSite, "OPTIONS /orders/42", "", "/orders /orders/42"},
		{"a matcher of reads", readsOnly, "PUT /orders/42", "/orders/42 /orders", "/items"},
		{"a matcher of reads, and a failure", readsOnly, "POST /orders, X-Status: 400, X-Location: /orders/43", "", "/orders /orders/43"},
		{
			"a matcher of paths", "\tlong_poll /orders* {" + seldom + "\t\twake writes /orders\n\t}\n\treverse_proxy BACKEND\n",
			"POST /baskets/7/checkout", "/orders /orders?open", "/orders/42",
		},
		{
			"handle", "\thandle /api/* {\n" + inSite + "\t}\n\thandle {\n\t\trespond nobody\n\t}\n",
			"PUT /api/orders/42", "/api/orders/42 /api/orders", "/api/items",
		},
		{
			"a prefix that is stripped", "\thandle_path /api/* {\n" + inSite + "\t}\n\thandle {\n\t\trespond nobody\n\t}\n",
			"PUT /api/orders/42", "/api/orders/42 /api/orders", "/api/items",
		},
		{
			"a prefix in Location", "\thandle_path /api/* {\n" + readsOnly + "\t}\n",
			"POST /api/orders, X-Status: 201, X-Location: http://127.0.0.1/api/orders/43", "/api/orders /api/orders/43", "/api/orders/42",
		},
		{
			"a rewrite", "\trewrite /v1/orders /orders\n" + inSite,
			"POST /v1/orders", "/orders /v1/orders", "/v1",
		},
		{
			"two directives", "\tlong_poll /orders* {" + seldom + "\t\twake writes\n\t}\n\tlong_poll /items* {" + seldom + "\t\twake writes /items\n\t}\n\treverse_proxy BACKEND\n",
			"PUT /orders/42", "/orders/42 /items", "/orders",
		},
		{"behind encode and header", "\tencode\n\theader >X-By site\n\theader >Location ^ /moved\n" + inSite, "POST /orders, X-Status: 201, X-Location: /orders/43", "/orders/43", "/orders/42"},
	}
	var sites strings.Builder
	ports, stores := make([]string, len(tests)), make([]*store, len(tests))
	for i, test := range tests {
		ports[i], stores[i] = freePort(t), serveStore(t)
		sites.WriteString(site(ports[i], strings.ReplaceAll(test.site, "BACKEND", stores[i].addr)))
	}
	s := caddy.start(t, "", sites.String())

	for i, test := range tests {
		b, c := stores[i], newClient(t, ports[i])
		write := func(request string) {
			request, rest, _ := strings.Cut(request, ", ")
			method, path, _ := strings.Cut(request, " ")
			var fields []string
			if rest != "" {
				fields = strings.Split(rest, ", ")
			}
			if r := c.send(method, path, "", fields...).wait(); r.err != nil {
				t.Errorf("%s: writing: %v", test.name, r.err)
			}
		}
		wantChanged := func(p *pending) {
			if r := p.wait(); r.status != 200 || r.outcome() != "changed" || r.body != "two" {
				t.Errorf("%s: got %v", test.name, r)
			}
		}
		var woken, others []*pending
		for path := range strings.FieldsSeq(test.wakes) {
			woken = append(woken, c.poll(path, hasOne), c.poll(path, hasOne, "Authorization: Bearer somebody"), c.poll(path, hasOne, "Accept-Encoding: gzip"))
		}
		for path := range strings.FieldsSeq(test.not) {
			others = append(others, c.poll(path, hasOne))
		}
		s.waitParked(len(woken) + len(others))
		resources := b.reads.Load()

		b.set("two")
		write(test.write)
		for _, p := range woken {
			wantChanged(p)
		}
		wantWaiting(t, others)
		for j, path := range strings.Fields(test.not) {
			write("PUT " + path)
			wantChanged(others[j])
		}
		if n := b.reads.Load() - resources; n != resources {
			t.Errorf("%s: %d checks of %d resources that changed", test.name, n, resources)
		}
	}
}

// testThousandByWrite: a PUT releases a thousand, by one check, and its writer does
// not wait for that.
func testThousandByWrite(t *testing.T, caddy binary) {
	b := serveStore(t)
	port := freePort(t)
	s := caddy.start(t, "", site(port, "\tlong_poll {"+seldom+"\t\twake writes\n\t}\n\treverse_proxy "+b.addr))
	c := newClient(t, port)
	all := crowd(many, func(int) *pending { return c.poll("/orders/42", hasOne) })
	s.waitParked(many)
	open := b.shut()
	defer open()
	b.set("two")
	c.send("PUT", "/orders/42", "two").wait().want(t, http.StatusNoContent, "bypassed")
	waitFor(t, "a check", func() bool { return b.reads.Load() == 2 })
	wantWaiting(t, all) // but for the writer
	open()
	wantAll(t, all, 200, "changed")
	for _, p := range all {
		p.reply.wantBody(t, "two")
	}
	if n := b.reads.Load(); n != 2 {
		t.Errorf("the backend was asked %d times; want once to park and once to release", n)
	}
	if n := s.metric(`caddy_long_poll_wakes_total{source="writes"}`); n != 1 {
		t.Errorf("counted %d wake-ups; want 1", n)
	}
}

// testWritesInJSON leaves out the handler that the Caddyfile adds: what passes
// through long_poll itself is seen all the same.
func testWritesInJSON(t *testing.T, caddy binary) {
	b := serveStore(t)
	port := freePort(t)
	s := caddy.start(t, "", site(port, "\tlong_poll /orders* {"+seldom+"\t\twake writes\n\t}\n\treverse_proxy "+b.addr))
	resp, err := s.admin.Get("http://admin/config/")
	if err != nil {
		t.Fatal(err)
	}
	config, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	const handler = `{"handler":"long_poll_writes"},`
	if strings.Count(string(config), handler) != 1 {
		t.Fatalf("no %s to leave out of %s", handler, config)
	}
	resp, err = s.admin.Post("http://admin/load", "application/json", strings.NewReader(strings.Replace(string(config), handler, "", 1)))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("loading: %v, %v", resp, err)
	}
	resp.Body.Close()

	c := newStubbornClient(t, port)
	p := c.poll("/orders/42", hasOne)
	s.waitParked(1)
	b.set("two")
	c.send("PUT", "/elsewhere", "", "X-Location: /orders/42", "X-Status: 201").wait().want(t, http.StatusCreated, "")
	c.send("PUT", "/orders/43", "").wait().want(t, http.StatusNoContent, "bypassed")
	if !p.waiting() {
		t.Errorf("got %v; want it to wait for a write that is seen", p.wait())
	}
	c.send("PUT", "/orders/42", "").wait().want(t, http.StatusNoContent, "bypassed")
	p.wait().want(t, 200, "changed").wantBody(t, "two")
}

// testWriterStreams: the answer to a write reaches its writer piece by piece, and
// what it has changed is looked at when it has ended, or broken off.
func testWriterStreams(t *testing.T, caddy binary) {
	b := &store{value: "one"}
	steps := make(chan string)
	b.addr = serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			b.ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusOK)
		for step := range steps {
			switch step {
			case "end":
				return
			case "abort":
				panic(http.ErrAbortHandler)
			}
			io.WriteString(w, step)
			http.NewResponseController(w).Flush()
		}
	})).addr
	port := freePort(t)
	s := caddy.start(t, "", site(port, "\tlong_poll {"+seldom+"\t\twake writes\n\t}\n\treverse_proxy "+b.addr))
	c := newClient(t, port)
	for _, ending := range []string{"end", "abort"} {
		b.set("one")
		p := c.poll("/orders/"+ending, hasOne)
		s.waitParked(1)
		resp := make(chan *http.Response)
		go func() {
			r, err := c.http.Post(c.base+"/orders/"+ending, "text/plain", strings.NewReader("x"))
			if err != nil {
				t.Error(err)
			}
			resp <- r
		}()
		steps <- "so far"
		r := <-resp
		if r == nil {
			return
		}
		piece := make([]byte, len("so far"))
		if _, err := io.ReadFull(r.Body, piece); err != nil || string(piece) != "so far" {
			t.Errorf("got %q, %v before the end", piece, err)
		}
		b.set("two")
		if !p.waiting() {
			t.Errorf("got %v before the end", p.wait())
		}
		steps <- ending
		rest, err := io.ReadAll(r.Body)
		r.Body.Close()
		if len(rest) > 0 || (err == nil) != (ending == "end") {
			t.Errorf("%s: got %q, %v", ending, rest, err)
		}
		p.wait().want(t, 200, "changed").wantBody(t, "two")
	}
}

// testWriteUpgrades: a connection that is taken over is no write, by whatever
// method.
func testWriteUpgrades(t *testing.T, caddy binary) {
	b := &store{value: "one"}
	b.addr = serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			b.ServeHTTP(w, r)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
		io.Copy(conn, rw)
	})).addr
	port := freePort(t)
	s := caddy.start(t, "", site(port, "\tlong_poll {"+seldom+"\t\twake writes\n\t}\n\treverse_proxy "+b.addr))
	c := newClient(t, port)
	p := c.poll("/chat", hasOne)
	s.waitParked(1)
	b.set("two")
	for i, method := range []string{"GET", "POST"} {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(deadline))
		fmt.Fprintf(conn, "%s /chat HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nUpgrade: echo\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n", method, port)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "hello\n")
		if line, err := r.ReadString('\n'); resp.StatusCode != http.StatusSwitchingProtocols || err != nil || line != "hello\n" {
			t.Errorf("%s: got %s, %q, %v", method, resp.Status, line, err)
		}
		conn.Close()
		waitFor(t, "the end of the connection", func() bool { return s.outcomes("bypassed") == i+1 })
	}
	if !p.waiting() {
		t.Errorf("got %v; want it to wait for a write", p.wait())
	}
	c.send("POST", "/chat", "").wait().want(t, http.StatusNoContent, "bypassed")
	p.wait().want(t, 200, "changed")
}

// testPollsByPost: neither a poll by POST nor its checks, nor a probe by POST, are
// writes. If they were, each check would cause another one.
func testPollsByPost(t *testing.T, caddy binary) {
	b, probed := serveStore(t), serveStore(t)
	port, probedPort := freePort(t), freePort(t)
	s := caddy.start(t, "", site(port, "\tlong_poll {"+seldom+`
		methods GET POST
		wake writes /orders
	}
	reverse_proxy `+b.addr)+
		site(probedPort, "\tlong_poll {"+seldom+`
		probe POST /count
		wake writes /orders
	}
	reverse_proxy `+probed.addr+` {
		header_up X-Search yes
	}`))
	c, probedClient := newClient(t, port), newClient(t, probedPort)
	all := []*pending{
		c.poll("/orders", hasOne),
		c.send("POST", "/orders", "{}", hasOne, "X-Search: yes"),
		c.send("POST", "/search", "{}", hasOne, "X-Search: yes"),
		probedClient.poll("/orders", hasOne),
	}
	s.waitParked(len(all))
	if n, probes := b.quiet(t), probed.quiet(t); n != 3 || probes != 2 {
		t.Errorf("the backends were asked %d and %d times; want once for each poll, and once for the probe", n, probes)
	}
	wantWaiting(t, all)
	b.set("two")
	probed.set("two")
	c.send("PUT", "/search", "").wait().want(t, http.StatusNoContent, "bypassed")
	probedClient.send("PUT", "/orders", "").wait().want(t, http.StatusOK, "bypassed")
	wantAll(t, all, 200, "changed")
	if n, probes := b.quiet(t), probed.quiet(t); n != 6 || probes != 5 { // the PUT is one
		t.Errorf("the backends were asked %d and %d times; want one check more for each poll", n, probes)
	}
}

// testWriteDuringReload: the configuration that answers a write is not the one in
// which clients wait for what it changes.
func testWriteDuringReload(t *testing.T, caddy binary) {
	b := &store{value: "one"}
	arrived, answer := make(chan struct{}), make(chan struct{})
	b.addr = serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			close(arrived)
			<-answer
		}
		b.ServeHTTP(w, r)
	})).addr
	port := freePort(t)
	sites := site(port, "\tlong_poll {"+seldom+"\t\twake writes {dir}\n\t}\n\treverse_proxy "+b.addr)
	s := caddy.start(t, "", sites)
	c := newStubbornClient(t, port)
	old := c.poll("/orders", hasOne)
	s.waitParked(1)
	write := c.send("PUT", "/orders/42", "")
	<-arrived
	s.reload(t, sites)
	old.wait().want(t, 304, "drained")
	all := []*pending{c.poll("/orders", hasOne), c.poll("/orders/42", hasOne)}
	s.waitParked(2)
	b.set("two")
	close(answer)
	write.wait().want(t, http.StatusNoContent, "bypassed")
	wantAll(t, all, 200, "changed")
}

// testValidateDialsNothing counts the connections to what could be a redis-server.
func testValidateDialsNothing(t *testing.T, caddy binary) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var dialed atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			dialed.Add(1)
			conn.Close()
		}
	}()
	addr := ln.Addr().String()
	var sites strings.Builder
	for _, block := range []string{
		"address " + addr,
		"address " + addr + " " + addr + "\nsharded",
		"address " + addr + "\nmaster main",
		"address " + addr + "\ntls",
		"url redis://user:password@" + addr + "/1\nkeyspace {path}",
		"address " + addr + "\npattern orders:*",
	} {
		sites.WriteString(redisSite(freePort(t), "127.0.0.1:1", block))
	}
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(sites.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"validate"}, {"adapt", "--validate"}} {
		cmd := exec.Command(caddy.path, append(args, "--adapter", "caddyfile", "--config", file)...)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	// They are accepted in turn: this is the first one.
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	waitFor(t, "a connection", func() bool { return dialed.Load() > 0 })
	ln.Close()
	<-done
	if n := dialed.Load() - 1; n != 0 {
		t.Errorf("%d connections", n)
	}
}
