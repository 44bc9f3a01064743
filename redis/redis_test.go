package redis

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

func TestMessageWakes(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	w := newWaker(t, hasty(), "address "+s.addr)

	a := watchPath(t, w, "/orders/1")
	a.is(1) // the acknowledgement
	b := watchPath(t, w, "/orders/2")
	b.is(1)
	s.publish("long_poll:/orders/1", "whatever")
	a.is(2)
	s.publish("long_poll:/orders/3", "nobody waits for it")
	s.publish("long_poll:/orders/2", "")
	b.is(2)
	a.is(2)

	a.stop()
	eventually(t, "the channel let go", func() bool { return s.numSub("long_poll:/orders/1") == 0 })
	if n := s.numSub("long_poll:/orders/2"); n != 1 {
		t.Errorf("the other channel has %d subscriptions, want 1", n)
	}
	b.stop()
	eventually(t, "the other channel let go", func() bool { return s.numSub("long_poll:/orders/2") == 0 })

	// And again, on the connection that is still there.
	c := watchPath(t, w, "/orders/1")
	c.is(1)
	s.publish("long_poll:/orders/1", "")
	c.is(2)
	if a.count.Load() != 2 {
		t.Error("woken after stop")
	}
}

func TestEveryWatchOfAChannelIsWoken(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	w := newWaker(t, hasty(), "address "+s.addr+"\nchannel changes long_poll:{http.request.uri.path} changes")

	a := watchPath(t, w, "/a")
	a.is(2) // two channels
	b := watchPath(t, w, "/b")
	b.is(2) // one of them was acknowledged before
	a.is(2)
	if n := s.numSub("changes"); n != 1 {
		t.Errorf("%d subscriptions to the same channel, want 1", n)
	}
	s.publish("changes", "")
	a.is(3)
	b.is(3)

	a.stop()
	s.publish("changes", "")
	b.is(4)
	a.is(3)
}

// No name is a pattern, none is more than one argument, and all arrive as they
// are.
func TestOddNames(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	w := newWaker(t, hasty(), "address "+s.addr)

	paths := []string{
		"/a b", "/a\nb", "/a\r\nSUBSCRIBE x\r\n", "/*", "/?", "/[ab]", `/\*`, "/äöü/日本", "/\x00", "/\xff\xfe",
		"/{http.request.host}", "/{env.HOME}", `/"quoted"`, "/'", "/$(id)", "//", "/a,b", "/" + strings.Repeat("x", maxName-len("long_poll:/")),
	}
	all := make(map[string]*wakes)
	for _, p := range paths {
		all[p] = watchPath(t, w, p)
	}
	for _, c := range all {
		c.is(1)
	}
	s.publish("long_poll:/b", "")
	s.publish("long_poll:/aa", "")
	s.publish("long_poll:/", "")
	for _, p := range paths {
		s.publish("long_poll:"+p, "")
		all[p].is(2)
	}
	for p, c := range all {
		if n := c.count.Load(); n != 2 {
			t.Errorf("path %q: %d wake-ups, want 2", p, n)
		}
	}

	// What is longer stays without a subscription, and harms nothing.
	long := watchPath(t, w, "/"+strings.Repeat("y", 1<<20))
	last := watchPath(t, w, "/last")
	last.is(1)
	if n := long.count.Load(); n != 0 {
		t.Errorf("%d wake-ups for a name that is too long", n)
	}
	long.stop()
}

func TestBurst(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	w := newWaker(t, hasty(), "address "+s.addr)
	a, b := watchPath(t, w, "/a"), watchPath(t, w, "/b")
	a.is(1)
	b.is(1)

	const n = 10_000
	pipe := s.admin.Pipeline()
	for range n {
		pipe.Publish(context.Background(), "long_poll:/a", "x")
	}
	pipe.Publish(context.Background(), "long_poll:/b", "x")
	if _, err := pipe.Exec(context.Background()); err != nil {
		t.Fatal(err)
	}
	b.is(2)
	a.is(1 + n)
	if !w.Up() {
		t.Error("not up after a burst")
	}
}

