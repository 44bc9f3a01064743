package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"sync"
	"time"
)

// A soak is a long life in short: clients that ask again at once while versions
// change, the configuration is reloaded, the backend restarts and Redis is killed.
// It ends well if every client has got every last version, nobody was sent back in
// time, let wait too long or shown an error but for those of a backend that is
// away, and the process holds on to nothing. Caddy by itself cuts some of the
// connections that are made in the instant of a reload: those are counted, and only
// a request that could have been parked by then must not be cut.

const (
	soakResources = 20
	soakClients   = 200
	writePause    = 10 * time.Millisecond
	awayFor       = time.Second      // a backend that restarts
	aftermath     = 12 * time.Second // of a restart: the pauses between checks have grown, to ten seconds at most
	instant       = 200 * time.Millisecond
	ordinaryEvery = 10
)

// longest is from a write to its delivery: an interval is 1 s. Tests, which machines run
// that do something else too, ask for less.
var longest = 3 * time.Second

func soakCommand(args []string) error {
	flags := flag.NewFlagSet("soak", flag.ExitOnError)
	length := flags.Duration("for", 30*time.Minute, "how long")
	several := flags.Bool("cluster", false, "three Caddys on one Redis, which are killed and stopped too")
	detaches := flags.Bool("detach", false, "parked without a goroutine, but for one configuration in four")
	_ = flags.Parse(args) // it exits
	run := func(length time.Duration) (string, error) { return soak(length, *detaches) }
	if *several {
		run = soakCluster
	}
	report, err := run(*length)
	fmt.Println(report)
	return err
}

// soak runs for that long, with or without `detach`, and says what has happened.
func soak(length time.Duration, detaches bool) (report string, err error) {
	b, err := newRecord()
	if err != nil {
		return "", err
	}
	defer b.down()
	defer b.watch()()
	s := &soaked{judge: judge{record: b, rough: []*[]span{&b.away}}, detaches: detaches}
	s.spec = spec{Subject: "long_poll", Addr: freeAddr(), Backend: b.addr, Admin: freeAddr(), Debug: freeAddr()}
	if _, err := exec.LookPath("redis-server"); err == nil {
		s.redisAddr = freeAddr()
		if err := s.startRedis(); err != nil {
			return "", err
		}
		defer func() { s.redis.stop() }()
	}
	s.spec.LongPoll = s.handler()
	if s.process, err = child("serve", s.spec); err != nil {
		return "", err
	}
	defer s.process.stop()

	// Whatever is made once is made now.
	if err := s.run(10 * time.Second); err != nil {
		return "", fmt.Errorf("warming up: %w", err)
	}
	before, err := s.atRest()
	if err != nil {
		return "", err
	}
	s.tally = tally{}
	if err := s.run(length); err != nil {
		return s.tally.String(), err
	}
	after, err := s.atRest()
	for deadline := time.Now().Add(time.Minute); err == nil && !after.like(before) && time.Now().Before(deadline); after, err = s.atRest() {
		time.Sleep(time.Second)
	}
	report = fmt.Sprintf("%v; held at rest before and after: %+v, %+v", &s.tally, before, after)
	if err != nil {
		return report, err
	}
	if !after.like(before) {
		return report, errors.New("the process holds on to more than at the start")
	}
	return report, nil
}

// like reports whether a process holds as much as it did before, give or take what
// Caddy keeps from each of its reloads.
func (a held) like(before held) bool {
	return a.Goroutines <= before.Goroutines+5 && a.Heap <= before.Heap+4<<20
}

// soaked is long_poll, and what happens to it.
type soaked struct {
	*process
	judge
	spec      spec
	redisAddr string // empty without Redis
	redis     *process
	reloads   int
	detaches  bool // three configurations of four detach
}

// handler is the configuration of long_poll. It differs from one reload to the next.
func (s *soaked) handler() map[string]any {
	wake := []any{map[string]any{"waker": "writes"}}
	if s.redisAddr != "" {
		wake = append(wake, map[string]any{"waker": "redis", "address": []string{s.redisAddr}})
	}
	return map[string]any{"hold": fmt.Sprint(4+s.reloads%2, "s"), "jitter": 10, "linger": "1s", "wake": wake, "detach": s.detaches && s.reloads%4 < 3}
}

func (s *soaked) reload() error {
	s.reloads++
	s.spec.LongPoll = s.handler()
	cfg, err := s.spec.config()
	if err != nil {
		return err
	}
	began := time.Now()
	end := s.begin(&s.reloading)
	if err := load(s.spec.Admin, cfg); err != nil {
		return fmt.Errorf("reloading: %w", err)
	}
	end()
	if took := time.Since(began); took > longest {
		s.tally.fault("a reload took %v", took)
	}
	s.tally.count(&s.tally.reloads)
	return nil
}

func (s *soaked) startRedis() (err error) {
	s.redis, err = startRedisAt(s.redisAddr)
	return err
}

// startRedisAt starts a Redis that keeps nothing.
func startRedisAt(addr string) (*process, error) {
	host, port, _ := net.SplitHostPort(addr)
	return start(addr, "redis-server", "--bind", host, "--port", port, "--save", "", "--appendonly", "no")
}

// killRedis kills Redis, and starts it again after a while.
func (s *soaked) killRedis() error {
	if s.redis == nil {
		return nil
	}
	s.redis.stop()
	time.Sleep(awayFor)
	s.tally.count(&s.tally.kills)
	return s.startRedis()
}

// run has clients ask, and all that can happen to them happen, for that long.
func (s *soaked) run(length time.Duration) error {
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	transport := &http.Transport{MaxIdleConnsPerHost: soakClients}
	defer transport.CloseIdleConnections()
	var gone sync.WaitGroup
	have := make([]int, soakClients)
	for i := range have {
		gone.Go(func() { s.client(ctx, transport, i%soakResources, &have[i]) })
	}
	defer gone.Wait()
	defer leave()

	quiet := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { s.write(quiet) })
	// Apart from one another more often than not.
	happenings := []struct {
		every time.Duration
		f     func() error
	}{{20 * time.Second, s.reload}, {27 * time.Second, s.restart}, {37 * time.Second, s.killRedis}}
	shorter := min(1, length.Seconds()/60)
	began := time.Now()
	var err error
	last := make([]time.Duration, len(happenings))
	for err == nil && time.Since(began) < length {
		time.Sleep(100 * time.Millisecond)
		for i, h := range happenings {
			if now := time.Since(began); err == nil && (now-last[i]).Seconds() >= h.every.Seconds()*shorter {
				last[i] = now
				err = h.f()
			}
		}
	}
	close(quiet)
	writer.Wait()
	if err != nil {
		return err
	}
	return s.judgement(have, longest+aftermath)
}

// atRest is what the process holds when nobody is there, after a reload: what the
// last configuration has kept for its backend is gone.
func (s *soaked) atRest() (h held, err error) {
	if err := s.reload(); err != nil {
		return h, err
	}
	s.settled()
	return holds(s.spec)
}

// restart takes the backend away for a while.
func (s *soaked) restart() error {
	end := s.begin(&s.away)
	s.down()
	time.Sleep(awayFor)
	if err := s.up(); err != nil {
		return err
	}
	end()
	s.tally.count(&s.tally.restarts)
	return nil
}
