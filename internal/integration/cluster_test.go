package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestClusterIntegration has several real Caddys share their checks over a real
// redis-server.
func TestClusterIntegration(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("needs redis-server, which is not installed")
	}
	caddy := buildCaddy(t)
	for name, test := range map[string]func(*testing.T, binary){
		"holder killed":  testClusterKilled,
		"holder stopped": testClusterStopped,
		"handed on":      testClusterHandedOn,
		"redis killed":   testClusterRedisKilled,
		"redis refuses":  testClusterRedisRefuses,
		"wake-ups":       testClusterWakes,
		"credentials":    testClusterCredentials,
		"cookies":        testClusterCookies,
		"no step back":   testClusterNoStepBack,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, caddy)
		})
	}
}

// counter is a backend whose body is a number that only grows.
type counter struct {
	addr   string
	value  atomic.Int64
	reads  atomic.Int64
	cookie atomic.Bool
}

func serveCounter(t *testing.T) *counter {
	t.Helper()
	c := new(counter)
	c.value.Store(1)
	c.addr = serveBackend(t, c).addr
	return c
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	c.reads.Add(1)
	n := c.value.Load()
	w.Header().Set("ETag", strconv.Quote(fmt.Sprint(n)))
	if c.cookie.Load() {
		w.Header().Set("Set-Cookie", "session=abc")
	}
	if r.Header.Get("If-None-Match") == w.Header().Get("ETag") {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	fmt.Fprintf(w, "%d", n)
}

// flock is several Caddys that share, and a client of each.
type flock struct {
	t       *testing.T
	redis   *redisServer
	backend *counter
	caddys  []*sidecar
	clients []*client
	blocks  []string
}

// startFlock starts n Caddys on one Redis, with what is given in the block of each
// long_poll, and what is in the block of its cluster.
func startFlock(t *testing.T, caddy binary, n int, block, cluster string) *flock {
	t.Helper()
	redis := startRedis(t)
	f := startFlockOn(t, caddy, n, block, "address "+redis.addr+"\n"+cluster)
	f.redis = redis
	return f
}

// startFlockOn starts n Caddys on the Redis that is there already, and of which cluster says
// where it is.
func startFlockOn(t *testing.T, caddy binary, n int, block, cluster string) *flock {
	t.Helper()
	f := &flock{t: t, backend: serveCounter(t)}
	for range n {
		port := freePort(t)
		sites := fmt.Sprintf("http://:%s {\n\tbind 127.0.0.1\n\tlong_poll {\n%s\n\t\tcluster redis {\n%s\n\t\t}\n\t}\n\treverse_proxy %s\n}\n", port, block, cluster, f.backend.addr)
		f.blocks = append(f.blocks, sites)
		f.caddys = append(f.caddys, caddy.start(t, "", sites))
		f.clients = append(f.clients, newClientOf(t, port))
	}
	return f
}

// newClientOf is a client to whom all Caddys are the same host.
func newClientOf(t *testing.T, port string) *client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 2000, DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{t: t, http: &http.Client{Transport: transport}, protocol: "HTTP/1.1", base: "http://orders.test"}
}

// park has n clients of each of these Caddys wait, and who has the present value.
func (f *flock) park(n int, which ...int) (all []*pending) {
	f.t.Helper()
	for _, i := range which {
		tag := fmt.Sprintf("If-None-Match: %q", fmt.Sprint(f.backend.value.Load()))
		all = append(all, crowd(n, func(int) *pending { return f.clients[i].poll("/orders", tag) })...)
		f.caddys[i].waitParked(n)
	}
	return all
}

// change has the backend say something else, and waits until all have it.
func (f *flock) change(all []*pending) {
	f.t.Helper()
	n := f.backend.value.Add(1)
	wantAll(f.t, all, 200, "changed")
	for _, p := range all {
		p.reply.wantBody(f.t, fmt.Sprint(n))
	}
}

// holder waits until one of these Caddys, and no other of them, has the lease.
func (f *flock) holder(which ...int) (holder int) {
	f.t.Helper()
	waitFor(f.t, "one Caddy to check", func() bool {
		n := 0
		for _, i := range which {
			if f.caddys[i].metric("caddy_long_poll_leases") == 1 {
				holder = i
				n++
			}
		}
		return n == 1
	})
	return holder
}

// without is which, less one.
func without(which []int, not int) (rest []int) {
	for _, i := range which {
		if i != not {
			rest = append(rest, i)
		}
	}
	return rest
}

var (
	three = []int{0, 1, 2}
	five  = []int{0, 1, 2, 3, 4}
)