func TestThousandsOfChannels(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	w := newWaker(t, hasty(), "address "+s.addr)
	const n = 5_000
	all := make([]*wakes, n)
	for i := range all {
		all[i] = watchPath(t, w, fmt.Sprintf("/%d", i))
	}
	for _, c := range all {
		c.is(1)
	}
	if s.mini == nil {
		if n := s.connections(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	}
	for i := 0; i < n; i += 1000 {
		s.publish(fmt.Sprintf("long_poll:/%d", i), "")
		all[i].is(2)
	}
	for _, c := range all {
		c.stop()
	}
	eventually(t, "all channels let go", func() bool { return s.numSub("long_poll:/0")+s.numSub("long_poll:/4999") == 0 })
	eventually(t, "nothing kept", func() bool {
		w.link.mu.Lock()
		defer w.link.mu.Unlock()
		return len(w.link.subscriptions) == 0
	})
}

// Watch and stop from many goroutines, so that subscriptions and releases of the
// same channels overtake each other.
func TestChurn(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	w := newWaker(t, hasty(), "address "+s.addr)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 300 {
				watchPath(t, w, fmt.Sprintf("/%d", i%3)).stop()
			}
		})
	}
	wg.Wait()
	for i := range 3 {
		c := watchPath(t, w, fmt.Sprintf("/%d", i))
		eventually(t, "an acknowledgement", func() bool { return c.count.Load() > 0 })
		eventually(t, "a wake-up by each message", func() bool {
			before := c.count.Load()
			s.publish(fmt.Sprintf("long_poll:/%d", i), "")
			eventually(t, "a wake-up", func() bool { return c.count.Load() > before })
			return true
		})
		c.stop()
	}
	eventually(t, "all channels let go", func() bool {
		return s.numSub("long_poll:/0")+s.numSub("long_poll:/1")+s.numSub("long_poll:/2") == 0
	})
}

func TestKilledAndRestarted(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	w := newWaker(t, hasty(), "address "+s.addr)
	logs := observe(w, zap.InfoLevel)

	const n = 200
	all := make([]*wakes, n)
	for i := range all {
		all[i] = watchPath(t, w, fmt.Sprintf("/%d", i))
	}
	for _, c := range all {
		c.is(1)
	}
	for round := range int64(2) {
		s.kill()
		eventually(t, "an outage that is noticed", func() bool { return !w.Up() })
		gone := watchPath(t, w, "/gone") // nothing is left of what comes and goes meanwhile
		gone.stop()
		late := watchPath(t, w, "/late")

		s.start()
		for _, c := range all {
			c.is(2 + 2*round) // exactly one wake-up for each outage
		}
		late.is(1)
		if !w.Up() {
			t.Error("woken, but not up")
		}
		for i, c := range all {
			s.publish(fmt.Sprintf("long_poll:/%d", i), "")
			c.is(3 + 2*round)
		}
		if n := s.numSub("long_poll:/gone"); n != 0 {
			t.Errorf("%d subscriptions to what nobody watches", n)
		}
		late.stop()
	}

	var got []string
	for _, e := range logs.All() {
		got = append(got, e.Level.String())
	}
	if want := "warn info warn info"; strings.Join(got, " ") != want {
		t.Errorf("logged %q, want %q", got, want)
	}
	if fields := logs.All()[1].ContextMap(); fields["outage"] == nil {
		t.Errorf("the outage's duration is missing: %v", fields)
	}
}

func TestChecksAfterAnOutageAreSpread(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	p := hasty()
	p.spread = 2 * time.Second
	w := newWaker(t, p, "address "+s.addr)

	const n = 100
	repl := caddy.NewReplacer()
	acknowledged, woken := make(chan time.Time, n), make(chan time.Time, n)
	var mu sync.Mutex
	for i := range n {
		first := true
		repl.Set("http.request.uri.path", fmt.Sprintf("/%d", i))
		w.Watch(repl, func() {
			mu.Lock()
			defer mu.Unlock()
			if first {
				first = false
				acknowledged <- time.Now()
				return
			}
			woken <- time.Now()
		})
	}
	for range n {
		<-acknowledged
	}
	var d time.Duration
	for range 5 { // a machine that stands still has what was due meanwhile come at once
		s.kill()
		s.start()
		var begin, end time.Time
		for range n {
			at := <-woken
			if begin.IsZero() {
				begin = at
			}
			end = at
		}
		if d = end.Sub(begin); d >= p.spread/2 {
			return
		}
	}
	t.Errorf("%d checks within %s, want them spread over %s", n, d, p.spread)
}

