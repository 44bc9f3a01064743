package main

import (
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"
)

// detached is long_poll whose parked requests have no goroutine.
const detached = "long_poll detach"

// subject is a running subject, with what is behind it.
type subject struct {
	*process
	trial
	behind  *process // nil if nothing is
	publish func(version int64) error
	version int64
	cleanup []func()
}

// begin starts the subject of a trial.
func (t trial) begin() (*subject, error) {
	s := &subject{trial: t, version: 1}
	s.spec.Subject, s.spec.Addr = t.subject, freeAddr()
	s.spec.LongPoll = make(map[string]any)
	if t.subject == detached {
		s.spec.Subject, s.spec.LongPoll["detach"] = "long_poll", true
	}
	maps.Copy(s.spec.LongPoll, t.config)
	maps.Copy(s.spec.LongPoll, t.spec.LongPoll)
	behind := spec{Addr: freeAddr(), Size: s.spec.Size, Untagged: s.spec.Untagged}
	var err error
	switch t.subject {
	case "nchan":
		return s, s.nchan()
	case "pushpin":
		behind.Grip = true
	case "reverse_proxy":
		behind.Blocking = true
	case "long_poll", detached:
		s.spec.Admin = freeAddr()
	}
	s.spec.Debug = freeAddr()
	if t.subject != "floor" && t.subject != "net/http" {
		s.spec.Backend = behind.Addr
		if s.behind, err = child("backend", behind); err != nil {
			return s, err
		}
	}
	if t.subject == "pushpin" {
		return s, s.pushpin()
	}
	s.process, err = child("serve", s.spec)
	return s, err
}

func (s *subject) stop() {
	s.process.stop()
	s.behind.stop()
	for _, f := range s.cleanup {
		f()
	}
}

// change makes the next version and releases those who wait.
func (s *subject) change() error {
	s.version++
	switch {
	case s.publish != nil:
		return s.publish(s.version)
	case s.spec.Subject == "long_poll" && s.scenario == "many":
		// A write wakes the resources at its own path; all at once is for the
		// admin endpoint.
		if _, err := call("POST", "http://"+s.behind.addr+"/all", ""); err != nil {
			return err
		}
		_, err := call("POST", "http://"+s.spec.Admin+"/long_poll/wake", `{"prefix": "/"}`)
		return err
	}
	_, err := call("POST", "http://"+s.addr+"/r", "")
	return err
}

// asked is how many requests the backend got; 0 without one.
func (s *subject) asked() float64 {
	if s.behind == nil {
		return 0
	}
	text, err := call("GET", "http://"+s.behind.addr+"/asked", "")
	fatal(err)
	n, _ := strconv.ParseFloat(string(text), 64)
	return n
}

// connect connects n clients.
func (s *subject) connect(n int, h heard) (clients, error) {
	if s.spec.HTTP2 {
		return newStreams(s.addr, n, h)
	}
	return newCrowd(s.addr, n, h)
}

// warm pages code in and fills pools, before memory is compared, and finds out what
// a client names that has the current version. Who names none is answered at once, but
// says that it would wait: long_poll would else pass it on and check nothing.
func (s *subject) warm() (poll, error) {
	const n = 50
	answers := make(chan answer, n)
	c, err := s.connect(n, func(_ int, a answer) { answers <- a })
	if err != nil {
		return poll{}, err
	}
	defer c.close()
	for i := range n {
		if err := c.ask(i, poll{method: "GET", path: "/r", wait: "600"}); err != nil {
			return poll{}, err
		}
	}
	var a answer
	for range n {
		select {
		case a = <-answers:
		case <-time.After(10 * time.Second):
			return poll{}, fmt.Errorf("warming up %s: no answer", s.subject)
		}
		if a.status != 200 || a.version != s.version {
			return poll{}, fmt.Errorf("warming up %s: got status %d and version %d; want 200 and %d", s.subject, a.status, a.version, s.version)
		}
	}
	return poll{method: "GET", path: "/r", tag: a.tag, since: a.since}, nil
}

// busy is how busy the process is, in percent of one core.
func (s *subject) busy(d time.Duration) float64 {
	cpu := s.cpu()
	time.Sleep(d)
	return (s.cpu() - cpu).Seconds() / d.Seconds() * 100
}

// everySecond calls f for each of n clients once a second, spread over it.
func everySecond(n int, f func(i int)) (stop func()) {
	const slots = 50
	done := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		tick := time.NewTicker(time.Second / slots)
		defer tick.Stop()
		for slot := 0; ; slot = (slot + 1) % slots {
			for i := slot; i < n; i += slots {
				f(i)
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	return func() { close(done); ended.Wait() }
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
