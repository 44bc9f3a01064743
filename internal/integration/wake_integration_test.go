package longpoll_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// TestWakeIntegration has the real binary woken by real writes and by a real
// redis-server.
func TestWakeIntegration(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
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
	since, last := time.Now(), s.reads.Load()
	waitFor(t, "an end of checks", func() bool {
		if n := s.reads.Load(); n != last {
			since, last = time.Now(), n
		}
		return time.Since(since) > 300*time.Millisecond
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
		cmd := exec.Command(string(caddy), append(args, "--adapter", "caddyfile", "--config", file)...)
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

// redisServer is a server of one test.
type redisServer struct {
	*goredis.Client
	t    *testing.T
	addr string
	args []string
	cmd  *exec.Cmd
}

// newRedis prepares a server, which is not started.
func newRedis(t *testing.T, password string, args ...string) *redisServer {
	t.Helper()
	port := freePort(t)
	s := &redisServer{t: t, addr: "127.0.0.1:" + port, args: []string{"--port", port, "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "", "--appendonly", "no"}}
	if password != "" {
		s.args = append(s.args, "--requirepass", password, "--masterauth", password)
	}
	s.args = append(s.args, args...)
	s.Client = goredis.NewClient(&goredis.Options{Addr: s.addr, Password: password, Protocol: 2, DisableIdentity: true, PoolSize: 1})
	t.Cleanup(func() { s.Close() })
	return s
}

func startRedis(t *testing.T) *redisServer {
	t.Helper()
	s := newRedis(t, "")
	s.start()
	return s
}

func (s *redisServer) start() {
	s.t.Helper()
	cmd := exec.Command("redis-server", s.args...)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.cmd = cmd
	s.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	waitFor(s.t, "redis-server to listen", func() bool {
		conn, err := net.Dial("tcp", s.addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func (s *redisServer) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
	if sig == syscall.SIGKILL {
		s.cmd.Wait()
	}
}

// publish returns how many have heard it.
func (s *redisServer) publish(channel string) int64 {
	s.t.Helper()
	n, err := s.Publish(context.Background(), channel, "").Result()
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// connections are the ids of all but the test's own.
func (s *redisServer) connections() (ids []string) {
	s.t.Helper()
	list, err := s.ClientList(context.Background()).Result()
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(list) {
		if !strings.Contains(line, "cmd=client|list") {
			ids = append(ids, strings.Fields(line)[0])
		}
	}
	return ids
}

// waitSubscribed waits until somebody hears the channel.
func (s *redisServer) waitSubscribed(channel string) {
	s.t.Helper()
	waitFor(s.t, "a subscription", func() bool {
		n, err := s.PubSubNumSub(context.Background(), channel).Result()
		return err == nil && n[channel] > 0
	})
}

// redisSite has a channel orders:<path> for each path.
func redisSite(port, backend, block string) string {
	return site(port, "\tlong_poll {"+seldom+"\t\twake redis {\n"+block+"\n\t\t}\n\t}\n\treverse_proxy "+backend)
}

// waitUp waits until long_poll says that it hears redis, or that it does not.
func (s *sidecar) waitUp(up bool) {
	s.t.Helper()
	want := 0
	if up {
		want = 1
	}
	waitFor(s.t, fmt.Sprintf("redis up: %v", up), func() bool { return s.metric(`caddy_long_poll_waker_up{source="redis"}`) == want })
}

// wantRedisLogs fails the test unless outages were logged so often: when they
// began and when they ended.
func (s *sidecar) wantRedisLogs(lost, back int) {
	s.t.Helper()
	for message, want := range map[string]int{"lost redis; resources are checked at their interval only": lost, "redis is back; every watched resource is checked": back} {
		waitFor(s.t, fmt.Sprintf("%d times %q in the log", want, message), func() bool { return len(s.logs.entries(message)) >= want })
		if n := len(s.logs.entries(message)); n != want {
			s.t.Errorf("logged %q %d times; want %d", message, n, want)
		}
	}
}

func testPublish(t *testing.T, caddy binary) {
	redis, b, port := startRedis(t), serveStore(t), freePort(t)
	s := caddy.start(t, "", redisSite(port, b.addr, "address "+redis.addr))
	c := newClient(t, port)
	all := crowd(many, func(int) *pending { return c.poll("/orders/42", hasOne) })
	s.waitParked(many)
	redis.waitSubscribed("long_poll:/orders/42")
	before := b.quiet(t)
	if before > 2 {
		t.Errorf("the backend was asked %d times; want once to park, and once when no message can be missed any more", before)
	}
	if n := len(redis.connections()); n != 1 {
		t.Errorf("%d connections; want 1", n)
	}

	for _, channel := range []string{"long_poll:/orders/43", "long_poll:/orders", "long_poll:/orders/42/", "long_poll:*", "long_poll:"} {
		if n := redis.publish(channel); n != 0 {
			t.Errorf("%d have heard a message on %s", n, channel)
		}
	}
	if n := b.quiet(t); n != before {
		t.Errorf("%d checks by messages that nobody waits for", n-before)
	}
	if n := redis.publish("long_poll:/orders/42"); n != 1 {
		t.Errorf("%d have heard a message; want 1", n)
	}
	if n := b.quiet(t); n != before+1 {
		t.Errorf("%d checks by a message without a change; want 1", n-before)
	}
	wantWaiting(t, all)

	// A message that comes when a check has read already causes one more.
	open := b.shut()
	defer open()
	before = b.reads.Load()
	redis.publish("long_poll:/orders/42")
	waitFor(t, "a check", func() bool { return b.reads.Load() == before+1 })
	wakes := s.metric(`caddy_long_poll_wakes_total{source="redis"}`)
	b.set("two")
	for range 10 {
		redis.publish("long_poll:/orders/42")
	}
	waitFor(t, "messages", func() bool { return s.metric(`caddy_long_poll_wakes_total{source="redis"}`) == wakes+10 })
	wantWaiting(t, all)
	open()
	wantAll(t, all, 200, "changed")
	for _, p := range all {
		p.reply.wantBody(t, "two")
	}
	if n := b.reads.Load(); n != before+2 {
		t.Errorf("%d checks; want the one in flight and one more", n-before)
	}

	// And the plain case.
	all = crowd(many, func(int) *pending { return c.poll("/orders/42", hasTwo) })
	s.waitParked(many)
	before = b.quiet(t)
	b.set("three")
	began := time.Now()
	redis.publish("long_poll:/orders/42")
	wantAll(t, all, 200, "changed")
	t.Logf("a message has released %d clients within %v", many, time.Since(began))
	if n := b.reads.Load(); n != before+1 {
		t.Errorf("%d checks; want 1", n-before)
	}
	s.wantRedisLogs(0, 0)
}

func testRedisKilled(t *testing.T, caddy binary) {
	redis, b, port := startRedis(t), serveStore(t), freePort(t)
	s := caddy.start(t, "", redisSite(port, b.addr, "address "+redis.addr))
	c := newClient(t, port)
	all := crowd(many, func(int) *pending { return c.poll("/orders/42", hasOne) })
	s.waitParked(many)
	redis.waitSubscribed("long_poll:/orders/42")
	s.waitUp(true)
	before := b.quiet(t)

	redis.signal(syscall.SIGKILL)
	s.waitUp(false)
	b.set("two") // whose message nobody hears
	late := crowd(10, func(int) *pending { return c.poll("/orders/43", hasTwo) })
	s.waitParked(many + len(late))
	wantWaiting(t, all)
	redis.start()
	wantAll(t, all, 200, "changed")
	if n := b.reads.Load() - before; n > 3 {
		t.Errorf("%d checks; want one for each resource after the outage, and one for the one that was new", n)
	}

	all = crowd(many, func(int) *pending { return c.poll("/orders/42", hasTwo) })
	s.waitParked(many + len(late))
	redis.waitSubscribed("long_poll:/orders/42")
	redis.waitSubscribed("long_poll:/orders/43")
	b.quiet(t)
	wantWaiting(t, all)
	wantWaiting(t, late)
	b.set("three")
	redis.publish("long_poll:/orders/42")
	redis.publish("long_poll:/orders/43")
	wantAll(t, all, 200, "changed")
	wantAll(t, late, 200, "changed")
	s.wantRedisLogs(1, 1)
}

func testRedisDownAtStart(t *testing.T, caddy binary) {
	redis, b, port := newRedis(t, ""), serveStore(t), freePort(t)
	s := caddy.start(t, "", redisSite(port, b.addr, "address "+redis.addr))
	c := newClient(t, port)
	c.get("/orders/42").want(t, 200, "answered").wantBody(t, "one")
	all := crowd(many, func(int) *pending { return c.poll("/orders/42", hasOne) })
	s.waitParked(many)
	s.waitUp(false)
	b.set("two")
	wantWaiting(t, all)
	redis.start()
	wantAll(t, all, 200, "changed")
	p := c.poll("/orders/42", hasTwo)
	s.waitParked(1)
	b.quiet(t)
	b.set("three")
	redis.publish("long_poll:/orders/42")
	p.wait().want(t, 200, "changed")
	s.wantRedisLogs(1, 1)
}

// testRedisHalfOpen: a server that is stopped says nothing, and does not close its
// connections either.
func testRedisHalfOpen(t *testing.T, caddy binary) {
	redis, b, port := startRedis(t), serveStore(t), freePort(t)
	s := caddy.start(t, "", redisSite(port, b.addr, "address "+redis.addr))
	c := newClient(t, port)
	all := crowd(many, func(int) *pending { return c.poll("/orders/42", hasOne) })
	s.waitParked(many)
	redis.waitSubscribed("long_poll:/orders/42")
	b.quiet(t)
	redis.signal(syscall.SIGSTOP)
	b.set("two")
	began := time.Now()
	s.waitUp(false)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("took %v to notice; want some seconds", took)
	}
	wantWaiting(t, all)
	redis.signal(syscall.SIGCONT)
	wantAll(t, all, 200, "changed")
	s.waitUp(true)
	s.wantRedisLogs(1, 1)
}

func testRedisWrongPassword(t *testing.T, caddy binary) {
	// From files: Caddy itself logs a configuration as it is, at level debug.
	secret := func(text string) string {
		file := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "{file." + file + "}"
	}
	right, wrong := secret("the-right-secret"), secret("the-wrong-secret")
	redis, b, port := newRedis(t, "the-right-secret"), serveStore(t), freePort(t)
	redis.start()
	sites := func(block string) string {
		return strings.Replace(redisSite(port, b.addr, block), "interval 60s", "interval 1s", 1)
	}
	s := caddy.start(t, "\tdebug", sites("address "+redis.addr+"\npassword "+wrong))
	c := newStubbornClient(t, port)
	p := c.poll("/orders/42", hasOne)
	s.waitParked(1)
	s.waitUp(false)
	b.set("two")
	p.wait().want(t, 200, "changed") // at the interval
	s.wantRedisLogs(1, 0)

	s.reload(t, sites("url redis://:"+wrong+"@"+redis.addr))
	p = c.poll("/orders/42", hasTwo)
	s.waitParked(1)
	s.waitUp(false)
	p.leave()
	s.wantRedisLogs(1, 0) // the url says the same

	s.reload(t, strings.Replace(sites("address "+redis.addr+"\npassword "+right), "interval 1s", "interval 60s", 1))
	p = c.poll("/orders/42", hasTwo)
	s.waitParked(1)
	redis.waitSubscribed("long_poll:/orders/42")
	s.waitUp(true)
	b.quiet(t)
	b.set("three")
	redis.publish("long_poll:/orders/42")
	p.wait().want(t, 200, "changed")

	for _, page := range []string{"/metrics", "/long_poll/resources", "/long_poll/stats", "/long_poll/"} {
		resp, err := s.admin.Get("http://admin" + page)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || strings.Contains(string(text), "secret") {
			t.Errorf("%s: %v, %.200s", page, err, text)
		}
	}
	if logs := s.logs.String(); strings.Contains(logs, "secret") {
		t.Error("logged a password")
	}
}

// testRedisReloads keeps, changes, drops and brings back the redis block, with
// requests parked each time.
func testRedisReloads(t *testing.T, caddy binary) {
	first, second := startRedis(t), startRedis(t)
	b, port := serveStore(t), freePort(t)
	one, two := redisSite(port, b.addr, "address "+first.addr), redisSite(port, b.addr, "address "+second.addr+"\nchannel changes")
	none := site(port, "\tlong_poll {\n\thold 2m\n\t}\n\treverse_proxy "+b.addr)
	s := caddy.start(t, "", one)
	c := newStubbornClient(t, port)
	version := 1
	park := func(redis *redisServer, channel string) []*pending {
		t.Helper()
		has := fmt.Sprintf("If-None-Match: %q", fmt.Sprint(version))
		b.set(fmt.Sprint(version))
		all := crowd(many/4, func(int) *pending { return c.poll("/orders/42", has) })
		s.waitParked(len(all))
		if redis != nil {
			redis.waitSubscribed(channel)
		}
		b.quiet(t)
		wantWaiting(t, all)
		return all
	}
	// change has a version come after which a message, if any, comes too.
	change := func(all []*pending, redis *redisServer, channel string) {
		t.Helper()
		version++
		b.set(fmt.Sprint(version))
		if redis != nil {
			redis.publish(channel)
		}
		wantAll(t, all, 200, "changed")
	}
	reload := func(all []*pending, sites string) {
		t.Helper()
		if took := s.reload(t, sites); took > 5*time.Second {
			t.Errorf("the reload took %v", took)
		}
		wantAll(t, all, 304, "drained")
	}
	const plain = "long_poll:/orders/42"

	all := park(first, plain)
	connection := first.connections()
	reload(all, one) // keeps it
	all = park(first, plain)
	if now := first.connections(); len(now) != 1 || !slices.Equal(now, connection) {
		t.Errorf("the connections are %q after the reload; want %q", now, connection)
	}
	change(all, first, plain)

	reload(park(first, plain), two) // changes it
	all = park(second, "changes")
	waitFor(t, "the first server to be left", func() bool { return len(first.connections()) == 0 })
	change(all, second, "changes")

	reload(park(second, "changes"), none) // drops it
	waitFor(t, "the second server to be left", func() bool { return len(second.connections()) == 0 })
	version++ // checks go on once a second
	has := fmt.Sprintf("If-None-Match: %q", fmt.Sprint(version))
	b.set(fmt.Sprint(version))
	all = crowd(many/4, func(int) *pending { return c.poll("/orders/42", has) })
	s.waitParked(len(all))
	change(all, nil, "")

	reload(nil, one) // brings it back
	change(park(first, plain), first, plain)

	// While it is down, too.
	all = park(first, plain)
	first.signal(syscall.SIGKILL)
	s.waitUp(false)
	reload(all, one)
	has = fmt.Sprintf("If-None-Match: %q", fmt.Sprint(version))
	all = crowd(many/4, func(int) *pending { return c.poll("/orders/42", has) })
	s.waitParked(len(all))
	version++
	b.set(fmt.Sprint(version))
	first.start()
	wantAll(t, all, 200, "changed")
}

// testRedisSidecars: one message releases those who wait at any of them.
func testRedisSidecars(t *testing.T, caddy binary) {
	redis, b := startRedis(t), serveStore(t)
	var sidecars []*sidecar
	var clients []*client
	for range 2 {
		port := freePort(t)
		sidecars = append(sidecars, caddy.start(t, "", redisSite(port, b.addr, "address "+redis.addr)))
		clients = append(clients, newClient(t, port))
	}
	park := func(has string) (all []*pending) {
		for i, c := range clients {
			all = append(all, crowd(many/2, func(int) *pending { return c.poll("/orders/42", has) })...)
			sidecars[i].waitParked(many / 2)
		}
		return all
	}
	all := park(hasOne)
	waitFor(t, "two subscriptions", func() bool {
		n, err := redis.PubSubNumSub(context.Background(), "long_poll:/orders/42").Result()
		return err == nil && n["long_poll:/orders/42"] == 2
	})
	before := b.quiet(t)
	wantWaiting(t, all)
	b.set("two")
	if n := redis.publish("long_poll:/orders/42"); n != 2 {
		t.Errorf("%d have heard the message; want 2", n)
	}
	wantAll(t, all, 200, "changed")
	if n := b.reads.Load() - before; n != 2 {
		t.Errorf("%d checks; want one by each sidecar", n)
	}

	// An outage concerns both.
	all = park(hasTwo)
	redis.signal(syscall.SIGKILL)
	for _, s := range sidecars {
		s.waitUp(false)
	}
	b.set("three")
	wantWaiting(t, all)
	redis.start()
	wantAll(t, all, 200, "changed")
	for _, s := range sidecars {
		s.waitUp(true)
		s.wantRedisLogs(1, 1)
	}
}

// testRedisFailover has the master die while a thousand wait, and a sentinel make
// another one of its replica.
func testRedisFailover(t *testing.T, caddy binary) {
	const password = "the-password"
	master := newRedis(t, password)
	master.start()
	host, port, _ := net.SplitHostPort(master.addr)
	replica := newRedis(t, password, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	replica.start()
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	// A busy machine is not to be taken for a dead master.
	if err := os.WriteFile(config, fmt.Appendf(nil, `sentinel monitor main %s %s 1
sentinel auth-pass main %s
sentinel down-after-milliseconds main 3000
sentinel failover-timeout main 2000
`, host, port, password), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel := newRedis(t, "")
	sentinelHost, sentinelPort, _ := net.SplitHostPort(sentinel.addr)
	sentinel.args = []string{config, "--sentinel", "--port", sentinelPort, "--bind", sentinelHost}
	sentinel.start()
	waitFor(t, "a sentinel that knows the replica", func() bool {
		known, err := sentinel.Do(context.Background(), "SENTINEL", "REPLICAS", "main").Slice()
		return err == nil && len(known) == 1 && strings.Contains(fmt.Sprint(known), "master-link-status ok")
	})

	b, sitePort := serveStore(t), freePort(t)
	s := caddy.start(t, "", redisSite(sitePort, b.addr, "address "+sentinel.addr+"\nmaster main\npassword "+password))
	c := newClient(t, sitePort)
	all := crowd(many, func(int) *pending { return c.poll("/orders/42", hasOne) })
	s.waitParked(many)
	master.waitSubscribed("long_poll:/orders/42")
	b.quiet(t)
	master.signal(syscall.SIGKILL)
	s.waitUp(false)
	b.set("two")
	wantWaiting(t, all)
	wantAll(t, all, 200, "changed")

	all = crowd(many, func(int) *pending { return c.poll("/orders/42", hasTwo) })
	s.waitParked(many)
	replica.waitSubscribed("long_poll:/orders/42")
	b.quiet(t)
	b.set("three")
	replica.publish("long_poll:/orders/42")
	wantAll(t, all, 200, "changed")
	s.wantRedisLogs(1, 1)
}
