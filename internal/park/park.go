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
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
)

// Spot is where the polls of one handler wait.
type Spot struct {
	Lot      *poll.Lot
	Memory   *share.Memory
	Departed func() // called whenever a poll has left
}

// Wait waits with everybody who waits for the same. start has a resource checked on
// behalf of p. It has returned before anything is answered, and its stack frame with
// it.
//
//go:noinline
func (sp *Spot) Wait(p *poll.Poll, w http.ResponseWriter, start func(*poll.Resource)) poll.Verdict {
	v := poll.Verdict{Kind: poll.Pass}
	for range maxMoves {
		if v = sp.visit(p, w, start); v.Kind != poll.Moved {
			break
		}
		p.Variation = sp.Memory.Of(p.Name)
		v.Kind = poll.Pass
	}
	if !p.ParkedAt.IsZero() {
		p.Held = time.Since(p.ParkedAt)
		restartDeadlines(p, w)
	}
	return v
}

// maxMoves bounds how often a request can turn out to wait for something else: a
// backend may name another field in each Vary.
const maxMoves = 4

// visit waits with those who wait for the resource that p has now. Whatever happens,
// a placeholder that panics too, it leaves no trace there.
func (sp *Spot) visit(p *poll.Poll, w http.ResponseWriter, start func(*poll.Resource)) poll.Verdict {
	m := sp.Lot.Join(p.Key(), p.Name)
	defer func() {
		m.Leave()
		sp.Departed()
		if p.Lent != nil {
			p.Lent.End()
		}
	}()
	return sp.wait(p, &m, w, start)
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
		if awaited == nil {
			return v
		}
		var drained <-chan struct{}
		switch {
		case p.Draining && m.Parked():
			awaited = nil // nothing comes any more
		case v.Kind == poll.Ask:
			drained = sp.Lot.Drained()
		}
		if timer == nil {
			timer = time.NewTimer(p.Patience())
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
			if v := p.TimeUp(m, m.Snapshot()); v.Kind != poll.Hold {
				return v
			}
			timer.Reset(p.LastPatience())
		}
		if m.Parked() && !p.Draining && sp.Lot.IsDrained() {
			p.Draining = true
			timer.Reset(sp.drainDelay())
		}
	}
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
		v = sp.enter(p, m, s, v, w, start)
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
func (sp *Spot) enter(p *poll.Poll, m *poll.Waiter, s *poll.Snapshot, v poll.Verdict, w http.ResponseWriter, start func(*poll.Resource)) poll.Verdict {
	if m.Watch() {
		start(m.Resource)
	}
	p.Asked = p.Asked || m.First()
	if v.Kind == poll.Ask {
		// While the backend fails, those who are parked leave the pace to the
		// poller.
		if (!m.Parked() || !s.Failed()) && m.Want(s) {
			p.Asked = true
		}
		return v
	}
	byVersion := p.ParkOn(s.State)
	if m.Parked() {
		return v
	}
	switch err := m.Park(p.Client()); {
	case errors.Is(err, lot.ErrDrained):
		if p.Truthful(m, s) {
			return poll.Verdict{Kind: poll.Drain, State: s.State}
		}
		return poll.Verdict{Kind: poll.Pass}
	case err != nil && !p.Recent(m, s) && !time.Now().Before(m.Due()):
		// Where nobody is parked nobody looks, and one who is refused again and
		// again would never learn that it need not park any more.
		if m.Want(s) {
			p.Asked = true
		}
		return poll.Verdict{Kind: poll.Ask}
	case err != nil:
		p.Refusal = err
		return poll.Verdict{Kind: poll.Refuse}
	}
	if p.ParkedAt.IsZero() {
		p.ParkedAt = time.Now()
	}
	if !byVersion {
		// If it is told the same again, that has to be read after it has asked.
		m.NeedBy(p.NeedBy())
	}
	clearDeadlines(p, w)
	return v
}

// drainRate is how many requests a drain releases in a second: ten thousand take
// the whole second that it may last.
const drainRate = 10000

// DrainSpread is over how long a drain releases so many.
func DrainSpread(parked int) time.Duration {
	return min(time.Second, time.Second*time.Duration(parked)/drainRate)
}

// drainPause is before what a drain releases nobody: the server is about to close its
// listener and the connections that are idle, and a client that came back by one of
// these would be reset.
const drainPause = 50 * time.Millisecond

// drainDelay is when one request of a drain is released.
func (sp *Spot) drainDelay() time.Duration {
	return max(drainPause, time.Duration(rand.Float64()*float64(DrainSpread(sp.Lot.Parked()))))
}