func TestOneCheckForSeveralChannels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n int
		s := &watch{wake: func() { n++ }}
		for round := range 3 {
			for range 5 {
				s.acknowledged(time.Second)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if n != round+1 {
				t.Fatalf("%d wake-ups after %d outages", n, round+1)
			}
		}
		s.acknowledged(0)
		s.acknowledged(0)
		if n != 5 {
			t.Fatalf("%d wake-ups, want them at once where nothing was missed", n)
		}
	})
}

func TestDownAtStart(t *testing.T) {
	t.Parallel()
	needServer(t, "start after its address is known")
	s := newServer(t, "redis-server")
	w := newWaker(t, hasty(), "address "+s.addr)
	logs := observe(w, zap.DebugLevel)
	if !w.Up() {
		t.Error("not up before anybody has watched")
	}
	a := watchPath(t, w, "/a")
	eventually(t, "an outage that is noticed", func() bool { return !w.Up() })
	gone := watchPath(t, w, "/gone")
	gone.stop()

	s.start()
	a.is(1)
	s.admin = adminClient(t, &goredis.Options{Addr: s.addr})
	s.publish("long_poll:/a", "")
	a.is(2)
	if n := logs.FilterLevelExact(zap.WarnLevel).Len(); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
	if n := logs.FilterLevelExact(zap.InfoLevel).Len(); n != 1 {
		t.Errorf("%d times back, want 1", n)
	}
	if n := logs.FilterLevelExact(zap.ErrorLevel).Len(); n != 0 {
		t.Errorf("%d errors logged", n)
	}
}

// A server that is there and says nothing, so that the connection stays open and
// nothing is an error.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	needServer(t, "process to stop")
	s := startRedis(t)
	p := hasty()
	p.pong = 3 * time.Second // a machine that stands still for that long is an outage of its own
	w := newWaker(t, p, "address "+s.addr)
	a := watchPath(t, w, "/a")
	a.is(1)
	s.signal(syscall.SIGSTOP)
	eventually(t, "a missing pong", func() bool { return !w.Up() })
	b := watchPath(t, w, "/b")
	b.stop()
	s.signal(syscall.SIGCONT)
	eventually(t, "a wake-up after the outage", func() bool { return a.count.Load() >= 2 })
	eventually(t, "the waker up", w.Up)
	eventually(t, "a wake-up by each message", func() bool {
		before := a.count.Load()
		s.publish("long_poll:/a", "")
		eventually(t, "it", func() bool { return a.count.Load() > before })
		return true
	})
	eventually(t, "the old connections closed", func() bool { return s.connections() == 1 })
}

// A server that takes its time is not lost, and no message is.
func TestSlow(t *testing.T) {
	t.Parallel()
	needServer(t, "DEBUG SLEEP")
	s := startRedis(t, "--enable-debug-command", "yes")
	w := newWaker(t, hasty(), "address "+s.addr)
	logs := observe(w, zap.InfoLevel)
	a := watchPath(t, w, "/a")
	a.is(1)
	s.do("DEBUG", "SLEEP", "0.7")
	s.publish("long_poll:/a", "")
	a.is(2)
	if logs.Len() != 0 {
		t.Errorf("logged %v", logs.All())
	}
}

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	needServer(t, "CONFIG SET requirepass")
	s := startRedis(t)
	s.do("CONFIG", "SET", "requirepass", "right-secret")

	for _, c := range []struct{ name, block, want string }{
		{"wrong", "password wrong-secret", "WRONGPASS"},
		{"none", "", "NOAUTH"},
		{"unknown user", "username nobody\npassword wrong-secret", "WRONGPASS"},
		{"url", "", "WRONGPASS"},
	} {
		block := "address " + s.addr + "\n" + c.block
		if c.name == "url" {
			block = "url redis://:wrong-secret@" + s.addr
		}
		w := newWaker(t, hasty(), block)
		logs := observe(w, zap.DebugLevel)
		a := watchPath(t, w, "/a")
		eventually(t, c.name+": an outage", func() bool { return !w.Up() })
		eventually(t, c.name+": a warning", func() bool { return logs.Len() > 0 })
		said := fmt.Sprint(logs.All()[0].ContextMap())
		if !strings.Contains(said, c.want) {
			t.Errorf("%s: logged %s, want %s", c.name, said, c.want)
		}
		if strings.Contains(said, "secret") {
			t.Errorf("%s: logged the password: %s", c.name, said)
		}
		if n := a.count.Load(); n != 0 {
			t.Errorf("%s: %d wake-ups", c.name, n)
		}
		w.Cleanup()
	}

	w := newWaker(t, hasty(), "address "+s.addr+"\npassword later-secret")
	a := watchPath(t, w, "/a")
	eventually(t, "an outage", func() bool { return !w.Up() })
	s.do("CONFIG", "SET", "requirepass", "later-secret") // the operator corrects it
	a.is(1)
	for _, block := range []string{
		"address " + s.addr + "\nusername default\npassword later-secret",
		"url redis://default:later-secret@" + s.addr,
	} {
		w := newWaker(t, hasty(), block)
		watchPath(t, w, "/a").is(1)
	}
}

