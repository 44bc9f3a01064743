// Package e2e runs the clients of systems that long-poll, unmodified, against
// plain backends that answer at once, with the built binary in between: it is the
// proof of the recipes in docs. It is a module of its own, so that what it needs
// never enters a user's build.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	wait     = 2 * time.Second // for how long the clients want to wait
	interval = time.Second     // the default, which the recipes keep
	patience = 90 * time.Second
)

// caddy is the built binary.
var caddy string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if !flagGiven("test.parallel") {
		flag.Set("test.parallel", "8") // they wait more than they work
	}
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	caddy = filepath.Join(dir, "caddy")
	build := exec.Command("go", "build", "-o", caddy, "./cmd/caddy")
	build.Dir = ".." // with the versions that a user's build has
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building cmd/caddy: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func flagGiven(name string) (given bool) {
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}

// backend answers at once, and knows nothing of waiting. What it says depends on
// a value that begins with 1 and is one more after each change.
type backend struct {
	t      *testing.T
	answer func(w http.ResponseWriter, r *http.Request, value int)
	polled string // a part of the path of what is polled
	addr   string
	value  atomic.Int64
	polls  atomic.Int64
	server *http.Server
}

func newBackend(t *testing.T, polled string, answer func(http.ResponseWriter, *http.Request, int)) *backend {
	b := &backend{t: t, answer: answer, polled: polled, addr: "127.0.0.1:0"}
	b.value.Store(1)
	b.start()
	t.Cleanup(b.stop)
	return b
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, b.polled) {
		b.polls.Add(1)
	}
	b.answer(w, r, int(b.value.Load()))
}

// start starts the backend, or starts it again where it was.
func (b *backend) start() {
	b.t.Helper()
	var l net.Listener
	await(b.t, "the backend's port", func() (err error) {
		l, err = net.Listen("tcp", b.addr)
		return err
	})
	b.addr = l.Addr().String()
	b.server = &http.Server{Handler: b}
	go b.server.Serve(l)
}

func (b *backend) stop() { b.server.Close() }

// change gives the backend something else to say.
func (b *backend) change() (value string) { return strconv.FormatInt(b.value.Add(1), 10) }

func (b *backend) now() string { return strconv.FormatInt(b.value.Load(), 10) }

// site is the binary with a file of testdata/dialects, in front of a backend.
type site struct {
	t     *testing.T
	file  string
	url   string
	admin string
	logs  *buffer
	ended chan struct{} // closed when the process has ended
}

func newSite(t *testing.T, file string, b *backend) *site {
	t.Helper()
	return newSiteOf(t, file, b, wait)
}

// newSiteOf is a site with that hold.
func newSiteOf(t *testing.T, file string, b *backend, hold time.Duration) *site {
	t.Helper()
	home := t.TempDir()
	for range 5 {
		listen, admin := freePorts(t)
		s := &site{
			t: t, file: filepath.Join("..", "testdata", "dialects", file+".Caddyfile"),
			url: "http://" + listen, admin: "http://" + admin, logs: new(buffer), ended: make(chan struct{}),
		}
		cmd := exec.Command(caddy, "run", "--config", s.file, "--adapter", "caddyfile")
		cmd.Env = append(os.Environ(), "BACKEND="+b.addr, "LISTEN="+s.url, "ADMIN="+admin, "HOLD="+hold.String(),
			"HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home)
		cmd.Stdout, cmd.Stderr = s.logs, s.logs
		if err := cmd.Start(); err != nil {
			t.Fatalf("starting caddy: %v", err)
		}
		go func() {
			cmd.Wait()
			close(s.ended)
		}()
		if !s.up() {
			cmd.Process.Kill()
			<-s.ended
			if strings.Contains(s.logs.String(), "address already in use") {
				continue // somebody else was faster
			}
			t.Fatalf("caddy does not start:\n%s", s.logs)
		}
		t.Cleanup(func() {
			cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-s.ended:
			case <-time.After(patience):
				t.Error("caddy does not stop")
				cmd.Process.Kill()
				<-s.ended
			}
			if t.Failed() {
				t.Logf("caddy said:\n%s", s.logs)
			}
		})
		return s
	}
	t.Fatal("no free ports")
	return nil
}

// taken has the ports that a site has or had: two Caddys that are told to share one
// would do so without a word.
var taken sync.Map

// freePorts finds two. Caddy has to be told its ports, so somebody else can be
// faster.
func freePorts(t *testing.T) (a, b string) {
	t.Helper()
	var addrs []string
	for len(addrs) < 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, again := taken.LoadOrStore(l.Addr().String(), true); !again {
			addrs = append(addrs, l.Addr().String())
		}
	}
	return addrs[0], addrs[1]
}

