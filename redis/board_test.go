package redis

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// newBoard makes a board with those options.
func newBoard(t *testing.T, block string) *Board {
	t.Helper()
	b := &Board{pace: hasty()}
	if err := b.UnmarshalCaddyfile(caddyfile.NewTestDispenser("redis {\n" + block + "\n}")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := b.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Cleanup() })
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBoardLease(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	b := newBoard(t, "address "+s.addr)
	ctx := context.Background()
	claim := func(who string, known uint64, want bool, token uint64) (left time.Duration) {
		t.Helper()
		mine, got, left, _, _, err := b.Claim(ctx, "n", who, known, time.Minute)
		if err != nil || mine != want || got != token || left <= 0 || left > time.Minute {
			t.Errorf("%s: got %v, %d, %v, %v; want %v, %d", who, mine, got, left, err, want, token)
		}
		return left
	}
	claim("a", 0, true, 1)
	claim("b", 0, false, 1)
	claim("a", 0, true, 1)
	if mine, err := b.Renew(ctx, "n", "b", 1, time.Minute); mine || err != nil {
		t.Errorf("got %v, %v; want b not to have it", mine, err)
	}
	if mine, err := b.Renew(ctx, "n", "a", 1, time.Minute); !mine || err != nil {
		t.Errorf("got %v, %v; want a to have it", mine, err)
	}
	if mine, err := b.Post(ctx, "n", "b", 1, []byte("x"), nil, time.Minute, []byte("m")); mine || err != nil {
		t.Errorf("got %v, %v; want nothing posted by b", mine, err)
	}
	if mine, err := b.Post(ctx, "n", "a", 1, nil, []byte("f"), time.Minute, []byte("m")); !mine || err != nil {
		t.Errorf("got %v, %v; want a fault posted", mine, err)
	}
	if st, ft, err := b.Fetch(ctx, "n"); string(st) != "" || string(ft) != "f" || err != nil {
		t.Errorf("got %q, %q, %v", st, ft, err)
	}
	if mine, err := b.Post(ctx, "n", "a", 1, []byte("s"), nil, time.Minute, []byte("m")); !mine || err != nil {
		t.Errorf("got %v, %v; want a state posted", mine, err)
	}
	if st, ft, err := b.Fetch(ctx, "n"); string(st) != "s" || len(ft) > 0 || err != nil {
		t.Errorf("got %q, %q, %v; want the fault to have gone", st, ft, err)
	}
	if there, err := b.Keep(ctx, "n", time.Hour); !there || err != nil {
		t.Errorf("got %v, %v", there, err)
	}
	if there, err := b.Keep(ctx, "m", time.Hour); there || err != nil {
		t.Errorf("got %v, %v", there, err)
	}
	if err := b.Yield(ctx, "n", "b", 1, []byte("bye")); err != nil {
		t.Error(err)
	}
	claim("b", 0, false, 1)
	if err := b.Yield(ctx, "n", "a", 1, []byte("bye")); err != nil {
		t.Error(err)
	}
	claim("b", 0, true, 2)
	s.admin.FlushAll(ctx)
	claim("a", 41, true, 42) // larger than what it knows, though redis has forgotten
	for _, beyond := range []string{strconv.Itoa(maxToken), "1e300", "-5", "inf", "nan", "nonsense"} {
		s.admin.Del(ctx, "long_poll:{default}:lease:n")
		s.admin.Set(ctx, "long_poll:{default}:token:n", beyond, time.Minute)
		claim("a", 0, true, 1)
	}
	s.admin.Del(ctx, "long_poll:{default}:lease:n")
	claim("a", maxToken, true, 1) // what it knows is forged
	s.admin.Del(ctx, "long_poll:{default}:lease:n")
	claim("a", maxToken-1, true, maxToken)
	s.admin.Del(ctx, "long_poll:{default}:lease:n")
	claim("a", 41, true, 1)
	for _, key := range s.admin.Keys(ctx, "*").Val() {
		if !strings.HasPrefix(key, "long_poll:{default}:") || s.admin.PTTL(ctx, key).Val() <= 0 {
			t.Errorf("%s lives for %v", key, s.admin.PTTL(ctx, key).Val())
		}
	}
	s.admin.Persist(ctx, "long_poll:{default}:lease:n")
	claim("b", 0, false, 1)
	if left := s.admin.PTTL(ctx, "long_poll:{default}:lease:n").Val(); left <= 0 {
		t.Errorf("a lease without an end has %v; want it to have one", left)
	}
	s.admin.Set(ctx, "long_poll:{default}:lease:n", "nonsense", time.Minute)
	if _, _, _, _, _, err := b.Claim(ctx, "n", "a", 0, time.Minute); err == nil {
		t.Error("what is no lease was taken for one")
	}
}

