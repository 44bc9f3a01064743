package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

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
	stop := s.profiles("arrival")
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
	stop()
	asked := s.asked()
	began = time.Now()
	v[parkedAt] = s.busy(t.idle)
	v[waitAsks] = (s.asked() - asked) / time.Since(began).Seconds()

	if err := s.confirm(t.n, missing.Load(), bad.Load()); err != nil {
		return nil, err
	}
	if (t.scenario == "many" || t.scenario == "one") && s.spec.Debug != "" && t.subject != "nchan" && t.subject != "pushpin" {
		// What the first checks and the requests have left behind goes when the runtime
		// likes: up to then it may be as much as all that is in use.
		if _, err := call("POST", "http://"+s.spec.Debug+"/collect", ""); err != nil {
			return nil, err
		}
		v[live] = (s.pss() - before) / float64(t.n)
	}
	stop = s.profiles("release")
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
	var stats struct{ Parked int }
	var err error
	// A process that is quiet may as well be one that is not let run.
	if !eventually(func() bool {
		var text []byte
		if text, err = call("GET", "http://"+s.spec.Admin+"/long_poll/stats", ""); err == nil {
			err = json.Unmarshal(text, &stats)
		}
		return err != nil || stats.Parked == n
	}) {
		return fmt.Errorf("parking on %s: %d of %d requests are parked", s.subject, stats.Parked, n)
	}
	if err != nil {
		return fmt.Errorf("reading stats: %w", err)
	}
	return nil
}