func TestSecretsFromTheEnvironment(t *testing.T) {
	needServer(t, "ACL")
	s := startRedis(t)
	s.do("ACL", "SETUSER", "sidecar", "on", ">s3cr{t}", ">p@ss/w:rd", "&*", "+@pubsub", "+ping")
	s.do("ACL", "SETUSER", "default", "resetpass", ">other")
	t.Setenv("TEST_REDIS_USER", "sidecar")
	t.Setenv("TEST_REDIS_PASSWORD", "s3cr{t}")
	t.Setenv("TEST_REDIS_ADDRESS", s.addr)
	t.Setenv("TEST_REDIS_ESCAPED", "p%40ss%2Fw%3Ard")
	t.Setenv("TEST_REDIS_URL", "redis://sidecar:p%40ss%2Fw%3Ard@"+s.addr)

	for _, block := range []string{
		"address {env.TEST_REDIS_ADDRESS}\nusername {env.TEST_REDIS_USER}\npassword {env.TEST_REDIS_PASSWORD}",
		"url {env.TEST_REDIS_URL}",
		"url redis://{env.TEST_REDIS_USER}:{env.TEST_REDIS_ESCAPED}@{env.TEST_REDIS_ADDRESS}",
	} {
		w := newWaker(t, hasty(), block)
		watchPath(t, w, "/a").is(1)
	}
}

// A user that may do nothing but what the documentation says it needs, and a
// channel that it may not hear.
func TestACLUser(t *testing.T) {
	t.Parallel()
	needServer(t, "ACL")
	s := startRedis(t)
	s.do("ACL", "SETUSER", "sidecar", "on", ">secret", "resetchannels", "&long_poll:*", "+subscribe", "+unsubscribe", "+ping")
	w := newWaker(t, hasty(), "address "+s.addr+"\nusername sidecar\npassword secret\nchannel {http.request.uri.path}")
	logs := observe(w, zap.InfoLevel)

	// All in one batch, which the server refuses as a whole.
	w.link.mu.Lock()
	w.link.open()
	w.link.mu.Unlock()
	bad := watchPath(t, w, "forbidden")
	good := make([]*wakes, 10)
	for i := range good {
		good[i] = watchPath(t, w, fmt.Sprintf("long_poll:%d", i))
	}
	for i, c := range good {
		eventually(t, "an acknowledgement", func() bool { return s.numSub(fmt.Sprintf("long_poll:%d", i)) == 1 && c.count.Load() > 0 })
		before := c.count.Load()
		s.publish(fmt.Sprintf("long_poll:%d", i), "")
		eventually(t, "a wake-up", func() bool { return c.count.Load() > before })
	}
	eventually(t, "a warning", func() bool { return logs.Len() == 1 })
	if said := fmt.Sprint(logs.All()[0]); !strings.Contains(said, "NOPERM") || strings.Contains(said, "secret") {
		t.Errorf("logged %s", said)
	}
	if n := bad.count.Load(); n != 0 {
		t.Errorf("%d wake-ups by a channel that is forbidden", n)
	}
	if !w.Up() {
		t.Error("not up because of one channel")
	}

	s.do("ACL", "SETUSER", "sidecar", "&forbidden")
	bad.is(1)
	s.publish("forbidden", "")
	bad.is(2)
	if logs.Len() != 1 {
		t.Errorf("logged again and again: %v", logs.All())
	}

	// Without the right to ping, a server is alive all the same.
	s.do("ACL", "SETUSER", "sidecar", "-ping")
	before := bad.count.Load()
	s.do("CLIENT", "KILL", "USER", "sidecar")
	eventually(t, "a check after the connection was lost", func() bool { return bad.count.Load() > before && w.Up() })
}