// What is sealed can be read by who knows the secret, and under its own name.
func TestBoardSecret(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	ctx := context.Background()
	open := newBoard(t, "address "+s.addr)
	one := newBoard(t, "address "+s.addr+"\nsecret 0123456789abcdef")
	same := newBoard(t, "address "+s.addr+"\nsecret 0123456789abcdef")
	other := newBoard(t, "address "+s.addr+"\nsecret 0123456789abcdeg")
	key := [32]byte{1}
	if _, ok := open.Name(key, true); ok {
		t.Error("requests with credentials have a name without a secret")
	}
	a, _ := one.Name(key, true)
	b, _ := same.Name(key, true)
	c, _ := other.Name(key, true)
	d, _ := open.Name(key, false)
	if a != b || a == c || a == d {
		t.Errorf("got the names %s, %s, %s and %s", a, b, c, d)
	}

	heard, ready := make(chan string, 10), make(chan struct{}, 10)
	stop := same.Follow(a, func(m []byte) { heard <- string(m) }, func(time.Duration) { ready <- struct{}{} })
	defer stop()
	<-ready
	if err := other.Tell(ctx, a, []byte("forged")); err != nil {
		t.Fatal(err)
	}
	if err := open.Tell(ctx, a, []byte("forged")); err != nil {
		t.Fatal(err)
	}
	if err := one.Tell(ctx, a, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if got := <-heard; got != "hello" {
		t.Errorf("heard %q", got)
	}
	if _, _, _, _, _, err := one.Claim(ctx, a, "w", 0, time.Minute); err != nil {
		t.Fatal(err)
	}
	if mine, err := one.Post(ctx, a, "w", 1, []byte("answer"), nil, time.Minute, []byte("m")); !mine || err != nil {
		t.Fatal(mine, err)
	}
	if got := s.admin.Get(ctx, "long_poll:{default}:state:"+a).Val(); got == "" || strings.Contains(got, "answer") {
		t.Errorf("kept %q", got)
	}
	for name, board := range map[string]*Board{"answer": same, "": other} {
		if got, _, err := board.Fetch(ctx, a); string(got) != name || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, name)
		}
	}
	s.admin.Copy(ctx, "long_poll:{default}:state:"+a, "long_poll:{default}:state:elsewhere", 0, true)
	if got, _, err := same.Fetch(ctx, "elsewhere"); len(got) > 0 || err != nil {
		t.Errorf("got %q under another name, %v", got, err)
	}
}

func TestBoardAway(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	b := newBoard(t, "address "+s.addr)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ready := make(chan time.Duration, 10)
	stop := b.Follow("n", func([]byte) {}, func(within time.Duration) { ready <- within })
	defer stop()
	<-ready
	if !b.Up() {
		t.Error("a board that was reached is not up")
	}
	s.kill()
	if err := b.Tell(ctx, "n", []byte("m")); err == nil {
		t.Error("a message was told to nobody")
	}
	eventually(t, "the board down", func() bool { return !b.Up() })
	s.start()
	<-ready
	eventually(t, "the board up", b.Up)
	if err := b.Tell(ctx, "n", []byte("m")); err != nil {
		t.Error(err)
	}
}

// An outage that only commands have noticed has an end, too; a server that stumbles again
// soon is still in it.
func TestOutageOfCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		l := &link{server: server{addrs: []string{"a:1"}}, loggers: []*zap.Logger{zap.New(core)}, lost: make(map[any]struct{})}
		for range 2 {
			l.stumble(context.DeadlineExceeded)
			time.Sleep(calm - 1)
			l.steady()
			l.stumble(context.DeadlineExceeded)
			time.Sleep(calm)
			for range 2 {
				l.steady()
			}
			all := logs.TakeAll()
			if len(all) != 2 || all[0].Level != zapcore.WarnLevel || all[1].Message != "redis is back" {
				t.Errorf("logged %v; want an outage, and its end", all)
			}
		}
		l.stumble(context.DeadlineExceeded)
		l.fail(l, context.DeadlineExceeded) // a line notices, too
		time.Sleep(calm)
		l.steady()
		l.mend(l)
		l.steady()
		if all := logs.TakeAll(); len(all) != 2 || all[1].Message != "redis is back; every watched resource is checked" {
			t.Errorf("logged %v; want one outage, and one end", all)
		}
	})
}

// refusal is an error that a server answers with.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

// A server that refuses some commands and takes others, as one does that is full, is one
// outage, however often it does either.
func TestOutageOfSomeCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		logger := zap.New(core)
		l := &link{server: server{addrs: []string{"a:1"}}, loggers: []*zap.Logger{logger}, lost: make(map[any]struct{})}
		b := &Board{link: l, logger: logger}
		for range 2 {
			for range 5 {
				_ = b.judge(refusal("OOM command not allowed when used memory > 'maxmemory'."))
				_ = b.judge(nil)
				time.Sleep(calmRefused - 1)
				_ = b.judge(nil)
			}
			time.Sleep(time.Nanosecond)
			for range 2 {
				_ = b.judge(nil)
			}
			all := logs.TakeAll()
			if len(all) != 2 || all[0].Level != zapcore.WarnLevel || all[1].Message != "redis takes what is shared again" {
				t.Errorf("logged %v; want an outage, and its end", all)
			}
		}
	})
}