func testClusterAsOne(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 5, "interval 500ms\nhold 10m", "")
	all := f.park(20, five...)

	inAWindow(t, func() string {
		began := time.Now() // clocks are read around what they time
		before := f.backend.reads.Load()
		waitFor(t, "some checks", func() bool { return f.backend.reads.Load() >= before+6 })
		if took := time.Since(began); took < 6*500*time.Millisecond-500*time.Millisecond {
			return fmt.Sprintf("6 checks within %v; want one each 500ms over all Caddys", took)
		}
		return ""
	})
	var holder int
	waitFor(t, "who has the lease to be the one that says that it checks", func() bool {
		holder = f.holder(five...)
		for i := range f.caddys {
			if (f.checkedBy(i) == "self") != (i == holder) {
				return false
			}
		}
		return true
	})
	if f.caddys[without(five, holder)[0]].metric(`caddy_long_poll_states_total{from="cluster"}`) == 0 {
		t.Error("no state has come from the cluster")
	}
	for range 3 {
		began := time.Now()
		before := f.backend.reads.Load()
		f.change(all)
		n := f.backend.reads.Load() - before
		took := time.Since(began)
		if most := int64(took/(500*time.Millisecond)) + 1 + int64(len(five)); n > most {
			t.Errorf("%d checks in %v with a change; want %d at most", n, took, most)
		}
		all = f.park(20, five...)
	}
	f.change(all)
}