// up waits until the site listens.
func (s *site) up() bool {
	deadline := time.After(patience)
	for {
		select {
		case <-s.ended:
			return false
		case <-deadline:
			return false
		case <-time.After(50 * time.Millisecond):
		}
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err == nil {
			conn.Close()
			return true
		}
	}
}

// metric is the value of one of our metrics.
func (s *site) metric(name string) int {
	s.t.Helper()
	text := s.ask(http.MethodGet, "/metrics", "", "")
	found := regexp.MustCompile(`(?m)^caddy_long_poll_` + regexp.QuoteMeta(name) + ` (\d+)$`).FindStringSubmatch(text)
	if found == nil {
		s.t.Fatalf("there is no metric %s", name)
	}
	n, _ := strconv.Atoi(found[1])
	return n
}

// parkedAre checks how many requests are parked.
func (s *site) parkedAre(n int) error {
	if parked := s.metric("parked_requests"); parked != n {
		return fmt.Errorf("%d are parked, not %d", parked, n)
	}
	return nil
}

func (s *site) outcomes(outcome string) int {
	return s.metric(`requests_total{outcome="` + outcome + `"}`)
}

// reload loads the configuration again.
func (s *site) reload() {
	s.t.Helper()
	config, err := os.ReadFile(s.file)
	if err != nil {
		s.t.Fatal(err)
	}
	s.ask(http.MethodPost, "/load", "text/caddyfile", string(config))
}

// wake has everything checked that somebody waits for.
func (s *site) wake() {
	s.t.Helper()
	s.ask(http.MethodPost, "/long_poll/wake", "application/json", `{"prefix": "/"}`)
}

// ask asks the admin endpoint. A reload puts a new one in its place, which resets the
// connections that come in that instant; all that is asked may be asked again.
func (s *site) ask(method, path, kind, body string) string {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		req, err := http.NewRequest(method, s.admin+path, strings.NewReader(body))
		if err != nil {
			s.t.Fatal(err)
		}
		req.Header.Set("Content-Type", kind)
		req.Header.Set("Cache-Control", "must-revalidate") // load it though it is the same
		resp, err := http.DefaultClient.Do(req)
		var text []byte
		if err == nil {
			text, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		switch {
		case err == nil && resp.StatusCode == http.StatusOK:
			return string(text)
		case err == nil:
			s.t.Fatalf("the admin endpoint answers %s with %d: %s", path, resp.StatusCode, text)
		case time.Now().After(deadline):
			s.t.Fatalf("asking the admin endpoint for %s: %v", path, err)
		}
	}
}

// crowd is a number of clients, and what they have been told.
type crowd struct {
	t    *testing.T
	n    int
	stop func() // ends them

	mu   sync.Mutex // protects what follows
	told [][]string // the values that each of them has been told
	errs []error
}

// clients runs n clients of a system until ctx is done. Each tells every value
// that it is told, and every error.
type clients func(ctx context.Context, site string, n int, tell tell) error

type tell func(client int, value string, err error)

func newCrowd(t *testing.T, s *site, n int, run clients) *crowd {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &crowd{t: t, n: n, told: make([][]string, n)}
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, s.url, n, func(client int, value string, err error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			switch {
			case ctx.Err() != nil:
			case err != nil:
				c.errs = append(c.errs, fmt.Errorf("client %d: %w", client, err))
			default:
				c.told[client] = append(c.told[client], value)
			}
		})
	}()
	c.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("running %d clients: %v", n, err)
			}
		case <-time.After(patience):
			t.Error("the clients do not end")
		}
	})
	t.Cleanup(c.stop)
	return c
}

// forget empties what the clients have been told.
func (c *crowd) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.told)
}

// failed is the first error that a client has met.
func (c *crowd) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.errs[:min(1, len(c.errs))]...)
}

// expect reports how the clients differ from having each been told just these
// values, and no error.
func (c *crowd) expect(values ...string) error {
	if err := c.failed(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for client, told := range c.told {
		if strings.Join(told, " ") != strings.Join(values, " ") {
			return fmt.Errorf("client %d of %d was told %q, not %q", client, c.n, told, values)
		}
	}
	return nil
}

// latest reports how the clients differ from having each been told value last.
func (c *crowd) latest(value string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for client, told := range c.told {
		if len(told) == 0 || told[len(told)-1] != value {
			return fmt.Errorf("client %d of %d was told %q, not %q at last", client, c.n, told, value)
		}
	}
	return nil
}

// await waits until cond finds nothing wrong.
func await(t *testing.T, what string, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("awaiting %s: %v", what, err)
		}
		<-tick.C
	}
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
