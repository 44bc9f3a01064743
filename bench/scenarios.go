package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// scenario is one kind of work that the subjects are given.
type scenario struct {
	name     string
	title    func(o options) string
	without  []string // subjects that it makes no sense for
	measures []measure
	run      func(t trial) (values, error)
}

// measure is a row of the table.
type measure struct {
	name string
	unit string
	more bool // is better
}

// values are what one round has measured, by the names of measures.
type values map[string]float64

// trial is one round of a scenario for one subject.
type trial struct {
	options
	subject  string
	scenario string
	spec     spec
}

const (
	memory   = "memory each"
	live     = "memory each, after a collection"
	idle     = "CPU, nobody there"
	parkedAt = "CPU, all parked"
	waitAsks = "backend requests, all parked"
	arrival  = "polls parked"
	parkCPU  = "CPU per poll parked"
	p50      = "release, p50"
	p99      = "release, p99"
	last     = "release, last"
	freeCPU  = "CPU per release"
	freeAsks = "backend requests at the release"
	rate     = "deliveries"
	rateCPU  = "CPU per delivery"
	errored  = "errors"
	skipped  = "versions superseded before delivery"
	lost     = "clients without the last version"
	passed   = "requests"
	passCPU  = "CPU per request"

	plainPassed = "requests without long_poll"
	plainCPU    = "CPU per request without long_poll"

	nothingPassed = "requests past a handler that does nothing"
	nothingCPU    = "CPU per request past that"

	growth = "peak memory growth"
)

var parking = []measure{
	{memory, "KiB", false}, {idle, "%", false}, {parkedAt, "%", false}, {waitAsks, "1/s", false}, {arrival, "1/s", true}, {parkCPU, "us", false},
	{p50, "ms", false}, {p99, "ms", false}, {last, "ms", false}, {freeCPU, "us", false}, {freeAsks, "", false}, {errored, "", false}, {lost, "", false},
}

var passMeasures = []measure{
	{passed, "1/s", true}, {plainPassed, "1/s", true}, {nothingPassed, "1/s", true},
	{passCPU, "us", false}, {plainCPU, "us", false}, {nothingCPU, "us", false},
}

var scenarios = []scenario{
	{
		name:     "one",
		title:    func(o options) string { return fmt.Sprintf("%d requests parked on one resource", o.n) },
		measures: parking,
		run:      park,
	}, {
		name: "many",
		title: func(o options) string {
			return fmt.Sprintf("%d requests parked on as many resources, interval 60s", o.n)
		},
		without:  []string{"polling", "nchan", "pushpin"},
		measures: slices.Insert(slices.Clone(parking), 1, measure{live, "KiB", false}),
		run: func(t trial) (values, error) {
			t.spec.LongPoll = map[string]any{"interval": "60s", "max_resources": t.n + 100}
			return park(t)
		},
	}, {
		name: "http2",
		title: func(o options) string {
			return fmt.Sprintf("%d requests parked on one resource, HTTP/2, %d streams to a connection", o.n, streamsEach)
		},
		without:  []string{"polling", "pushpin"},
		measures: parking,
		run: func(t trial) (values, error) {
			t.spec.HTTP2 = true
			return park(t)
		},
	}, {
		name: "churn",
		title: func(o options) string {
			return fmt.Sprintf("%d clients that ask again at once, a change when all have the last", o.churners)
		},
		without:  []string{"polling"},
		measures: []measure{{rate, "1/s", true}, {rateCPU, "us", false}, {errored, "", false}, {skipped, "", false}, {lost, "", false}},
		run:      func(t trial) (values, error) { return churn(t, 0) },
	}, {
		name: "paced",
		title: func(o options) string {
			return fmt.Sprintf("%d clients that ask again at once, a change every %v", o.churners, pace)
		},
		without:  []string{"polling"},
		measures: []measure{{rate, "1/s", true}, {rateCPU, "us", false}, {errored, "", false}, {skipped, "", false}, {lost, "", false}},
		run:      func(t trial) (values, error) { return churn(t, pace) },
	}, {
		name: "pass",
		title: func(o options) string {
			return fmt.Sprintf("POSTs that pass through to a backend, %d connections", passers)
		},
		without:  []string{"floor", "reverse_proxy", "net/http", "polling", "nchan", "pushpin"},
		measures: passMeasures,
		run: func(t trial) (values, error) {
			t.spec.LongPoll = map[string]any{"wake": nil}
			return pass(t)
		},
	}, {
		name:     "writes",
		title:    func(o options) string { return "the same with wake writes" },
		without:  []string{"floor", "reverse_proxy", "net/http", "polling", "nchan", "pushpin"},
		measures: passMeasures,
		run:      pass,
	}, {
		name:     "big",
		title:    func(o options) string { return fmt.Sprintf("1 MiB released to %d clients", o.churners) },
		without:  []string{"polling", "pushpin"},
		measures: []measure{{growth, "MiB", false}, {p50, "ms", false}, {last, "ms", false}, {freeCPU, "us", false}},
		run: func(t trial) (values, error) {
			t.spec.Size = 1 << 20
			t.n = t.churners
			return park(t)
		},
	},
}

