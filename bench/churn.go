package main

import (
	"fmt"
	"sync/atomic"
	"time"
)

// churn has clients ask again at once while changes come: every so often, or, with
// 0, whenever all have got the last.
func churn(t trial, every time.Duration) (values, error) {
	s, err := t.begin()
	defer s.stop()
	if err != nil {
		return nil, err
	}
	first, err := s.warm()
	if err != nil {
		return nil, err
	}
	var delivered, errors, over, have atomic.Int64 // have: clients that have the current version
	var current atomic.Int64
	var failed atomic.Pointer[answer]
	all := make(chan struct{}, 1)
	got := make([]atomic.Int64, t.churners) // each is written by one goroutine
	polls := make([]poll, t.churners)
	var c clients
	c, err = s.connect(t.churners, func(i int, a answer) {
		if a.status >= 500 {
			errors.Add(1)
			time.AfterFunc(backOff, func() { _ = c.ask(i, polls[i]) })
			return
		}
		if a.status != 200 || a.version <= got[i].Load() {
			failed.Store(&a)
			return
		}
		delivered.Add(1)
		over.Add(a.version - got[i].Swap(a.version) - 1)
		polls[i] = poll{method: "GET", path: "/r", tag: a.tag, since: a.since}
		if err := c.ask(i, polls[i]); err != nil {
			failed.Store(&answer{})
		}
		if a.version == current.Load() && have.Add(1) == int64(t.churners) {
			select {
			case all <- struct{}{}:
			default: // nobody has taken the last one yet, and nobody may when the time is over
			}
		}
	})
	if err != nil {
		return nil, err
	}
	defer c.close()
	for i := range t.churners {
		polls[i] = first
		got[i].Store(s.version)
		if err := c.ask(i, first); err != nil {
			return nil, err
		}
	}
	s.settled()
	stop := s.profiles("deliveries")
	cpu, began := s.cpu(), time.Now()
	for stuck := false; !stuck && time.Since(began) < t.churn; {
		have.Store(0)
		current.Store(s.version + 1)
		if err := s.change(); err != nil {
			return nil, err
		}
		if every > 0 {
			time.Sleep(every)
			select {
			case <-all:
			default:
			}
			continue
		}
		select {
		case <-all:
		case <-time.After(10 * time.Second):
			stuck = true // the table says how many have not got it
		}
	}
	took := time.Since(began).Seconds()
	v := values{rate: float64(delivered.Load()) / took, rateCPU: us(s.cpu()-cpu) / float64(delivered.Load())}
	s.settled() // what is on its way arrives
	stop()
	missing := func() (n int) {
		for i := range got {
			if got[i].Load() != s.version {
				n++
			}
		}
		return n
	}
	// A process that is quiet may as well be one that is not let run.
	eventually(func() bool { return missing() == 0 })
	if f := failed.Load(); f != nil {
		return nil, fmt.Errorf("churning on %s: bad answer %+v", t.subject, *f)
	}
	v[errored], v[skipped], v[lost] = float64(errors.Load()), float64(over.Load()), float64(missing())
	return v, nil
}