func TestKeyspace(t *testing.T) {
	t.Parallel()
	needServer(t, "keyspace notifications")
	s := startRedis(t, "--notify-keyspace-events", "KA")
	w := newWaker(t, hasty(), "address "+s.addr+"\ndb 3\nkeyspace order:{http.request.uri.path} *")
	a := watchPath(t, w, "/1")
	a.is(2)
	if n := s.numSub("__keyspace@3__:order:/1"); n != 1 {
		t.Errorf("%d subscriptions, want 1", n)
	}
	db3 := adminClient(t, &goredis.Options{Addr: s.addr, DB: 3})
	if err := db3.HSet(context.Background(), "order:/1", "state", "done").Err(); err != nil {
		t.Fatal(err)
	}
	a.is(3)
	db3.Set(context.Background(), "other", 1, 0) // * is a key, not all keys
	s.do("SET", "order:/1", 1)                   // in another database
	db3.Set(context.Background(), "*", 1, 0)
	a.is(4)
	if n := s.numSub("long_poll:/1"); n != 0 {
		t.Error("the default channel is subscribed to, although there is a keyspace")
	}
}

func TestShardedOnOneServer(t *testing.T) {
	t.Parallel()
	needServer(t, "SSUBSCRIBE")
	s := startRedis(t)
	w := newWaker(t, hasty(), "address "+s.addr+"\nsharded")
	a, b := watchPath(t, w, "/a"), watchPath(t, w, "/b") // slots that differ
	a.is(1)
	b.is(1)
	s.do("SPUBLISH", "long_poll:/a", "")
	a.is(2)
	s.publish("long_poll:/b", "not sharded")
	s.do("SPUBLISH", "long_poll:/b", "")
	b.is(2)
	a.stop()
	eventually(t, "the channel let go", func() bool {
		n, err := s.admin.PubSubShardNumSub(context.Background(), "long_poll:/a").Result()
		return err == nil && n["long_poll:/a"] == 0
	})
}

