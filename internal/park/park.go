// Package park is where a poll waits: it joins those who wait for the same, looks,
// waits and leaves. It touches the lot and the deadlines of the client's connection,
// and neither asks nor answers anybody.
package park

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/tap"
)

// Spot is where the polls of one handler wait.
type Spot struct {
	Rules    *poll.Rules
	Lot      *poll.Lot
	Departed func() // called whenever a poll has left
	Again    bool   // another handler of this module stands behind

	// Detach has a poll that is parked, and is m, wait elsewhere, and reports whether it
	// does; nil has all wait here. A stream that has not begun need not be parked: where v
	// is Hold it is told that there. st is nil for a poll.
	Detach func(p *poll.Poll, m poll.Waiter, w http.ResponseWriter, v poll.Verdict, st Stream) bool

	// Welcome has a poll that comes back from there be as it was, with its place; nil if
	// none does. Twice is once.
	Welcome func(p *poll.Poll)
}

// Reserve keeps a place for p while its body is read, or says which bound forbids it. Who
// comes back has one.
func (sp *Spot) Reserve(p *poll.Poll) error {
	if sp.welcome(p); p.Reserved {
		return nil
	}
	err := sp.Lot.Reserve(sp.client(p))
	p.Reserved = err == nil
	return err
}

// Unreserve gives up the place that was kept for p, if it has not been taken.
func (sp *Spot) Unreserve(p *poll.Poll) {
	if p.Reserved {
		p.Reserved = false
		sp.Lot.Unreserve(sp.client(p))
	}
}

func (sp *Spot) welcome(p *poll.Poll) {
	if sp.Welcome != nil {
		sp.Welcome(p)
	}
}

// client is who p is counted for, where that is bounded.
func (sp *Spot) client(p *poll.Poll) string {
	if !sp.Lot.CountsClients() {
		return ""
	}
	return p.Client()
}

// HandOn readies the request of p, which does not wait here, for the handlers behind, who
// answer it.
func (sp *Spot) HandOn(p *poll.Poll) {
	sp.Unreserve(p)
	p.Rewind()
	if sp.Again {
		tap.Pass(p.Request)
	}
}

// Wait waits with everybody who waits for the same, and returns what becomes of p.
// start has a resource checked on behalf of p. Wait has returned before anything is
// answered, so that its stack frame is gone by then.
//
//go:noinline
func (sp *Spot) Wait(p *poll.Poll, w http.ResponseWriter, start func(*poll.Resource)) poll.Verdict {
	sp.welcome(p)
	v := poll.Verdict{Kind: poll.Pass}
	for range maxMoves {
		if v = sp.visit(p, w, start); v.Kind != poll.Moved {
			break
		}
		p.Find(sp.Rules.Share.Memory.Of(p.Name))
		v.Kind = poll.Pass
	}
	if !p.ParkedAt.IsZero() && v.Kind != poll.Detached {
		if v.Kind == poll.Pass {
			sp.spread(p)
		}
		p.Held = time.Since(p.ParkedAt)
		RestartDeadlines(p, w)
	}
	return v
}

// PassSpread is over how long those are spread who were parked, and have to ask the
// backend for themselves all at once: an answer has outgrown max_body.
const PassSpread = time.Second

