package main

import (
	"fmt"
	"sync/atomic"
	"time"
)

// pass has requests pass through that can not be parked, or need not be. The same Caddy without
// long_poll, and with a handler that does nothing in its place, take turns with it, a
// fraction of a second each: what they differ by is less than a machine's moods.
func pass(t trial) (values, error) {
	var all []*passing
	var err error
	for _, p := range []*passing{
		{rate: passed, cpu: passCPU, kept: kept, as: t.subject},
		{rate: plainPassed, cpu: plainCPU, kept: plainKept, as: "polling"}, // which is nothing but reverse_proxy, and here nobody polls
		{rate: nothingPassed, cpu: nothingCPU, kept: nothingKept, as: "nothing"},
	} {
		t.subject = p.as
		p.subject, err = t.begin()
		defer p.stop()
		if err != nil {
			return nil, err
		}
		if p.clients, err = p.connect(passers, p.heard); err != nil {
			return nil, err
		}
		defer p.clients.close()
		all = append(all, p)
	}
	before := make([]held, len(all))
	for i, p := range all {
		p.turn() // connections to the backend are made
		p.done.Store(0)
		p.used, p.took = 0, 0
		if before[i], err = holds(p.subject.spec); err != nil {
			return nil, err
		}
	}
	stop := all[0].profiles("requests")
	for turn := range len(all) * max(2, int(t.churn/passTurn)) {
		all[turn%len(all)].turn()
	}
	stop()
	v := make(values)
	for i, p := range all {
		if f := p.failed.Load(); f != nil {
			return nil, fmt.Errorf("passing through %s: bad answer %+v", p.as, *f)
		}
		n := float64(p.done.Load())
		v[p.rate], v[p.cpu] = n/p.took.Seconds(), us(p.used)/n
		after, err := holds(p.subject.spec)
		if err != nil {
			return nil, err
		}
		v[p.kept] = (float64(after.Heap) - float64(before[i].Heap)) / n
	}
	return v, nil
}

const passTurn = 250 * time.Millisecond

// passing is a subject that requests pass through when it is its turn.
type passing struct {
	*subject
	as              string // the name of the subject
	rate, cpu, kept string // and of its measures
	clients         clients
	on              atomic.Bool
	flying          atomic.Int64 // requests
	sent            atomic.Int64
	done            atomic.Int64
	failed          atomic.Pointer[answer]
	used            time.Duration // CPU
	took            time.Duration
}

// next is what a client asks for next.
func (p *passing) next() poll {
	switch {
	case !p.gets:
		return poll{method: "POST", path: "/pass"}
	case p.spread:
		return poll{method: "GET", path: fmt.Sprint("/r/", p.sent.Add(1))}
	}
	return poll{method: "GET", path: "/r"}
}

func (p *passing) heard(i int, a answer) {
	if a.status != 200 || p.gets && (a.tag == "") != (p.spec.Untagged && p.as != "long_poll") {
		p.failed.Store(&a)
	}
	p.done.Add(1)
	if !p.on.Load() || p.clients.ask(i, p.next()) != nil {
		p.flying.Add(-1)
	}
}

func (p *passing) turn() {
	cpu, began := p.process.cpu(), time.Now()
	p.on.Store(true)
	p.flying.Store(passers)
	for i := range passers {
		if err := p.clients.ask(i, p.next()); err != nil {
			p.failed.Store(&answer{})
		}
	}
	time.Sleep(passTurn)
	p.on.Store(false)
	for deadline := time.Now().Add(time.Minute); p.flying.Load() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	p.took += time.Since(began)
	p.used += p.process.cpu() - cpu
}
