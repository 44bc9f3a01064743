package integration_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestClusterFaults has what Caddys share over fail in all ways that it can, while clients go
// from one to the next: none misses a change, and none sees a value that only grows go back.
func TestClusterFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("needs redis-server, which is not installed")
	}
	caddy := buildCaddy(t)
	for name, test := range map[string]func(*testing.T, binary){
		"cluster of three": testFlockOnCluster,
		"fail-over":        testFlockFailsOver,
		"half-open":        testFlockHalfOpen,
		"slow":             testFlockSlow,
		"read-only":        testFlockReadOnly,
		"many resources":   testFlockManyResources,
		"rolling reload":   testFlockRolls,
		"stop":             testFlockStops,
		"each role":        testFlockRoles,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, caddy)
		})
	}
}

// wanderers are clients that go from one Caddy to the next, whatever happens to these.
type wanderers struct {
	f    *flock
	have []atomic.Int64 // values that they had last
}

// wander has so many clients go round until the end of the test.
func (f *flock) wander(n int) *wanderers {
	w := &wanderers{f: f, have: make([]atomic.Int64, n)}
	ctx, leave := context.WithCancel(context.Background())
	var gone sync.WaitGroup
	for i := range w.have {
		gone.Go(func() {
			for turn := i; ctx.Err() == nil; turn++ {
				w.ask(ctx, f.clients[turn%len(f.clients)], &w.have[i], turn%4 == 3)
			}
		})
	}
	f.t.Cleanup(func() {
		leave()
		gone.Wait()
	})
	return w
}

// ask has one ask once: whether it has been told anything newer, or, where it names nothing,
// whether that was there when it asked.
func (w *wanderers) ask(ctx context.Context, c *client, have *atomic.Int64, unnamed bool) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second) // who is stopped says nothing
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, "GET", c.base+"/orders", nil)
	last, was := have.Load(), w.f.backend.value.Load()
	if last == 0 || unnamed {
		r.Header.Set("Prefer", "wait=1")
	} else {
		r.Header.Set("If-None-Match", strconv.Quote(fmt.Sprint(last)))
	}
	resp, err := c.http.Do(r)
	if err != nil {
		sleep(ctx, 20*time.Millisecond) // it is dead
		return
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return
	}
	got, err := strconv.ParseInt(string(text), 10, 64)
	switch {
	case err != nil:
		w.f.t.Errorf("got %q; want a number", text)
	case got < last:
		w.f.t.Errorf("%d after %d", got, last)
	case unnamed && got < was:
		w.f.t.Errorf("got %d, and it was %d before the question", got, was)
	}
	have.Store(got)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// grow has the value grow n times, each time once all know it.
func (w *wanderers) grow(n int) {
	w.f.t.Helper()
	for range n {
		now := w.f.backend.value.Add(1)
		waitFor(w.f.t, fmt.Sprint("all to know ", now), func() bool {
			return !slices.ContainsFunc(pointers(w.have), func(have *atomic.Int64) bool { return have.Load() < now })
		})
	}
}

func pointers[T any](all []T) (ps []*T) {
	for i := range all {
		ps = append(ps, &all[i])
	}
	return ps
}

// testFlockOnCluster: a Redis Cluster of three, of which the node that has the group's keys
// dies, and comes back empty.
func testFlockOnCluster(t *testing.T, caddy binary) {
	nodes, bus := make([]*redisServer, 3), make([]string, 3)
	var addresses []string
	for i := range nodes {
		bus[i] = freePort(t)
		nodes[i] = newRedis(t, "", "--cluster-enabled", "yes", "--cluster-port", bus[i], "--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no")
		nodes[i].start()
		addresses = append(addresses, nodes[i].addr)
		do(t, nodes[i], "CLUSTER", "ADDSLOTSRANGE", i*5461, min((i+1)*5461-1+i/2, 16383))
	}
	var met time.Time
	for _, n := range nodes {
		waitFor(t, "a cluster", func() bool {
			if time.Since(met) > 5*time.Second { // who does not answer in time is not asked again
				met = time.Now()
				for i, n := range nodes[1:] {
					host, port, _ := net.SplitHostPort(n.addr)
					do(t, nodes[0], "CLUSTER", "MEET", host, port, bus[i+1])
				}
			}
			slots, err := n.Do(context.Background(), "CLUSTER", "SLOTS").Slice()
			info, _ := n.Do(context.Background(), "CLUSTER", "INFO").Text()
			return err == nil && len(slots) == 3 && strings.Contains(info, "cluster_state:ok")
		})
	}
	f := startFlockOn(t, caddy, 3, "interval 500ms\nhold 3s", "address "+strings.Join(addresses, " "))
	w := f.wander(6)
	w.grow(2)
	f.holder(three...)
	slot, _ := nodes[0].Do(context.Background(), "CLUSTER", "KEYSLOT", "long_poll:{default}:").Int64()
	owner := nodes[min(int(slot)/5461, 2)]
	if n, err := owner.DBSize(context.Background()).Result(); err != nil || n == 0 {
		t.Errorf("the owner of the group has %d keys, %v", n, err)
	}
	w.grow(2)
	owner.signal(syscall.SIGKILL)
	w.grow(3)
	owner.start() // it knows its slots, and nothing else
	f.holder(three...)
	w.grow(2)
}