// checkedBy is what the admin API says of who checks.
func (f *flock) checkedBy(i int) string {
	f.t.Helper()
	resp, err := f.caddys[i].admin.Get("http://admin/long_poll/resources")
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	var list []struct {
		By string `json:"checked_by"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || len(list) != 1 {
		f.t.Fatalf("got %v, %v; want one resource", list, err)
	}
	return list[0].By
}

func testClusterKilled(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 3, "interval 1s\nhold 10m", "")
	all := f.park(10, three...)
	holder := f.holder(three...)
	rest := without(three, holder)
	f.kill(holder)
	var kept []*pending
	for _, p := range all {
		select {
		case <-p.done: // of the one that was killed
		default:
			kept = append(kept, p)
		}
	}
	waitFor(t, "those of the dead to go", func() bool { return countDone(all) >= 10 })
	kept = kept[:0]
	for _, p := range all {
		select {
		case <-p.done:
		default:
			kept = append(kept, p)
		}
	}
	if len(kept) != 20 {
		t.Fatalf("%d wait after one of three was killed; want 20", len(kept))
	}
	f.holder(rest...)
	f.change(kept)
}

func countDone(all []*pending) (n int) {
	for _, p := range all {
		select {
		case <-p.done:
			n++
		default:
		}
	}
	return n
}

// kill ends a Caddy without a word.
func (f *flock) kill(i int) {
	f.t.Helper()
	f.caddys[i].cmd.Process.Signal(syscall.SIGKILL)
	<-f.caddys[i].exited
}

func testClusterStopped(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 3, "interval 1s\nhold 10m", "")
	all := f.park(10, three...)
	holder := f.holder(three...)
	rest := without(three, holder)
	p := f.caddys[holder].cmd.Process
	p.Signal(syscall.SIGSTOP)
	cont := sync.OnceFunc(func() { p.Signal(syscall.SIGCONT) })
	defer cont()
	f.holder(rest...)
	n := f.backend.value.Add(1)
	waitFor(t, "those elsewhere to be told", func() bool { return countDone(all) == 20 })
	cont()
	wantAll(t, all, 200, "changed")
	for _, p := range all {
		p.reply.wantBody(t, fmt.Sprint(n))
	}
	all = f.park(10, three...)
	f.holder(three...)
	f.change(all)
}

// testClusterHandedOn: who has the lease stops, is reloaded, or has nobody wait any more.
func testClusterHandedOn(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 3, "interval 20s\nhold 10m\nlinger 1s", "")
	all := f.park(10, three...)
	holder := f.holder(three...)
	f.caddys[holder].reload(t, f.blocks[holder])
	waitFor(t, "its clients to be drained", func() bool { return countDone(all) == 10 })
	rest := without(three, holder)
	next := f.holder(rest...) // long before the lease would have ended

	var waiting []*pending
	for _, p := range all {
		select {
		case <-p.done:
			p.reply.want(t, 304, "drained")
		default:
			waiting = append(waiting, p)
		}
	}
	if len(waiting) != 20 {
		t.Fatalf("%d wait; want 20: nobody is released elsewhere", len(waiting))
	}
	// The last waiter of the next one leaves.
	last := without(rest, next)[0]
	for i, p := range all {
		if i/10 == next {
			p.leave()
		}
	}
	if f.holder(without(three, next)...) != last {
		t.Errorf("the lease was not handed on to the last one who waits")
	}
	waitFor(t, "no lease where nobody waits", func() bool { return f.caddys[next].metric("caddy_long_poll_leases") == 0 })
}

func testClusterRedisKilled(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 3, "interval 500ms\nhold 10m", "")
	all := f.park(10, three...)
	f.holder(three...)
	f.redis.signal(syscall.SIGKILL)
	before := f.backend.reads.Load()
	waitFor(t, "each to check", func() bool { return f.backend.reads.Load() >= before+9 })
	wantWaiting(t, all)
	f.change(all)
	all = f.park(10, three...)
	f.redis.start() // empty
	f.holder(three...)
	for _, s := range f.caddys {
		s.wantRedisLogs(1, 1)
	}
	wantWaiting(t, all)
	f.change(all)
}

// testClusterRedisRefuses has Redis take no writes.
func testClusterRedisRefuses(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 3, "interval 500ms\nhold 10m", "")
	all := f.park(10, three...)
	f.holder(three...)
	ctx := context.Background()
	if err := f.redis.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	f.change(all)
	all = f.park(10, three...)
	f.change(all)
	all = f.park(10, three...)
	if err := f.redis.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	f.holder(three...)
	wantWaiting(t, all)
	f.change(all)
}

func testClusterWakes(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 3, "interval 20s\nhold 10m\nwake writes", "")
	since := time.Now() // before the last check
	all := f.park(10, three...)
	holder := f.holder(three...)
	for _, i := range three {
		f.quiet()
		before, written := f.backend.reads.Load(), time.Now()
		n := f.backend.value.Add(1)
		f.clients[i].send("PUT", "/orders", "").wait()
		wantAll(t, all, 200, "changed")
		for _, p := range all {
			p.reply.wantBody(t, fmt.Sprint(n))
		}
		reads := f.backend.reads.Load() - before
		if most := 1 + int64(time.Since(since)/(18*time.Second)); reads > most { // a tenth less than the interval
			t.Errorf("a write at %d (%d checks) has caused %d checks; want 1, and those at the interval, %d in all", i, holder, reads, most)
		}
		since = written
		all = f.park(10, three...)
	}
	// Where nobody waits, too.
	for i, p := range all {
		if i/10 != holder {
			p.leave()
		}
	}
	other := without(three, holder)[0]
	f.caddys[other].waitParked(0)
	f.backend.value.Add(1)
	f.clients[other].send("PUT", "/orders", "").wait()
	wantAll(t, all[10*holder:10*holder+10], 200, "changed")

	// The admin API of any.
	all = f.park(10, three...)
	f.backend.value.Add(1)
	resp, err := f.caddys[other].admin.Post("http://admin/long_poll/wake", "application/json", strings.NewReader(`{"path":"/orders"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	wantAll(t, all, 200, "changed")
}

func testClusterCredentials(t *testing.T, caddy binary) {
	for secret, share := range map[string]bool{"": false, "secret 0123456789abcdef-nobody-knows": true} {
		f := startFlock(t, caddy, 2, "interval 500ms\nhold 10m", secret)
		var all []*pending
		for i, c := range f.clients {
			all = append(all, c.poll("/orders", `If-None-Match: "1"`, "Authorization: Bearer very-secret"))
			f.caddys[i].waitParked(1)
		}
		if share {
			f.holder(0, 1)
		} else {
			before := f.backend.reads.Load()
			waitFor(t, "checks", func() bool { return f.backend.reads.Load() > before+4 })
			for _, s := range f.caddys {
				if s.metric("caddy_long_poll_leases") != 0 {
					t.Error("requests with credentials share without a secret")
				}
			}
		}
		f.change(all)
		keys, err := f.redis.Keys(context.Background(), "*").Result()
		if err != nil || len(keys) > 0 != share {
			t.Errorf("got %q, %v", keys, err)
		}
		for _, key := range keys {
			if ttl := f.redis.PTTL(context.Background(), key).Val(); !strings.HasPrefix(key, "long_poll:{default}:") || ttl <= 0 && ttl != -2 {
				t.Errorf("key %s lives for %v", key, ttl)
			}
			if text := f.redis.Get(context.Background(), key).Val(); strings.Contains(text, "secret") || strings.Contains(text, "Etag") {
				t.Errorf("%s is readable: %q", key, text)
			}
		}
	}
}

// testClusterCookies: an answer that sets a cookie is handed on to nobody.
func testClusterCookies(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 2, "interval 500ms\nhold 10m", "")
	f.backend.cookie.Store(true)
	all := f.park(5, 0, 1)
	before := f.backend.reads.Load()
	waitFor(t, "each to check", func() bool { return f.backend.reads.Load() > before+4 })
	f.change(all)
	for _, key := range f.redis.Keys(context.Background(), "*").Val() {
		if text := f.redis.Get(context.Background(), key).Val(); strings.Contains(text, "session") || strings.Contains(text, "Etag") {
			t.Errorf("%s has %q", key, text)
		}
	}
}

// testClusterIdle counts what Redis is asked for where nothing happens.
func testClusterIdle(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 3, "interval 500ms\nhold 10m", "")
	all := f.park(10, three...)
	f.holder(three...)
	// What has come with the last who have parked is over after some checks.
	settled := f.backend.reads.Load()
	waitFor(t, "some checks", func() bool { return f.backend.reads.Load() >= settled+4 })
	inAWindow(t, func() string {
		reads, before := f.backend.reads.Load(), f.commands()
		waitFor(t, "many checks", func() bool { return f.backend.reads.Load() >= reads+10 })
		checks, commands := f.backend.reads.Load()-reads, f.commands()-before
		if commands > 3*(checks+1) {
			return fmt.Sprintf("%d commands for %d checks; want 3 for each at most", commands, checks)
		}
		t.Logf("%d commands for %d checks", commands, checks)
		return ""
	})
	wantWaiting(t, all)
	f.change(all)
}

