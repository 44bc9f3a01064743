package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// The soak of a cluster is three Caddys on one Redis. Clients go from one to the next, and
// each of them knows the version that it had last, which only grows. Caddys are killed,
// stopped and reloaded, Redis is killed and stopped, the backend restarts, and several of
// that at once. It ends well if every client has got every last version, nobody ever got an
// older one than before, nor than there was when it asked, nobody was released because of
// what has happened to another Caddy, and none of them holds on to anything.

const (
	soakCaddys   = 3
	soakPatience = 10 * time.Second // of a client: longer than a hold, and a stop of a Caddy within
	stoppedFor   = 2 * time.Second  // a Caddy or Redis, by SIGSTOP
	clusterHold  = 4 * time.Second  // at least
	overdue      = 17 * time.Second // beyond longest, from a write to its delivery, whatever has happened
)

// soakedFlock is those Caddys, and what happens to them.
type soakedFlock struct {
	judge
	caddys    []*soakedCaddy
	redisAddr string
	redis     *process
	trouble   []span // with any of them, or with Redis

	stops, redisStops, kills int
}

// soakedCaddy is one of them. Its spans are those in which it is not as ever, and are
// protected by record.mu.
type soakedCaddy struct {
	*process
	spec    spec
	reloads int
	down    []span // killed, stopped or reloaded
}

// soakCluster runs for that long, and says what has happened.
func soakCluster(length time.Duration) (report string, err error) {
	b, err := newRecord()
	if err != nil {
		return "", err
	}
	defer b.down()
	defer b.watch()()
	s := &soakedFlock{judge: judge{record: b}, redisAddr: freeAddr()}
	s.rough = []*[]span{&b.away, &s.trouble}
	if s.redis, err = startRedisAt(s.redisAddr); err != nil {
		return "", err
	}
	defer func() { s.redis.stop() }()
	for range soakCaddys {
		c := &soakedCaddy{spec: spec{Subject: "long_poll", Addr: freeAddr(), Backend: b.addr, Admin: freeAddr(), Debug: freeAddr()}}
		c.spec.LongPoll = s.handler(c)
		if c.process, err = child("serve", c.spec); err != nil {
			return "", err
		}
		defer func() { c.stop() }()
		s.caddys = append(s.caddys, c)
	}
	if err := s.run(min(length, 10*time.Second), nil); err != nil {
		return "", fmt.Errorf("warming up: %w", err)
	}
	before, err := s.atRest()
	if err != nil {
		return "", err
	}
	s.tally = tally{}
	err = s.run(length, []happening{{7 * time.Second, s.anyCaddy}, {23 * time.Second, s.anyRedis}, {41 * time.Second, s.restart}})
	report = fmt.Sprintf("%v; %d kills of a Caddy and %d stops, %d stops of Redis", &s.tally, s.kills, s.stops, s.redisStops)
	if err != nil {
		return report, err
	}
	after, err := s.atRest()
	for deadline := time.Now().Add(time.Minute); err == nil && !alike(after, before) && time.Now().Before(deadline); after, err = s.atRest() {
		time.Sleep(time.Second)
	}
	report += fmt.Sprintf("; held at rest before and after: %+v, %+v", before, after)
	if err == nil && !alike(after, before) {
		err = errors.New("a process holds on to more than at the start")
	}
	return report, err
}

func alike(after, before []held) bool {
	for i := range after {
		if !after[i].like(before[i]) {
			return false
		}
	}
	return true
}

// handler is the configuration of one of them. In what does not make an answer they differ.
func (s *soakedFlock) handler(c *soakedCaddy) map[string]any {
	redis := []string{s.redisAddr}
	return map[string]any{
		"hold": (clusterHold + time.Duration(c.reloads%2)*time.Second).String(), "jitter": 10, "linger": "1s",
		"wake":    []any{map[string]any{"waker": "writes"}, map[string]any{"waker": "redis", "address": redis}},
		"cluster": map[string]any{"cluster": "redis", "address": redis, "secret": "0123456789abcdef-of-a-soak"},
	}
}