func do(t *testing.T, s *redisServer, args ...any) {
	t.Helper()
	if err := s.Do(context.Background(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}

// testFlockFailsOver: the master dies, and sentinels have its replica take its place.
func testFlockFailsOver(t *testing.T, caddy binary) {
	master := newRedis(t, "")
	master.start()
	host, port, _ := net.SplitHostPort(master.addr)
	replica := newRedis(t, "", "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	replica.start()
	sentinel := startSentinel(t, master.addr, "")
	f := startFlockOn(t, caddy, 3, "interval 500ms\nhold 3s", "address "+sentinel.addr+"\nmaster main")
	w := f.wander(6)
	w.grow(2)
	f.holder(three...)
	master.signal(syscall.SIGKILL)
	w.grow(3)
	waitFor(t, "the replica to have the lease", func() bool {
		keys, err := replica.Keys(context.Background(), "*lease*").Result()
		role, _ := replica.Do(context.Background(), "ROLE").Slice()
		return err == nil && len(keys) == 1 && len(role) > 0 && role[0] == "master"
	})
	f.holder(three...)
	w.grow(2)
}

// testFlockHalfOpen: Redis says nothing any more, and keeps its connections.
func testFlockHalfOpen(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 3, "interval 500ms\nhold 10m", "")
	all := f.park(5, three...)
	f.holder(three...)
	f.redis.signal(syscall.SIGSTOP)
	cont := sync.OnceFunc(func() { f.redis.signal(syscall.SIGCONT) })
	defer cont()
	before := f.backend.reads.Load()
	waitFor(t, "each to check", func() bool { return f.backend.reads.Load() >= before+9 })
	wantWaiting(t, all)
	f.change(all)
	w := f.wander(6)
	w.grow(2)
	cont()
	f.holder(three...)
	w.grow(2)
}

// proxy is between the Caddys and Redis.
type proxy struct {
	addr  string
	delay atomic.Int64 // nanoseconds that a packet takes, each way
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String()}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			mu.Lock()
			open = append(open, in, out)
			mu.Unlock()
			all.Go(func() { p.pass(in, out) })
			all.Go(func() { p.pass(out, in) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return p
}

func (p *proxy) pass(from, to net.Conn) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		time.Sleep(time.Duration(p.delay.Load()))
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// testFlockSlow: Redis is slow, and then so slow that it is as good as away.
func testFlockSlow(t *testing.T, caddy binary) {
	redis := startRedis(t)
	p := startProxy(t, redis.addr)
	f := startFlockOn(t, caddy, 3, "interval 500ms\nhold 3s", "address "+p.addr)
	w := f.wander(6)
	w.grow(2)
	f.holder(three...)
	for _, delay := range []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, 2 * time.Second} {
		p.delay.Store(int64(delay))
		w.grow(2)
	}
	p.delay.Store(0)
	f.holder(three...)
	w.grow(2)
}

// testFlockReadOnly: the server has become a replica, which takes no writes.
func testFlockReadOnly(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 3, "interval 500ms\nhold 10m", "")
	master := startRedis(t)
	all := f.park(5, three...)
	f.holder(three...)
	host, port, _ := net.SplitHostPort(master.addr)
	do(t, f.redis, "REPLICAOF", host, port)
	before := f.backend.reads.Load()
	waitFor(t, "each to check", func() bool { return f.backend.reads.Load() >= before+9 })
	wantWaiting(t, all)
	f.change(all)
	w := f.wander(6)
	w.grow(2)
	do(t, f.redis, "REPLICAOF", "NO", "ONE")
	f.holder(three...)
	w.grow(2)
}

// testFlockManyResources: a thousand resources are checked once each, whoever waits where.
func testFlockManyResources(t *testing.T, caddy binary) {
	const n = 1000
	f := startFlock(t, caddy, 3, "interval 3s\nhold 10m", "")
	var all []*pending
	for i := range three {
		all = append(all, crowd(n, func(k int) *pending { return f.clients[i].poll(fmt.Sprint("/orders/", k), hasOneOf(f)) })...)
		f.caddys[i].waitParked(n)
	}
	leases := func() (sum int) {
		for _, s := range f.caddys {
			sum += s.metric("caddy_long_poll_leases")
		}
		return sum
	}
	waitUntil(t, func() string { return fmt.Sprintf("%d leases; want %d", leases(), n) }, func() bool { return leases() == n })
	inAWindow(t, func() string {
		began := time.Now() // clocks are read around what they time
		reads := f.backend.reads.Load()
		waitFor(t, "two rounds of checks", func() bool { return f.backend.reads.Load() >= reads+2*n })
		if took := time.Since(began); took < 3*time.Second {
			return fmt.Sprintf("%d checks within %v; want %d in 3s", 2*n, took, n)
		}
		return ""
	})
	// One of them dies: its leases are the others'.
	f.kill(0)
	rest := all[n:]
	waitUntil(t, func() string { return "leases of the dead" }, func() bool {
		return f.caddys[1].metric("caddy_long_poll_leases")+f.caddys[2].metric("caddy_long_poll_leases") == n
	})
	wantWaiting(t, rest)
	f.change(rest)
}

// hasOneOf names the value that there is.
func hasOneOf(f *flock) string {
	return fmt.Sprintf("If-None-Match: %q", fmt.Sprint(f.backend.value.Load()))
}

// testFlockRolls: all get another configuration, one after the other: one with which they
// share with those that do not have it yet, and one with which they do not.
func testFlockRolls(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 3, "interval 500ms\nhold 3s", "")
	w := f.wander(6)
	w.grow(2)
	f.holder(three...)
	for _, i := range three {
		f.caddys[i].reload(t, strings.Replace(f.blocks[i], "interval 500ms", "interval 700ms\nlinger 10s\non_error release", 1))
		f.holder(three...)
		w.grow(1)
	}
	for _, i := range three {
		f.caddys[i].reload(t, strings.Replace(f.blocks[i], "interval 500ms", "interval 500ms\nmax_body 2MiB", 1))
		if i < 2 {
			f.holder(three[:i+1]...)
			f.holder(three[i+1:]...)
		}
		w.grow(1)
	}
	f.holder(three...)
	w.grow(2)
}

