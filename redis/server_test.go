package redis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// patience is how long anything that has to happen may take on a slow machine that does
// something else too.
const patience = 90 * time.Second

// TestMain fails if a test leaves a goroutine of this package or of go-redis
// behind.
func TestMain(m *testing.M) {
	goredis.SetLogger(clientLogger{}) // what the tests' own clients say of servers that are killed
	code := m.Run()
	if stacks := leaked(); code == 0 && stacks != "" {
		fmt.Fprintf(os.Stderr, "leaked goroutines:\n%s\n", stacks)
		code = 1
	}
	os.Exit(code)
}

func leaked() string {
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		buf := make([]byte, 4<<20)
		buf = buf[:runtime.Stack(buf, true)]
		var left []string
		for _, g := range strings.Split(string(buf), "\n\n")[1:] { // the first one is this
			if strings.Contains(g, "caddy-longpoll/redis.") || strings.Contains(g, "redis/go-redis") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return ""
		}
		select {
		case <-deadline:
			return strings.Join(left, "\n\n")
		case <-tick.C:
		}
	}
}

// eventually waits for a condition, and fails the test if it does not come.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("no sign of: %s", what)
		case <-tick.C:
		}
	}
}

// hasty is a pace for tests. Its patience is still long enough for a machine that is busy
// with other tests, or stands still: no server is lost that is there.
func hasty() *pace {
	return &pace{
		ping:     200 * time.Millisecond,
		pong:     30 * time.Second,
		dial:     30 * time.Second,
		pauseMin: 10 * time.Millisecond,
		pauseMax: 200 * time.Millisecond,
		retryMax: 300 * time.Millisecond,
		spread:   100 * time.Millisecond,
		goodbye:  500 * time.Millisecond,
	}
}

// testServer is a Redis server of one test.
type testServer struct {
	t     *testing.T
	addr  string
	admin *goredis.Client

	binary string // empty: miniredis
	args   []string
	cmd    *exec.Cmd
	mini   *miniredis.Miniredis
}

// startRedis starts a real server, or miniredis where none is installed. args are
// those of the real one; with any, miniredis will not do.
func startRedis(t *testing.T, args ...string) *testServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if len(args) > 0 {
			needServer(t, "special settings")
		}
		t.Log("uses miniredis, because no redis-server is installed")
		s := &testServer{t: t, mini: miniredis.RunT(t)}
		s.addr = s.mini.Addr()
		s.admin = adminClient(t, &goredis.Options{Addr: s.addr})
		return s
	}
	s := newServer(t, "redis-server", args...)
	s.start()
	s.admin = adminClient(t, &goredis.Options{Addr: s.addr})
	return s
}

// needServer skips a test for which miniredis will not do.
func needServer(t *testing.T, what string) {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skipf("needs redis-server, which is not installed: miniredis has no %s", what)
	}
}

// newServer prepares a real server on a free port, which is not started.
func newServer(t *testing.T, binary string, args ...string) *testServer {
	t.Helper()
	t.Logf("uses %s", binary)
	addr := freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	base := []string{"--port", port, "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "", "--appendonly", "no"}
	return &testServer{t: t, addr: addr, binary: binary, args: append(base, args...)}
}

// taken are the ports that this process has given away.
var taken sync.Map

// freeAddr is one that nobody listens on. Its port is below those that connections are given
// as a rule, or one of these could take it before the server listens, or while it is killed.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := 10000 + rand.IntN(20000)
		if _, again := taken.LoadOrStore(port, true); again {
			continue
		}
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		ln.Close()
		return ln.Addr().String()
	}
	t.Fatal("there is no free port")
	return ""
}

func (s *testServer) start() {
	s.t.Helper()
	if s.mini != nil {
		if err := s.mini.Restart(); err != nil {
			s.t.Fatal(err)
		}
		return
	}
	log, err := os.CreateTemp(s.t.TempDir(), "log")
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(s.binary, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd := s.cmd
	s.t.Cleanup(func() { stop(cmd) })
	eventually(s.t, "a server that listens", func() bool {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

func stop(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// kill ends the server without a word.
func (s *testServer) kill() {
	if s.mini != nil {
		s.mini.Close()
		return
	}
	stop(s.cmd)
}

func (s *testServer) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

func (s *testServer) do(args ...any) any {
	s.t.Helper()
	v, err := s.admin.Do(context.Background(), args...).Result()
	if err != nil {
		s.t.Fatalf("%v: %v", args, err)
	}
	return v
}

func (s *testServer) publish(channel, payload string) {
	s.t.Helper()
	s.do("PUBLISH", channel, payload)
}

func (s *testServer) numSub(channel string) int64 {
	s.t.Helper()
	n, err := s.admin.PubSubNumSub(context.Background(), channel).Result()
	if err != nil {
		s.t.Fatal(err)
	}
	return n[channel]
}

// connections returns how many there are, not counting that of the test.
func (s *testServer) connections() int {
	s.t.Helper()
	list := strings.TrimSpace(s.do("CLIENT", "LIST").(string))
	return len(strings.Split(list, "\n")) - 1
}

func adminClient(t *testing.T, o *goredis.Options) *goredis.Client {
	t.Helper()
	o.PoolSize, o.PipelinePoolSize, o.Protocol, o.DisableIdentity = 1, -1, 2, true
	c := goredis.NewClient(o)
	t.Cleanup(func() { c.Close() })
	return c
}

// newWaker returns a waker with the given subdirectives, as Caddy would make it.
func newWaker(t *testing.T, p *pace, block string) *Waker {
	t.Helper()
	w := new(Waker)
	d := caddyfile.NewTestDispenser("redis {\n" + block + "\n}")
	if err := w.UnmarshalCaddyfile(d); err != nil {
		t.Fatal(err)
	}
	w.pace = p
	provision(t, w)
	return w
}

func provision(t *testing.T, w *Waker) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	t.Cleanup(func() { _ = w.Cleanup() })
	if err := w.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.Validate(); err != nil {
		t.Fatal(err)
	}
}

// observe returns what the waker logs, at the given level.
func observe(w *Waker, level zapcore.Level) *observer.ObservedLogs {
	core, logs := observer.New(level)
	l := w.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, logger := range l.loggers {
		if logger == w.logger {
			w.logger = zap.New(core)
			l.loggers[i] = w.logger
		}
	}
	return logs
}

// wakes counts them.
type wakes struct {
	t     *testing.T
	count atomic.Int64
	stop  func()
}

// watch watches a path, and waits for nothing.
func watchPath(t *testing.T, w *Waker, path string) *wakes {
	repl := caddy.NewReplacer()
	repl.Set("http.request.uri.path", path)
	c := &wakes{t: t}
	c.stop = w.Watch(repl, func() { c.count.Add(1) })
	return c
}

// is waits until there were n wake-ups.
func (c *wakes) is(n int64) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("wake-up %d", n), func() bool { return c.count.Load() >= n })
	if got := c.count.Load(); got != n {
		c.t.Fatalf("got %d wake-ups, want %d", got, n)
	}
}