// spread waits for the turn of p.
func (sp *Spot) spread(p *poll.Poll) {
	if sp.Lot.IsDrained() {
		return // a drain is spread already
	}
	timer := time.NewTimer(time.Duration(rand.Float64() * float64(PassSpread)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-sp.Lot.Drained():
	case <-p.Request.Context().Done():
	}
}

// maxMoves bounds how often a request can turn out to wait for something else: a
// backend may name another field in each Vary.
const maxMoves = 4

// visit waits with those who wait for the resource that p has now. Whatever happens,
// a placeholder that panics too, it leaves no trace there.
func (sp *Spot) visit(p *poll.Poll, w http.ResponseWriter, start func(*poll.Resource)) poll.Verdict {
	m := sp.Lot.Join(p.Key(), p.Name)
	defer sp.leave(p, &m)
	if sp.strayed(p) {
		return poll.Verdict{Kind: poll.Moved}
	}
	v := sp.wait(p, &m, w, start)
	if v.Kind == poll.Detached {
		v = sp.detach(p, &m, w, start)
	}
	if v.Kind == poll.Moved && m.Reserve() {
		p.Reserved = true // who is parked stays parked, wherever that is
	}
	return v
}

// detach has p wait elsewhere, or here if it can not.
//
//go:noinline
func (sp *Spot) detach(p *poll.Poll, m *poll.Waiter, w http.ResponseWriter, start func(*poll.Resource)) poll.Verdict {
	if sp.Detach(p, *m, w, poll.Verdict{}, nil) {
		*m = poll.Waiter{}
		return poll.Verdict{Kind: poll.Detached}
	}
	p.Attached = true
	return sp.wait(p, m, w, start)
}

// leave has p, who was m, wait no more.
func (sp *Spot) leave(p *poll.Poll, m *poll.Waiter) {
	m.Leave()
	sp.Departed()
	if p.Lent != nil {
		p.Lent.End()
	}
}

// strayed reports whether what the answers depend on was learnt after p had been told
// where to go: what it meant to join has another key by now, and what it has joined is a
// second one.
func (sp *Spot) strayed(p *poll.Poll) bool {
	return !sp.Rules.Share.Memory.Of(p.Name).Equal(p.Variation)
}

// wait is where a request is parked. It does little itself and is never inlined,
// so that a parked request keeps a small stack: what is deep has returned, or is
// yet to be called.
//
//go:noinline
func (sp *Spot) wait(p *poll.Poll, m *poll.Waiter, w http.ResponseWriter, start func(*poll.Resource)) poll.Verdict {
	done := p.Request.Context().Done()
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for {
		v, awaited := sp.step(p, m, w, start)
		switch {
		case awaited == nil:
			return v
		case sp.Detach != nil && v.Kind == poll.Hold && m.Parked() && !p.Draining && !p.Attached:
			return poll.Verdict{Kind: poll.Detached}
		}
		var drained <-chan struct{}
		switch {
		case p.Draining && m.Parked():
			awaited = nil // nothing comes any more
		case v.Kind == poll.Ask:
			drained = sp.Lot.Drained()
		}
		if timer == nil {
			timer = time.NewTimer(p.TimeLeft())
		}
		select {
		case <-awaited:
		case <-done:
			return poll.Verdict{Kind: poll.Gone}
		case <-drained:
			if !m.Parked() {
				return poll.Verdict{Kind: poll.Pass}
			}
		case <-timer.C:
			if v := p.TimeUp(m, m.Snapshot()); v.Kind != poll.Patience {
				return v
			}
			p.Limit = 0 // what the check says that it still waits for ends the wait
			timer.Reset(p.PatienceLeft())
		}
		if m.Parked() && !p.Draining && sp.Lot.IsDrained() {
			p.Draining = true
			timer.Reset(sp.DrainDelay())
		}
	}
}

// Step is a step of a poll that waits elsewhere, and is parked: as step.
func (sp *Spot) Step(p *poll.Poll, m *poll.Waiter) (v poll.Verdict, awaited <-chan struct{}) {
	return sp.step(p, m, nil, nil)
}

// step looks at what is known now. It returns what ends the wait, or what is to be
// awaited before the next step.
//
//go:noinline
func (sp *Spot) step(p *poll.Poll, m *poll.Waiter, w http.ResponseWriter, start func(*poll.Resource)) (v poll.Verdict, awaited <-chan struct{}) {
	// Taken before it is looked at: whatever comes after it closes the channels that
	// are awaited.
	s := m.Snapshot()
	v = p.Look(m, s)
	if v.Kind == poll.Ask || v.Kind == poll.Hold {
		v = sp.enter(p, m, s, v, start)
		if m.Parked() && !p.Deadlines.Cleared {
			// Not where it is parked: these calls are deep, and by so much more the stack
			// would have to be twice as large, as long as p is parked.
			clearDeadlines(p, w)
		}
	}
	switch v.Kind {
	case poll.Ask:
		return v, s.Next()
	case poll.Hold:
		return v, s.Changed() // which a drain closes too
	}
	return v, nil
}

// enter counts the poll among those who wait, and then among the parked, and has
// checks made for it. It returns Ask or Hold if it may wait.
func (sp *Spot) enter(p *poll.Poll, m *poll.Waiter, s *poll.Snapshot, v poll.Verdict, start func(*poll.Resource)) poll.Verdict {
	if m.Watch() {
		start(m.Resource)
	}
	p.Asked = p.Asked || m.First()
	if v.Kind == poll.Ask {
		return sp.ask(p, m, s)
	}
	byVersion := s.Known() && p.ParkOn(s.State)
	if m.Parked() {
		return v
	}
	if end, parked := sp.count(p, m, s); !parked {
		return end
	}
	if !byVersion && !p.Follows() {
		// If it is told the same again, that has to be read after it has asked.
		m.NeedBy(p.NeedBy())
	}
	return v
}

// ask has a check made that p needs before it can be told anything.
func (sp *Spot) ask(p *poll.Poll, m *poll.Waiter, s *poll.Snapshot) poll.Verdict {
	if m.Parked() && s.Failed() {
		return poll.Verdict{Kind: poll.Ask} // the pace of an outage is the poller's
	}
	at := time.Now()
	if s.Known() && s.State.Restless >= poll.MaxRestless {
		// What is different each time would be asked for without end (contract 3.9).
		if at = s.Began.Add(sp.pace(p, s)); at.After(time.Now()) && !m.Parked() {
			if end, parked := sp.count(p, m, s); !parked {
				return end
			}
		}
	}
	if m.WantAt(s, at) {
		p.Asked = true
	}
	return poll.Verdict{Kind: poll.Ask}
}

// minPace is the least pause between checks that polls ask for in vain, where they are
// not to wait for the whole interval.
const minPace = time.Second

// pace is the pause that p has to observe after the check that s is of: the interval,
// or, where p can not wait for so long, until its time is almost up (contract 7.6).
func (sp *Spot) pace(p *poll.Poll, s *poll.Snapshot) time.Duration {
	by := p.NeedBy()
	if p.Limit == 0 { // it does not mind, but is not to be told that no check has ended
		by = time.Now().Add(p.TimeLeft() * 7 / 8)
	}
	return min(sp.Rules.Interval, max(by.Sub(s.Began), minPace))
}

// park counts p among the parked, and lets nothing cut it. Where it can not be parked it
// returns what becomes of p.
func (sp *Spot) park(p *poll.Poll, m *poll.Waiter, s *poll.Snapshot, w http.ResponseWriter) (end poll.Verdict, parked bool) {
	if end, parked = sp.count(p, m, s); parked && !p.Deadlines.Cleared {
		clearDeadlines(p, w)
	}
	return end, parked
}

// count is the part of park that touches the lot.
func (sp *Spot) count(p *poll.Poll, m *poll.Waiter, s *poll.Snapshot) (end poll.Verdict, parked bool) {
	switch err := m.Park(sp.client(p), p.Reserved); {
	case errors.Is(err, lot.ErrDrained):
		if p.Truthful(m, s) {
			return poll.Verdict{Kind: poll.Drain, State: s.State}, false
		}
		return poll.Verdict{Kind: poll.Pass}, false
	case err != nil && !p.Recent(m, s) && !time.Now().Before(m.Due()) && !s.Failed():
		// Where nobody is parked nobody looks, and one who is refused again and
		// again would never learn that it need not park any more.
		if m.Want(s) {
			p.Asked = true
		}
		return poll.Verdict{Kind: poll.Ask}, false
	case err != nil:
		p.Refusal = err
		return poll.Verdict{Kind: poll.Refuse}, false
	}
	p.Reserved = false
	if p.ParkedAt.IsZero() {
		p.ParkedAt = time.Now()
	}
	return end, true
}
