package integration_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

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
// began and when they ended. A server that stands still for some seconds, as all of a busy
// machine can, is one more.
func (s *sidecar) wantRedisLogs(lost, back int) {
	s.t.Helper()
	const begins = "lost redis; resources are checked at their interval only"
	for message, want := range map[string]int{begins: lost, "redis is back; every watched resource is checked": back} {
		waitFor(s.t, fmt.Sprintf("%d times %q in the log", want, message), func() bool { return len(s.logs.entries(message)) >= want })
		silent := 0
		for _, entry := range s.logs.entries(begins) {
			if strings.Contains(fmt.Sprint(entry["error"]), "no answer to a ping") {
				silent++
			}
		}
		if n := len(s.logs.entries(message)); n > want+silent {
			s.t.Errorf("logged %q %d times; want %d, and %d for silence", message, n, want, silent)
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
	s.waitUp(false)
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
		s.reload(t, sites)
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

// startSentinel has a sentinel watch the master at addr, and waits until it knows its replica.
func startSentinel(t *testing.T, addr, password string) *redisServer {
	t.Helper()
	host, port, _ := net.SplitHostPort(addr)
	// A busy machine is not to be taken for a dead master.
	text := fmt.Sprintf("sentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 3000\nsentinel failover-timeout main 2000\n", host, port)
	if password != "" {
		text += "sentinel auth-pass main " + password + "\n"
	}
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel := newRedis(t, "")
	host, port, _ = net.SplitHostPort(sentinel.addr)
	sentinel.args = []string{config, "--sentinel", "--port", port, "--bind", host}
	sentinel.start()
	waitFor(t, "a sentinel that knows the replica", func() bool {
		known, err := sentinel.Do(context.Background(), "SENTINEL", "REPLICAS", "main").Slice()
		return err == nil && len(known) == 1 && strings.Contains(fmt.Sprint(known), "master-link-status ok")
	})
	return sentinel
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
	sentinel := startSentinel(t, master.addr, password)

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
