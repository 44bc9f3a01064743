package main

import (
	"fmt"
	"sync/atomic"
	"time"
)

// pass has requests pass through that can not be parked. The same Caddy without
// long_poll, and with a handler that does nothing in its place, take turns with it, a
// fraction of a second each: what they differ by is less than a machine's moods.
func pass(t trial) (values, error) {
	var all []*passing
	for _, p := range []*passing{
		{rate: passed, cpu: passCPU, as: t.subject},
		{rate: plainPassed, cpu: plainCPU, as: "polling"}, // which is nothing but reverse_proxy, and here nobody polls
		{rate: nothingPassed, cpu: nothingCPU, as: "nothing"},
	} {
		t.subject = p.as
		var err error
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
	stop := all[0].profiles()
	for turn := range len(all) * max(2, int(t.churn/passTurn)) {
		p := all[turn%len(all)]
		if turn < len(all) {
			p.turn() // connections to the backend are made
			p.done.Store(0)
			p.used, p.took = 0, 0
		}
		p.turn()
	}
	stop()
	v := make(values)
	for _, p := range all {
		if f := p.failed.Load(); f != nil {
			return nil, fmt.Errorf("passing through %s: bad answer %+v", p.as, *f)
		}
		n := float64(p.done.Load())
		v[p.rate], v[p.cpu] = n/p.took.Seconds(), us(p.used)/n
	}
	return v, nil
}

const passTurn = 250 * time.Millisecond

// passing is a subject that requests pass through when it is its turn.
type passing struct {
	*subject
	as, rate, cpu string // the name of the subject, and of its measures
	clients       clients
	on            atomic.Bool
	flying        atomic.Int64 // requests
	done          atomic.Int64
	failed        atomic.Pointer[answer]
	used          time.Duration // CPU
	took          time.Duration
}

var passedOn = poll{method: "POST", path: "/pass"}

func (p *passing) heard(i int, a answer) {
	if a.status != 200 {
		p.failed.Store(&a)
	}
	p.done.Add(1)
	if !p.on.Load() || p.clients.ask(i, passedOn) != nil {
		p.flying.Add(-1)
	}
}

func (p *passing) turn() {
	cpu, began := p.process.cpu(), time.Now()
	p.on.Store(true)
	p.flying.Store(passers)
	for i := range passers {
		if err := p.clients.ask(i, passedOn); err != nil {
			p.failed.Store(&answer{})
		}
	}
	time.Sleep(passTurn)
	p.on.Store(false)
	for deadline := time.Now().Add(10 * time.Second); p.flying.Load() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	p.took += time.Since(began)
	p.used += p.process.cpu() - cpu
}
