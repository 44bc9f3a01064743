package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestIntegration runs the real binary in front of a real backend, with real
// clients. Its parts are in the files beside this one; here is what
// they share. Parts that take longest are tests of their own, for what is parallel begins
// before the parts of anything that is: TestClients, TestDemoPage and the two of `hold auto`.
// Those with a crowd are parts of TestCrowds.
func TestIntegration(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	caddy := buildCaddy(t)
	for name, test := range parts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, caddy)
		})
	}
}

// parts are those of TestIntegration.
var parts = map[string]func(*testing.T, binary){
	"demo":                 testDemo,
	"protocols":            testProtocols,
	"timeouts":             testTimeouts,
	"encode":               testEncode,
	"basic_auth":           testBasicAuth,
	"handle":               testHandle,
	"handle_errors":        testHandleErrors,
	"map":                  testMap,
	"header":               testHeader,
	"log_append":           testLogAppend,
	"websocket":            testWebSocket,
	"streams":              testStreams,
	"an open page":         testOpenPage,
	"garbage":              testGarbage,
	"many statuses":        testManyStatuses,
	"informational floods": testInformational,
	"command":              testCommands,
	"command wake":         testCommandWakes,
}

// binary is a Caddy with long_poll in it.
type binary struct {
	path   string
	detach bool // wherever it is long_poll that it is given
	files  int  // how many descriptors it may have; 0 is as many as this process
}

// built is the directory of the binary that buildCaddy has built, which TestMain removes.
var built string

// buildOnce is what buildCaddy does: linking takes a processor for some seconds.
var buildOnce = sync.OnceValues(func() (binary, error) {
	var err error
	if built, err = os.MkdirTemp("", "lp"); err != nil {
		return binary{}, err
	}
	path := filepath.Join(built, "caddy")
	// Where it runs as another user than the one who cloned, git refuses to tell
	// the version; nobody asks for it here.
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./cmd/caddy")
	if out, err := build.CombinedOutput(); err != nil {
		return binary{}, fmt.Errorf("%w\n%s", err, out)
	}
	return binary{path: path}, nil
})

// buildCaddy builds cmd/caddy, once for all tests; with GOFLAGS=-race it looks for data
// races too.
func buildCaddy(t *testing.T) binary {
	t.Helper()
	caddy, err := buildOnce()
	if err != nil {
		t.Fatalf("building ./cmd/caddy: %v", err)
	}
	return caddy
}

// deadline is how long anything that has to happen may take on a slow machine that does
// something else too.
const deadline = 90 * time.Second

// attempts is how often something is tried that a machine can spoil by standing still in
// its midst.
const attempts = 10

// sidecar is a running Caddy.
type sidecar struct {
	*process
	options string // of the global block
	detach  bool
	admin   *http.Client
}

// start runs a Caddy until the end of the test, with the given Caddyfile. options
// are for the global block. What listens is on ports from freePort.
func (b binary) start(t *testing.T, options, sites string) *sidecar {
	t.Helper()
	dir := shortTempDir(t)
	socket := filepath.Join(dir, "admin")
	s := &sidecar{options: fmt.Sprintf(`{
	admin unix/%s
	storage file_system %s
	persist_config off
	skip_install_trust
	auto_https disable_redirects
%s
}
`, socket, dir, options)}
	file := filepath.Join(dir, "Caddyfile")
	s.detach = b.detach
	if err := os.WriteFile(file, []byte(s.options+s.rewrite(sites)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.admin = adminClient(t, socket)
	cmd := exec.Command(b.path, "run", "--config", file)
	if b.files > 0 {
		cmd = exec.Command("sh", append([]string{"-c", `ulimit -n "$0" && exec "$@"`, strconv.Itoa(b.files)}, cmd.Args...)...)
	}
	cmd.Env = environment(dir)
	s.process = run(t, cmd)
	return s
}

// environment has a Caddy keep what it keeps in dir.
func environment(dir string) []string {
	return append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
}

// adminClient talks to the admin endpoint on a socket, whatever the URL says.
func adminClient(t *testing.T, socket string) *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: stubborn{transport}, Timeout: deadline}
}

// shortTempDir is like t.TempDir, but its path can be that of a socket.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// process is a Caddy as the operating system sees it.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	logs   journal
	exited chan struct{}
}

// run starts a Caddy, waits until it serves, and stops it at the end of the test.
// Whatever the test was about, it must not have panicked.
func run(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, exited: make(chan struct{})}
	cmd.Stderr = &p.logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.exited:
		case <-time.After(deadline):
			t.Error("the process does not stop")
			cmd.Process.Kill()
			<-p.exited
		}
		for _, word := range []string{"panic", "DATA RACE", "fatal error"} {
			if strings.Contains(p.logs.String(), word) {
				t.Errorf("the process logged a %s", word)
			}
		}
		if t.Failed() {
			t.Logf("the process logged:\n%s", p.logs.tail(60))
		}
	})
	waitFor(t, "the process to serve", func() bool {
		select {
		case <-p.exited:
			t.Fatal("the process ended")
		default:
		}
		return len(p.logs.entries("serving initial configuration")) > 0
	})
	return p
}