const (
	pace    = 100 * time.Millisecond // between changes
	backOff = 100 * time.Millisecond // of a client that was answered with an error
	passers = 32                     // as many connections to a backend as reverse_proxy keeps
)

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
	maps.Copy(s.spec.LongPoll, t.config)
	maps.Copy(s.spec.LongPoll, t.spec.LongPoll)
	behind := spec{Addr: freeAddr(), Size: s.spec.Size}
	var err error
	switch t.subject {
	case "nchan":
		return s, s.nchan()
	case "pushpin":
		behind.Grip = true
	case "reverse_proxy":
		behind.Blocking = true
	case "long_poll":
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
	case s.subject == "long_poll" && s.scenario == "many":
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
// a client names that has the current version.
func (s *subject) warm() (poll, error) {
	const n = 50
	answers := make(chan answer, n)
	c, err := s.connect(n, func(_ int, a answer) { answers <- a })
	if err != nil {
		return poll{}, err
	}
	defer c.close()
	for i := range n {
		if err := c.ask(i, poll{method: "GET", path: "/r"}); err != nil {
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

// park parks n requests, and releases them.
func park(t trial) (values, error) {
	s, err := t.begin()
	defer s.stop()
	if err != nil {
		return nil, err
	}
	first, err := s.warm()
	if err != nil {
		return nil, err
	}
	v := make(values)
	s.settled()
	before := s.pss()
	v[idle] = s.busy(t.idle)

	var start atomic.Int64 // nanoseconds since base
	var missing, errors atomic.Int64
	var bad atomic.Pointer[answer]
	base, took, all := time.Now(), make([]time.Duration, t.n), make(chan struct{})
	waiting := make([]atomic.Bool, t.n) // for an answer, or done
	missing.Store(int64(t.n))
	var ask func(i int) error
	c, err := s.connect(t.n, func(i int, a answer) {
		switch {
		case a.status >= 500 && t.subject == "pushpin": // as it says to many at once
			errors.Add(1)
			time.AfterFunc(backOff, func() { _ = ask(i) })
			return
		case a.status >= 500 && t.subject == "polling": // as reverse_proxy says to too many
			errors.Add(1)
			waiting[i].Store(false)
			return
		case a.status == 304 && t.subject == "polling":
			waiting[i].Store(false)
			return
		case a.status != 200 || a.version != 2:
			bad.Store(&a)
			return
		}
		took[i] = time.Since(base) - time.Duration(start.Load())
		if missing.Add(-1) == 0 {
			close(all)
		}
	})
	if err != nil {
		return nil, err
	}
	defer c.close()
	ask = func(i int) error {
		p := first
		if t.scenario == "many" {
			p.path = fmt.Sprint("/r/", i)
		}
		waiting[i].Store(true)
		return c.ask(i, p)
	}
	s.settled()
	cpu, began := s.cpu(), time.Now()
	if t.subject == "polling" {
		stop := everySecond(t.n, func(i int) {
			if !waiting[i].Load() {
				_ = ask(i)
			}
		})
		defer stop()
		time.Sleep(2 * time.Second)
	} else {
		for i := range t.n {
			if err := ask(i); err != nil {
				return nil, err
			}
		}
		v[arrival] = float64(t.n) / s.settled().Sub(began).Seconds()
		v[parkCPU] = us(s.cpu()-cpu) / float64(t.n)
	}
	v[memory] = (s.pss() - before) / float64(t.n)
	asked := s.asked()
	began = time.Now()
	v[parkedAt] = s.busy(t.idle)
	v[waitAsks] = (s.asked() - asked) / time.Since(began).Seconds()

	if err := s.confirm(t.n, missing.Load(), bad.Load()); err != nil {
		return nil, err
	}
	if t.scenario == "many" {
		// What the first checks have left behind goes when the runtime likes: up to
		// then it may be as much as all that is in use.
		if _, err := call("POST", "http://"+s.spec.Debug+"/collect", ""); err != nil {
			return nil, err
		}
		v[live] = (s.pss() - before) / float64(t.n)
	}
	stop := s.profiles()
	resident := s.pss()
	s.resetPeak()
	cpu, asked = s.cpu(), s.asked()
	start.Store(int64(time.Since(base)))
	if err := s.change(); err != nil {
		return nil, err
	}
	select {
	case <-all:
	case <-time.After(20 * time.Second):
		if bad.Load() != nil || missing.Load() == int64(t.n) {
			return nil, fmt.Errorf("releasing %s: %d of %d clients have no answer; the last bad one: %+v", t.subject, missing.Load(), t.n, bad.Load())
		}
	}
	s.settled()
	v[freeCPU] = us(s.cpu()-cpu) / float64(t.n)
	v[freeAsks] = s.asked() - asked
	v[growth] = (s.peak() - resident) / 1024
	stop()
	v[errored], v[lost] = float64(errors.Load()), float64(missing.Load())
	slices.Sort(took)
	took = took[missing.Load():]
	n := len(took)
	v[p50], v[p99], v[last] = us(took[n/2])/1000, us(took[n*99/100])/1000, us(took[n-1])/1000
	return v, nil
}

// confirm makes sure that n requests are parked and that none was answered.
func (s *subject) confirm(n int, missing int64, bad *answer) error {
	if bad != nil || missing != int64(n) {
		return fmt.Errorf("parking on %s: %d of %d clients were answered, one with %+v", s.subject, int64(n)-missing, n, bad)
	}
	if s.spec.Admin == "" {
		return nil
	}
	text, err := call("GET", "http://"+s.spec.Admin+"/long_poll/stats", "")
	if err != nil {
		return err
	}
	var stats struct{ Parked int }
	if err := json.Unmarshal(text, &stats); err != nil {
		return fmt.Errorf("parsing stats: %w", err)
	}
	if stats.Parked != n {
		return fmt.Errorf("parking on %s: %d of %d requests are parked", s.subject, stats.Parked, n)
	}
	return nil
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