// happening is what happens again and again, while clients ask.
type happening struct {
	every time.Duration // in a soak of a minute or more; more often in a shorter one
	f     func() error
}

// run has clients ask for that long, while each of these happens in its own time.
func (s *soakedFlock) run(length time.Duration, happenings []happening) error {
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	var ways []http.RoundTripper
	for _, c := range s.caddys {
		transport := &http.Transport{MaxIdleConnsPerHost: soakClients, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, c.spec.Addr)
		}}
		defer transport.CloseIdleConnections()
		ways = append(ways, transport)
	}
	var gone sync.WaitGroup
	have := make([]int, soakClients)
	for i := range have {
		gone.Go(func() { s.client(ctx, ways, i, &have[i]) })
	}
	defer gone.Wait()
	defer leave()

	quiet := make(chan struct{})
	var busy sync.WaitGroup
	busy.Go(func() { s.write(ways, quiet) })
	errs := make([]error, len(happenings))
	for i, h := range happenings {
		every := time.Duration(float64(h.every) * min(1, length.Seconds()/60))
		busy.Go(func() {
			for errs[i] == nil {
				select {
				case <-quiet:
					return
				case <-time.After(every/2 + rand.N(every)):
					errs[i] = h.f()
				}
			}
		})
	}
	time.Sleep(length)
	close(quiet)
	busy.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.judgement(have, soakPatience+longest+aftermath)
}

// anyCaddy has one of them killed, stopped or reloaded.
func (s *soakedFlock) anyCaddy() error {
	c := s.caddys[rand.IntN(len(s.caddys))]
	defer s.begin(&s.trouble)()
	defer s.begin(&c.down)()
	switch rand.IntN(3) {
	case 0:
		s.kills++
		c.stop()
		time.Sleep(rand.N(awayFor))
		var err error
		c.process, err = child("serve", c.spec)
		return err
	case 1:
		s.stops++
		_ = c.cmd.Process.Signal(syscall.SIGSTOP)
		time.Sleep(rand.N(stoppedFor))
		return c.cmd.Process.Signal(syscall.SIGCONT)
	}
	s.tally.count(&s.tally.reloads)
	return s.reload(c)
}

func (s *soakedFlock) reload(c *soakedCaddy) error {
	c.reloads++
	c.spec.LongPoll = s.handler(c)
	cfg, err := c.spec.config()
	if err != nil {
		return err
	}
	if err := load(c.spec.Admin, cfg); err != nil {
		return fmt.Errorf("reloading: %w", err)
	}
	return nil
}

// anyRedis has Redis killed and come back empty, or stopped.
func (s *soakedFlock) anyRedis() error {
	defer s.begin(&s.trouble)()
	if rand.IntN(2) == 0 {
		s.redisStops++
		_ = s.redis.cmd.Process.Signal(syscall.SIGSTOP)
		time.Sleep(rand.N(2 * stoppedFor))
		return s.redis.cmd.Process.Signal(syscall.SIGCONT)
	}
	s.tally.count(&s.tally.kills)
	s.redis.stop()
	time.Sleep(rand.N(awayFor))
	var err error
	s.redis, err = startRedisAt(s.redisAddr)
	return err
}

// restart takes the backend away for a while.
func (s *soakedFlock) restart() error {
	defer s.begin(&s.away)()
	s.record.down()
	time.Sleep(awayFor)
	s.tally.count(&s.tally.restarts)
	return s.up()
}

// atRest is what each of them holds when nobody is there, after a reload.
func (s *soakedFlock) atRest() (all []held, err error) {
	for _, c := range s.caddys {
		if err := s.reload(c); err != nil {
			return nil, err
		}
	}
	for _, c := range s.caddys {
		c.settled()
		h, err := holds(c.spec)
		if err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	return all, nil
}