// journal is what a process has logged, in lines of JSON.
type journal struct {
	mu  sync.Mutex // protects buf
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) tail(n int) string {
	lines := strings.Split(j.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// entries are those with that message.
func (j *journal) entries(message string) (found []map[string]any) {
	for line := range strings.Lines(j.String()) {
		if !strings.Contains(line, message) {
			continue
		}
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
			found = append(found, entry)
		}
	}
	return found
}

// reload loads the same options and other sites, and reports how long that took.
func (s *sidecar) reload(t *testing.T, sites string) time.Duration {
	t.Helper()
	req, err := http.NewRequest("POST", "http://admin/load", strings.NewReader(s.options+s.rewrite(sites)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	req.Header.Set("Cache-Control", "must-revalidate") // even where nothing differs
	began := time.Now()
	resp, err := s.admin.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("reload: %s %s", resp.Status, text)
	}
	return time.Since(began)
}

// tells is what the admin API answers to a GET.
func (s *sidecar) tells(path string) string {
	s.t.Helper()
	resp, err := s.admin.Get("http://admin" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// metric is the value of one line of the metrics; 0 if it is not there yet. The
// name has its labels with it.
func (s *sidecar) metric(name string) int {
	s.t.Helper()
	for line := range strings.Lines(s.tells("/metrics")) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return int(n)
		}
	}
	return 0
}

// outcomes is how many requests ended so.
func (s *sidecar) outcomes(outcome string) int {
	s.t.Helper()
	return s.metric(fmt.Sprintf("caddy_long_poll_requests_total{outcome=%q}", outcome))
}

// waitParked waits until that many requests are parked.
func (s *sidecar) waitParked(n int) {
	s.t.Helper()
	var parked int
	waitUntil(s.t, func() string { return fmt.Sprintf("%d parked instead of %d", parked, n) }, func() bool {
		parked = s.metric("caddy_long_poll_parked_requests")
		return parked == n
	})
}

// waitFor waits until ready.
func waitFor(t *testing.T, what string, ready func() bool) {
	t.Helper()
	waitUntil(t, func() string { return "waited in vain for " + what }, ready)
}

// waitUntil waits until ready, or fails the test with what is the matter.
func waitUntil(t *testing.T, matter func() string, ready func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(deadline)
	for !ready() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal(matter())
		}
	}
}

var givenPorts struct {
	mu sync.Mutex // protects m
	m  map[string]bool
}

// freePort is a port on the loopback address that nobody listens on, for TCP and
// UDP, and that no other caller was given. A reload must find the same port again,
// so port 0 will not do; and the port is below those that port 0 and connections are
// given as a rule, or one of these could take it before the process listens.
func freePort(t *testing.T) string {
	t.Helper()
	givenPorts.mu.Lock()
	defer givenPorts.mu.Unlock()
	for range 1000 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(10000+rand.IntN(20000)))
		tcp, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", address)
		tcp.Close()
		if err != nil {
			continue
		}
		udp.Close()
		_, port, _ := net.SplitHostPort(address)
		if givenPorts.m[port] {
			continue
		}
		if givenPorts.m == nil {
			givenPorts.m = make(map[string]bool)
		}
		givenPorts.m[port] = true
		return port
	}
	t.Fatal("there is no free port")
	return ""
}

// backend is a legacy REST backend: it answers at once with what it has, and
// knows nothing of waiting.
type backend struct {
	addr  string
	asked atomic.Int64

	mu     sync.Mutex // protects what follows
	value  string
	server *http.Server
}

// serveBackend runs a backend until the end of the test. With a nil handler it
// answers any GET with its value as JSON and as the ETag.
func serveBackend(t *testing.T, handler http.Handler) *backend {
	t.Helper()
	b := &backend{addr: "127.0.0.1:0", value: "one"}
	if handler == nil {
		handler = b
	}
	b.listen(t, handler)
	t.Cleanup(b.kill)
	return b
}

// listen also brings a killed backend back.
func (b *backend) listen(t *testing.T, handler http.Handler) {
	t.Helper()
	var ln net.Listener
	var err error
	waitUntil(t, func() string { return err.Error() }, func() bool {
		// A connection of somebody else's may use the port meanwhile.
		ln, err = net.Listen("tcp", b.addr)
		return err == nil
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addr = ln.Addr().String()
	b.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.asked.Add(1)
		handler.ServeHTTP(w, r)
	})}
	go b.server.Serve(ln)
}

// kill breaks all of the backend's connections.
func (b *backend) kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.server.Close()
}

func (b *backend) set(value string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.value = value
}

func (b *backend) get() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.value
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	value := b.get()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("ETag", strconv.Quote(value))
	if r.Header.Get("If-None-Match") == strconv.Quote(value) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	fmt.Fprintf(w, `{"value":%q}`, value)
}

// client polls one site.
type client struct {
	t        *testing.T
	http     *http.Client
	protocol string
	base     string // URL without path
}