// commands is how many Redis has been asked for, but for those of connections.
func (f *flock) commands() (n int64) {
	f.t.Helper()
	text, err := f.redis.Info(context.Background(), "commandstats").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":calls=")
		switch strings.TrimPrefix(name, "cmdstat_") {
		case "ping", "info", "subscribe", "unsubscribe", "client|list":
			continue
		}
		count, _, _ := strings.Cut(rest, ",")
		of, _ := strconv.ParseInt(count, 10, 64)
		n += of
	}
	return n
}

// quiet waits until nothing is said on Redis any more.
func (f *flock) quiet() {
	f.t.Helper()
	waitQuiet(f.t, "silence on redis", 150, f.commands)
}

// inAWindow tries what holds for Caddys none of which has just stood still, for longer than a
// lease: it is to hold in one of a few windows of time.
func inAWindow(t *testing.T, try func() (wrong string)) {
	t.Helper()
	var wrong string
	for range attempts {
		if wrong = try(); wrong == "" {
			return
		}
		t.Log(wrong)
	}
	t.Error(wrong)
}

// testClusterNoStepBack has clients go from one Caddy to the next while the value changes and
// who checks is killed, stopped and left without Redis: none ever sees it go back.
func testClusterNoStepBack(t *testing.T, caddy binary) {
	f := startFlock(t, caddy, 3, "interval 250ms\nhold 2s", "")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	var answers atomic.Int64
	for i := range 12 {
		wg.Go(func() {
			var last int64
			for n := i; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				before := f.backend.value.Load()
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second) // one that is stopped says nothing
				req, _ := http.NewRequestWithContext(ctx, "GET", f.clients[n%3].base+"/orders", nil)
				if last > 0 {
					req.Header.Set("If-None-Match", strconv.Quote(fmt.Sprint(last)))
				}
				resp, err := f.clients[n%3].http.Do(req)
				if err != nil {
					cancel()
					continue // of one that is dead
				}
				text, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				cancel()
				if err != nil || resp.StatusCode != 200 {
					continue
				}
				got, err := strconv.ParseInt(string(text), 10, 64)
				if err != nil {
					t.Errorf("got %q", text)
				}
				if got < last {
					t.Errorf("%d after %d", got, last)
				}
				if last == 0 && got < before {
					t.Errorf("got %d, and it was %d before the question", got, before)
				}
				last = got
				answers.Add(1)
			}
		})
	}
	grow := func(n int) {
		for range n {
			was := answers.Load()
			f.backend.value.Add(1)
			waitFor(t, "answers", func() bool { return answers.Load() >= was+6 })
		}
	}
	grow(5)
	first := f.holderNow()
	p := f.caddys[first].cmd.Process
	cont := sync.OnceFunc(func() { p.Signal(syscall.SIGCONT) })
	defer cont()
	p.Signal(syscall.SIGSTOP)
	grow(3)
	cont()
	grow(3)
	f.redis.signal(syscall.SIGKILL)
	grow(3)
	f.redis.start()
	grow(5)
	f.kill(f.holderNow())
	grow(5)
}

// holderNow is the Caddy that has the lease, or any if they are just handing it on.
func (f *flock) holderNow() int {
	for i := range f.caddys {
		select {
		case <-f.caddys[i].exited:
		default:
			if f.caddys[i].metric("caddy_long_poll_leases") == 1 {
				return i
			}
		}
	}
	return 0
}