// On a cluster all keys of a group are of one slot, and messages reach those who listen at
// any node.
func TestBoardOnACluster(t *testing.T) {
	t.Parallel()
	nodes := cluster(t)
	a := newBoard(t, addresses(nodes)+"\ngroup orders\nsecret 0123456789abcdef")
	ctx := context.Background()
	heard, ready := make(chan string, 10), make(chan struct{}, 10)
	stop := a.Follow("n", func(m []byte) { heard <- string(m) }, func(time.Duration) { ready <- struct{}{} })
	defer stop()
	<-ready
	if mine, token, _, _, _, err := a.Claim(ctx, "n", "w", 0, time.Minute); !mine || token != 1 || err != nil {
		t.Fatalf("got %v, %d, %v", mine, token, err)
	}
	if mine, err := a.Renew(ctx, "n", "w", 1, time.Minute); !mine || err != nil {
		t.Errorf("got %v, %v", mine, err)
	}
	if mine, err := a.Post(ctx, "n", "w", 1, []byte("s"), nil, time.Minute, []byte("news")); !mine || err != nil {
		t.Errorf("got %v, %v", mine, err)
	}
	if got := <-heard; got != "news" {
		t.Errorf("heard %q", got)
	}
	if st, _, err := a.Fetch(ctx, "n"); string(st) != "s" || err != nil {
		t.Errorf("got %q, %v", st, err)
	}
	if err := a.Yield(ctx, "n", "w", 1, []byte("bye")); err != nil {
		t.Error(err)
	}
	if got := <-heard; got != "bye" {
		t.Errorf("heard %q", got)
	}
}

// A replica that takes its master's place takes leases, whatever it has forgotten.
func TestBoardFailsOver(t *testing.T) {
	t.Parallel()
	master, _, sentinel := sentinels(t)
	b := newBoard(t, "address "+sentinel.addr+"\nmaster main\npassword secret")
	ctx := context.Background()
	if mine, _, _, _, _, err := b.Claim(ctx, "n", "w", 0, time.Minute); !mine || err != nil {
		t.Fatalf("got %v, %v", mine, err)
	}
	master.kill()
	eventually(t, "a lease of the new master", func() bool {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		mine, token, _, _, _, err := b.Claim(ctx, "n", "w", 7, time.Minute)
		return err == nil && mine && token > 0
	})
}

// What is said and kept in one group is nothing in another one, though both have the same
// secret: who can write to Redis could bring it there.
func TestBoardGroups(t *testing.T) {
	t.Parallel()
	const block = "secret 0123456789abcdef\ngroup "
	a, b := newBoard(t, block+"a"), newBoard(t, block+"b")
	of, _ := a.Name([32]byte{1}, true)
	if other, _ := b.Name([32]byte{1}, true); of == other {
		t.Errorf("%s is the name in both", of)
	}
	if text := b.opened(of, a.sealed(of, []byte("text"))); text != nil {
		t.Errorf("got %q; want what was sealed for another group to be nothing", text)
	}
	if text := a.opened(of, a.sealed(of, []byte("text"))); string(text) != "text" {
		t.Errorf("got %q", text)
	}
}

// contract 14.3: a lease that is given up at the end is, whoever is cleaned up first.
func TestBoardSaysGoodbye(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	b := newBoard(t, "address "+s.addr)
	b.link.pace.goodbye = patience
	ctx := context.Background()
	stop := b.Follow("n", func([]byte) {}, func(time.Duration) {})
	if mine, _, _, _, _, err := b.Claim(ctx, "n", "a", 0, time.Minute); !mine || err != nil {
		t.Fatal(mine, err)
	}
	cleaned := make(chan struct{})
	go func() {
		defer close(cleaned)
		b.Cleanup()
	}()
	eventually(t, "the end to have begun", func() bool {
		b.link.mu.Lock()
		defer b.link.mu.Unlock()
		return b.link.quiet != nil
	})
	if err := b.Yield(ctx, "n", "a", 1, []byte("bye")); err != nil {
		t.Errorf("giving the lease up: %v", err)
	}
	stop()
	<-cleaned
	if left := s.admin.Exists(ctx, "long_poll:{default}:lease:n").Val(); left != 0 {
		t.Error("the lease is still there")
	}
	if err := b.Tell(ctx, "n", []byte("m")); err == nil {
		t.Error("something was told after the end")
	}
}

// What comes after the end opens nothing that nobody closes.
func TestBoardAfterTheEnd(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	b := newBoard(t, "address "+s.addr)
	before := s.connections()
	b.Cleanup()
	if err := b.Tell(context.Background(), "n", []byte("m")); err == nil {
		t.Error("something was told after the end")
	}
	b.Follow("n", func([]byte) {}, func(time.Duration) { t.Error("heard after the end") })()
	if b.link.client != nil || s.connections() != before {
		t.Errorf("%d connections; want the %d of before", s.connections(), before)
	}
}