// testFlockStops: who has the lease stops, and it does not run out: it is handed on.
func testFlockStops(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 3, "interval 100s\nhold 10m", "") // a lease outlasts the test
	all := f.park(5, three...)
	first := f.holder(three...)
	f.caddys[first].exit(t)
	second := f.holder(without(three, first)...)
	third := without(without(three, first), second)[0]
	f.caddys[second].exit(t)
	f.holder(third)
	for i, p := range all {
		if i/5 != third {
			p.wait().want(t, 304, "drained")
		}
	}
	wantWaiting(t, all[5*third:5*third+5])
}

// testFlockRoles has each of five Caddys be stopped or killed, whether it checks or not.
func testFlockRoles(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 5, "interval 500ms\nhold 3s", "")
	w := f.wander(10)
	w.grow(2)
	rest := five
	for _, checks := range []bool{false, true} {
		which := f.holder(rest...)
		if !checks {
			which = without(rest, which)[0]
		}
		process := f.caddys[which].cmd.Process
		process.Signal(syscall.SIGSTOP)
		w.grow(1)
		process.Signal(syscall.SIGCONT)
		w.grow(1)
		if f.kill(which); checks {
			f.holder(without(rest, which)...) // the next one
		}
		rest = without(rest, which)
		w.grow(2)
	}
}