// newClient speaks HTTP/1.1 without TLS, to a port on the loopback address.
func newClient(t *testing.T, port string) *client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 2000, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{t: t, http: &http.Client{Transport: transport}, protocol: "HTTP/1.1", base: "http://127.0.0.1:" + port}
}

// reply is what became of one request.
type reply struct {
	status int
	header http.Header
	body   string
	err    error
	took   time.Duration
}

// outcome is what Long-Poll says.
func (r reply) outcome() string {
	outcome, _, _ := strings.Cut(r.header.Get("Long-Poll"), ";")
	return outcome
}

func (r reply) String() string {
	if r.err != nil {
		return fmt.Sprintf("%v after %v", r.err, r.took)
	}
	return fmt.Sprintf("%d %s %.80q after %v", r.status, r.outcome(), r.body, r.took)
}

// want fails the test unless the reply has that status and that outcome.
func (r reply) want(t *testing.T, status int, outcome string) reply {
	t.Helper()
	if r.err != nil || r.status != status || r.outcome() != outcome {
		t.Errorf("got %v, want %d %s", r, status, outcome)
	}
	return r
}

// wantBody fails the test unless the body is that.
func (r reply) wantBody(t *testing.T, body string) reply {
	t.Helper()
	if r.body != body {
		t.Errorf("got %v, want the body %q", r, body)
	}
	return r
}

// wantFields fails the test unless the reply has each of the fields ("Name:
// value") exactly once.
func (r reply) wantFields(t *testing.T, fields ...string) reply {
	t.Helper()
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		if got := r.header.Values(name); len(got) != 1 || got[0] != value {
			t.Errorf("got %v with %s: %q, want %q", r, name, got, value)
		}
	}
	return r
}

// pending is a request that was sent.
type pending struct {
	t     *testing.T
	leave context.CancelFunc
	done  chan struct{}
	reply reply // valid once done is closed
}

// send sends a request and does not wait for its answer. Fields are of the form
// "Name: value".
func (c *client) send(method, path, body string, fields ...string) *pending {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pending{t: c.t, leave: cancel, done: make(chan struct{})}
	c.t.Cleanup(func() {
		cancel()
		<-p.done
	})
	go func() {
		defer close(p.done)
		p.reply = c.exchange(ctx, method, path, body, fields)
	}()
	return p
}

func (c *client) exchange(ctx context.Context, method, path, body string, fields []string) (r reply) {
	began := time.Now()
	defer func() { r.took = time.Since(began) }()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		return reply{err: err}
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		req.Header.Add(name, value)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	if resp.Proto != c.protocol {
		return reply{err: fmt.Errorf("speaking %s instead of %s", resp.Proto, c.protocol)}
	}
	text, err := io.ReadAll(resp.Body)
	return reply{status: resp.StatusCode, header: resp.Header, body: string(text), err: err}
}

// poll sends a GET and does not wait for its answer.
func (c *client) poll(path string, fields ...string) *pending {
	return c.send("GET", path, "", fields...)
}

// get is the answer to a GET.
func (c *client) get(path string, fields ...string) reply {
	c.t.Helper()
	return c.poll(path, fields...).wait()
}

// expires is the answer to a GET whose time is up while it is parked. Where a machine
// stands still, that can be before the first check has told that there is something to wait
// for, and nobody was parked: then it asks again.
func (c *client) expires(path string, fields ...string) (r reply) {
	c.t.Helper()
	for range attempts {
		if r = c.get(path, fields...); r.status != http.StatusNotModified || r.outcome() != "answered" {
			break
		}
	}
	return r.want(c.t, http.StatusNotModified, "expired")
}

// wait is for the answer.
func (p *pending) wait() reply {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(deadline):
		p.leave()
		<-p.done
		p.t.Errorf("there is no answer")
	}
	return p.reply
}

// waiting reports whether there is no answer yet.
func (p *pending) waiting() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// crowd sends n requests.
func crowd(n int, send func(i int) *pending) []*pending {
	all := make([]*pending, n)
	for i := range all {
		all[i] = send(i)
	}
	return all
}

// wantWaiting fails the test if any of them was answered.
func wantWaiting(t *testing.T, all []*pending) {
	t.Helper()
	var answered int
	var last reply
	for _, p := range all {
		if !p.waiting() {
			answered++
			last = p.reply
		}
	}
	if answered > 0 {
		t.Errorf("%d of %d were answered, such as: %v", answered, len(all), last)
	}
}

// wantAll fails the test unless all are answered with that status and outcome. It
// does not repeat itself a thousand times.
func wantAll(t *testing.T, all []*pending, status int, outcome string) {
	t.Helper()
	var wrong int
	var last reply
	for _, p := range all {
		if r := p.wait(); r.err != nil || r.status != status || r.outcome() != outcome {
			wrong++
			last = r
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d got something else than %d %s, such as: %v", wrong, len(all), status, outcome, last)
	}
}

// exit stops the process, and reports how long that took.
func (p *process) exit(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.exited:
	case <-time.After(deadline):
		t.Fatal("the process does not stop")
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the process ended with %d", code)
	}
	return time.Since(began)
}
