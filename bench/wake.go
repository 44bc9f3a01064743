package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// How a change reaches those who wait for it.
type way struct {
	name     string
	longPoll map[string]any // more configuration; nil is no long_poll
	every    time.Duration  // the time between two looks, at which a change comes at random
	redis    bool
}

// quietFor is how long the backend is watched while nothing changes: a multiple of
// all pauses but the one of a minute.
const quietFor = 5 * time.Second

// wakeCommand measures the time from a change to the last byte at each of those who
// wait for it, in several ways.
func wakeCommand(args []string) error {
	flags := flag.NewFlagSet("wake", flag.ExitOnError)
	n := flags.Int("n", 1000, "clients")
	changes := flags.Int("changes", 7, "changes to take the median of")
	_ = flags.Parse(args) // it exits
	if err := raiseFileLimit(); err != nil {
		return err
	}
	redis, addr, err := startRedis()
	if err != nil {
		return err
	}
	defer redis.stop()

	var text strings.Builder
	fmt.Fprintf(&text, "`go run .%s` in `bench/`, %s, %s. %d clients wait for one resource, and ask again at once. Medians of %d changes, and the spread.\n\n",
		strings.Join(append([]string{""}, os.Args[1:]...), " "), machine(), time.Now().Format(time.DateOnly), *n, *changes)
	fmt.Fprintf(&text, "| | to the last byte, p50, ms | p99, ms | backend requests per change | backend requests while nothing changes, 1/s |\n|---|---|---|---|---|\n")
	for _, w := range []way{
		{name: "`wake redis`, `interval 60s`, from PUBLISH", every: time.Second, redis: true, longPoll: map[string]any{
			"interval": "60s", "wake": []any{map[string]any{"waker": "redis", "address": []string{addr}}},
		}},
		{name: "`interval 1s`, from the change", every: time.Second, longPoll: map[string]any{"interval": "1s", "wake": []any{}}},
		{name: "no long_poll: plain polling every 5 s, from the change", every: 5 * time.Second},
	} {
		fmt.Fprintf(os.Stderr, "\r%-70s", w.name)
		d, err := w.measure(*n, *changes, addr)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", w.name, err)
		}
		fmt.Fprintf(&text, "| %s | %s | %s | %s | %s |\n", w.name, spread(d.p50), spread(d.p99), spread(d.asked), number(d.idle))
	}
	fmt.Fprintln(os.Stderr)
	_, err = io.WriteString(os.Stdout, text.String())
	return err
}

// deliveries are what was measured of each change, and while there was none.
type deliveries struct {
	p50, p99 []float64
	asked    []float64
	idle     float64
}

func spread(all []float64) string {
	mid, _ := median(all)
	return fmt.Sprintf("%s (%s–%s)", number(mid), number(slices.Min(all)), number(slices.Max(all)))
}

// measure has n clients wait for so many changes, one after the other.
func (w way) measure(n, changes int, redis string) (d deliveries, err error) {
	t := trial{options: options{n: n}, subject: "polling"}
	if w.longPoll != nil {
		t.subject, t.spec.LongPoll = "long_poll", w.longPoll
	}
	s, err := t.begin()
	defer s.stop()
	if err != nil {
		return d, err
	}
	target := s.addr
	if w.longPoll == nil {
		target = s.behind.addr // nothing is in between
	}

	var (
		base   = time.Now()
		began  atomic.Int64 // of the change, nanoseconds since base
		wanted atomic.Int64 // version
		have   = make([]atomic.Int64, n)
		took   = make([]time.Duration, n)
		all    sync.WaitGroup
		bad    atomic.Pointer[answer]
		c      *crowd
	)
	ask := func(i int) error {
		return c.ask(i, poll{method: "GET", path: "/r", tag: tag(have[i].Load())})
	}
	ready := make(chan struct{}) // c is set
	c, err = newCrowd(target, n, func(i int, a answer) {
		<-ready
		switch {
		case a.status == 304 && w.longPoll == nil:
		case a.status != 200 || a.version != wanted.Load():
			bad.Store(&a)
		default:
			took[i] = time.Since(base) - time.Duration(began.Load())
			have[i].Store(a.version)
			if w.longPoll != nil {
				_ = ask(i) // whoever could not is missing among the parked
			}
			all.Done()
		}
	})
	if err != nil {
		return d, err
	}
	defer c.close()
	close(ready)

	wanted.Store(1)
	for i := range n {
		have[i].Store(1)
	}
	if w.longPoll == nil {
		stop := inTurn(n, w.every, func(i int) { _ = ask(i) })
		defer stop()
	} else {
		for i := range n {
			if err := ask(i); err != nil {
				return d, err
			}
		}
	}
	if err := s.allParked(n); err != nil {
		return d, err
	}
	asked := s.asked()
	time.Sleep(quietFor)
	d.idle = (s.asked() - asked) / quietFor.Seconds()

	for version := int64(2); version < int64(2+changes); version++ {
		time.Sleep(rand.N(w.every))
		asked := s.asked()
		all.Add(n)
		wanted.Store(version)
		began.Store(int64(time.Since(base)))
		if _, err := call("POST", "http://"+s.behind.addr+"/r", ""); err != nil {
			return d, err
		}
		if w.redis {
			began.Store(int64(time.Since(base)))
			if err := publish(redis, "long_poll:/r"); err != nil {
				return d, err
			}
		}
		if err := within(time.Minute, all.Wait); err != nil {
			return d, fmt.Errorf("waiting for version %d: %w; the last bad answer: %+v", version, err, bad.Load())
		}
		if err := s.allParked(n); err != nil {
			return d, err
		}
		d.asked = append(d.asked, s.asked()-asked)
		sorted := slices.Sorted(slices.Values(took))
		d.p50, d.p99 = append(d.p50, us(sorted[n/2])/1000), append(d.p99, us(sorted[n*99/100])/1000)
	}
	if a := bad.Load(); a != nil {
		return d, fmt.Errorf("a client got %+v", *a)
	}
	return d, nil
}

// allParked waits until all n clients are parked, where there is a long_poll, and
// all is quiet.
func (s *subject) allParked(n int) error {
	if s.spec.Admin == "" {
		return nil
	}
	s.settled()
	return s.confirm(n, int64(n), nil)
}

// inTurn calls f for each of n clients once in so long, spread over it.
func inTurn(n int, every time.Duration, f func(i int)) (stop func()) {
	done := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		began, next := time.Now(), 0
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			for due := int(float64(time.Since(began)) / float64(every) * float64(n)); next < due; next++ {
				f(next % n)
			}
		}
	})
	return func() {
		close(done)
		ended.Wait()
	}
}

// within waits for f, which goes on if that takes too long.
func within(d time.Duration, f func()) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		return nil
	case <-time.After(d):
		return fmt.Errorf("not done within %v", d)
	}
}

// publish sends a message that one connection is to hear.
func publish(redis, channel string) error {
	conn, err := net.Dial("tcp", redis)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "PUBLISH %s x\r\n", channel); err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	got, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	if got != ":1\r\n" {
		return fmt.Errorf("publishing: got %q; want one that has heard it", got)
	}
	return nil
}

// startRedis starts a Redis of its own that keeps nothing, and gives its address.
func startRedis() (*process, string, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, "", fmt.Errorf("looking for redis-server: %w", err)
	}
	addr := freeAddr()
	host, port, _ := net.SplitHostPort(addr)
	redis, err := start(addr, "redis-server", "--bind", host, "--port", port, "--save", "", "--appendonly", "no")
	return redis, addr, err
}
