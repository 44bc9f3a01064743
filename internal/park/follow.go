package park

import (
	"net/http"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Stream is a client that is told more than once (contract 13). Its methods are called
// on the goroutine of its request, and may take their time: nobody else waits for them.
type Stream interface {
	// Begins reports whether a stream can begin with s, or has begun.
	Begins(s *state.Reading) bool

	// Tell tells the client what v says: of Ready its state, and of Hold that there is
	// nothing yet, known being what was known before; nil if nothing was. It reports
	// whether the stream goes on.
	Tell(v poll.Verdict, known *state.Reading) (more bool)

	// Rest is how long the client may be left without a word from now on. Where it is
	// over, [Stream.Beat] says one.
	Rest() time.Duration
	Beat() (more bool)
}

// Follow waits with everybody who waits for the same as p, and has st tell its client what
// becomes of that, for as long as that goes on. The verdict is why it has ended, or did not
// begin. start is that of [Spot.Wait].
//
//go:noinline
func (sp *Spot) Follow(p *poll.Poll, w http.ResponseWriter, start func(*poll.Resource), st Stream) poll.Verdict {
	v := poll.Verdict{Kind: poll.Moved}
	for moves := 0; v.Kind == poll.Moved && moves < maxMoves; moves++ {
		if moves > 0 {
			p.Find(sp.Rules.Share.Memory.Of(p.Name))
		}
		v = sp.visitOn(p, w, start, st)
	}
	if v.Kind == poll.Moved {
		v.Kind = poll.Pass
	}
	if !p.ParkedAt.IsZero() {
		p.Held = time.Since(p.ParkedAt)
	}
	return v
}

// visitOn is visit for a stream.
func (sp *Spot) visitOn(p *poll.Poll, w http.ResponseWriter, start func(*poll.Resource), st Stream) poll.Verdict {
	m := sp.Lot.Join(p.Key(), p.Name)
	defer sp.leave(p, &m)
	if sp.strayed(p) {
		return poll.Verdict{Kind: poll.Moved}
	}
	v := sp.follow(p, &m, w, start, st)
	if v.Kind == poll.Moved && m.Reserve() {
		p.Reserved = true
	}
	return v
}

// follow is wait for a stream: where a stream is between two events.
//
//go:noinline
func (sp *Spot) follow(p *poll.Poll, m *poll.Waiter, w http.ResponseWriter, start func(*poll.Resource), st Stream) poll.Verdict {
	done := p.Request.Context().Done()
	timer := time.NewTimer(min(st.Rest(), p.TimeLeft()))
	defer timer.Stop()
	for {
		parked := m.Parked()
		v, awaited := sp.step(p, m, w, start)
		switch v.Kind {
		case poll.Ready, poll.Hold:
			if end, more := sp.tell(p, m, w, v, st); !more {
				return end
			}
			if (v.Kind == poll.Ready || !parked) && p.TimeLeft() > 0 {
				continue // meanwhile there may be more to say, and who is parked may await something else
			}
			timer.Reset(min(st.Rest(), p.TimeLeft()))
		case poll.Ask:
		default:
			return v
		}
		select {
		case <-awaited:
		case <-done:
			return poll.Verdict{Kind: poll.Gone}
		case <-sp.Lot.Drained():
			return sp.drainOn(done, m.Parked())
		case <-timer.C:
			if p.TimeLeft() <= 0 {
				return poll.Verdict{Kind: poll.Expire}
			}
			if end, more := sp.beat(p, m, w, st); !more {
				return end
			}
			timer.Reset(min(st.Rest(), p.TimeLeft()))
		}
	}
}

// tell has st tell what there is to say. Who is told is parked: who can not be is not
// told.
//
//go:noinline
func (sp *Spot) tell(p *poll.Poll, m *poll.Waiter, w http.ResponseWriter, v poll.Verdict, st Stream) (end poll.Verdict, more bool) {
	s := m.Snapshot()
	if v.Kind == poll.Ready && !st.Begins(v.State) {
		return v, false
	}
	if !m.Parked() {
		if end, parked := sp.park(p, m, s, w); !parked {
			return end, false
		}
	}
	known := s.State
	if known != nil && (known.Unshared || !p.MayRead(known.State)) {
		known = nil
	}
	if !st.Tell(v, known) {
		return poll.Verdict{Kind: poll.Gone}, false
	}
	if v.Kind == poll.Ready {
		p.Heard(v.State)
		m.Told(s) // as a poll would that comes back
	}
	return v, true
}

// beat has st say a word in between, or begin before the first check has ended: a hop on
// the way may cut what is silent for longer.
//
//go:noinline
func (sp *Spot) beat(p *poll.Poll, m *poll.Waiter, w http.ResponseWriter, st Stream) (end poll.Verdict, more bool) {
	if end, more := sp.tell(p, m, w, poll.Verdict{Kind: poll.Hold}, st); !more {
		return end, false
	}
	return poll.Verdict{Kind: poll.Gone}, st.Beat()
}

// drainOn waits for the turn of a stream whose handler is drained.
func (sp *Spot) drainOn(done <-chan struct{}, parked bool) poll.Verdict {
	if parked {
		timer := time.NewTimer(sp.DrainDelay())
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-done:
		}
	}
	return poll.Verdict{Kind: poll.Drain}
}
