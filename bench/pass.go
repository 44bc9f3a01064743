package main

import (
	"fmt"
	"sync/atomic"
	"time"
)

// pass has requests pass through that can not be parked. The same Caddy without
// long_poll takes turns with it, a fraction of a second each: what they differ by is
// less than a machine's moods.
func pass(t trial) (values, error) {
	without := t
	without.subject = "polling" // it is nothing but reverse_proxy, and here nobody polls
	pair := make([]*passing, 2)
	for i, t := range []trial{t, without} {
		p := new(passing)
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
		pair[i] = p
	}
	stop := pair[0].profiles()
	for turn := range max(4, int(2*t.churn/passTurn)) {
		p := pair[turn%2]
		if turn < 2 {
			p.turn() // connections to the backend are made
			p.done.Store(0)
			p.used, p.took = 0, 0
		}
		p.turn()
	}
	stop()
	v := make(values)
	for i, p := range pair {
		if f := p.failed.Load(); f != nil {
			return nil, fmt.Errorf("passing through %s: bad answer %+v", p.subject.subject, *f)
		}
		n := float64(p.done.Load())
		v[[]string{passed, plainPassed}[i]] = n / p.took.Seconds()
		v[[]string{passCPU, plainCPU}[i]] = us(p.used) / n
	}
	return v, nil
}

const passTurn = 250 * time.Millisecond

// passing is a subject that requests pass through when it is its turn.
type passing struct {
	*subject
	clients clients
	on      atomic.Bool
	flying  atomic.Int64 // requests
	done    atomic.Int64
	failed  atomic.Pointer[answer]
	used    time.Duration // CPU
	took    time.Duration
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
	cpu, began := p.cpu(), time.Now()
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
	p.used += p.cpu() - cpu
}