func TestPattern(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	w := newWaker(t, hasty(), "address "+s.addr+"\npattern orders:* changes")
	told := make(chan string, 10)
	w.OnPath(func(path string) { told <- path })
	tell := func(channel, payload, want string) {
		t.Helper()
		s.publish(channel, payload)
		select {
		case got := <-told:
			if got != want {
				t.Errorf("channel %q, payload %q: path %q, want %q", channel, payload, got, want)
			}
		case <-time.After(patience):
			t.Errorf("channel %q, payload %q: told nothing", channel, payload)
		}
	}
	patterns := func() int64 {
		n, err := s.admin.PubSubNumPat(context.Background()).Result()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	if n := patterns(); n != 0 {
		t.Errorf("%d patterns before anybody watches", n)
	}
	a := watchPath(t, w, "/a")
	a.is(2)
	b := watchPath(t, w, "/b")
	b.is(1) // they were acknowledged before
	a.is(2)
	if n := patterns(); n != 2 {
		t.Errorf("%d patterns, want 2", n)
	}
	tell("orders:42", "", "/42")
	tell("orders:/a/b", "gone", "/a/b")
	tell("orders:42", "/orders/42", "/orders/42")
	s.publish("changes", "names no path")
	tell("changes", "/x y", "/x y")
	a.is(2) // paths are for somebody else to look up

	a.stop()
	if n := patterns(); n != 2 {
		t.Errorf("%d patterns while somebody watches, want 2", n)
	}
	s.kill()
	eventually(t, "an outage", func() bool { return !w.Up() })
	s.start()
	b.is(2) // one check, however many patterns
	tell("orders:43", "", "/43")
	b.stop()
	eventually(t, "the patterns let go", func() bool { return patterns() == 0 })
}

// Sites and configs with the same settings share one connection, which lives as
// long as one of them.
func TestSharedLink(t *testing.T) {
	t.Parallel()
	needServer(t, "CLIENT LIST")
	s := startRedis(t)
	block := "address " + s.addr
	one := newWaker(t, hasty(), block)
	a := watchPath(t, one, "/a")
	a.is(1)

	two := newWaker(t, hasty(), block+"\nchannel x:{http.request.uri.path} long_poll:{http.request.uri.path}") // another site, or the new config
	b := watchPath(t, two, "/a")
	b.is(2)
	if n := s.connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	s.publish("long_poll:/a", "")
	a.is(2)
	b.is(3)

	one.Cleanup() // the old config, with a resource still watched
	eventually(t, "a wake-up of the second", func() bool {
		before := b.count.Load()
		s.publish("long_poll:/a", "")
		eventually(t, "it", func() bool { return b.count.Load() > before })
		return true
	})
	a.is(2)
	a.stop() // too late, and harmless
	if c := watchPath(t, one, "/late"); c.stop == nil {
		t.Error("no stop")
	}
	if n := s.connections(); n != 1 {
		t.Errorf("%d connections after the first has gone, want 1", n)
	}
	if n := s.numSub("long_poll:/late"); n != 0 {
		t.Error("subscribed after Cleanup")
	}

	s.do("CONFIG", "SET", "requirepass", "secret")
	three := newWaker(t, hasty(), block+"\npassword secret") // changed settings
	c := watchPath(t, three, "/a")
	c.is(1)
	if n := s.connections(); n != 2 {
		t.Errorf("%d connections with two settings, want 2", n)
	}
	two.Cleanup()
	eventually(t, "the connection of the old settings closed", func() bool { return s.connections() == 1 })
	s.publish("long_poll:/a", "")
	c.is(2)
	b.stop()
	three.Cleanup() // dropped
	eventually(t, "all connections closed", func() bool { return s.connections() == 0 })
	c.stop()
	three.Cleanup()
}

// The warning of an outage goes to the log of the config that is in charge.
func TestLogsOfTheNewConfig(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	one := newWaker(t, hasty(), "address "+s.addr)
	oldLogs := observe(one, zap.DebugLevel)
	watchPath(t, one, "/a").is(1)
	two := newWaker(t, hasty(), "address "+s.addr)
	newLogs := observe(two, zap.DebugLevel)
	one.Cleanup()
	s.kill()
	eventually(t, "a warning", func() bool { return newLogs.Len() == 1 })
	if oldLogs.Len() != 0 {
		t.Errorf("the old config logged %v", oldLogs.All())
	}
}

// Cleanup returns at once, whatever the server does.
func TestCleanupDuringAnOutage(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, block := range []string{
		"address " + ln.Addr().String(),
		"address " + ln.Addr().String() + "\nmaster main",
		"address " + ln.Addr().String() + " " + ln.Addr().String() + "\nsharded",
		"address " + ln.Addr().String() + "\ntls",
	} {
		p := hasty()
		p.dial, p.pong = 10*patience, 10*patience // neither of which it waits for
		w := newWaker(t, p, block)
		c := watchPath(t, w, "/a")
		began := time.Now()
		c.stop()
		w.Cleanup()
		if d := time.Since(began); d > patience {
			t.Errorf("%s: Cleanup took %s", block, d)
		}
	}
}

// `caddy validate` provisions too.
func TestProvisionDialsNothing(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	dialed := make(chan struct{}, 10)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				close(dialed)
				return
			}
			conn.Close()
			dialed <- struct{}{}
		}
	}()
	for _, block := range []string{
		"address " + addr,
		"address " + addr + "\nmaster main\npattern *",
		"address " + addr + " " + addr + "\nsharded",
		"url redis://" + addr + "?addr=" + addr,
	} {
		w := newWaker(t, hasty(), block)
		if !w.Up() {
			t.Errorf("%s: not up", block)
		}
		w.Cleanup()
	}
	ln.Close()
	for range dialed {
		t.Error("dialed")
	}
}
