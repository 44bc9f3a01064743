package park

import (
	"net/http"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Stream is a client that is told more than once (contract 13). Its methods are called
// on the goroutine of its request, and may take their time: nobody else waits for them.
// After [Stream.Detach] they are called one at a time, and return at once.
type Stream interface {
	// Begun reports whether the stream has begun, Begins whether it can with s, or has, and
	// MayBegin whether it can with nothing to tell yet, or has, where known is known.
	Begun() bool
	Begins(s *state.Reading) bool
	MayBegin(known *state.Reading) bool

	// Tell tells the client what v says: of Ready its state, and of Hold that there is
	// nothing yet, known being what was known before, or what the backend fails with; nil
	// if nothing is. It reports whether the stream goes on.
	Tell(v poll.Verdict, known *state.Reading) (more bool)

	// Rest is how long the client may be left without a word from now on. Where it is
	// over, [Stream.Beat] says one.
	Rest() time.Duration
	Beat() (more bool)

	// Detach has c told all that the client is told, from its head on, without waiting
	// until it has taken that: then Taken is called.
	Detach(c Client)
	Taken()

	// End ends the stream, v being why, and says what is to be said then, between two
	// events. The error is [http.ErrAbortHandler] if the client has to see that it was cut.
	// Of a stream that has not begun the outcome is empty, and end what its client is
	// answered, as a poll.
	End(v poll.Verdict) (end poll.Verdict, err error)

	// Close counts the stream no more, whatever has ended it.
	Close()

	// Accept is that field as the client has sent it: its poll asks with another.
	Accept() []string
}

// Client is that of a stream that is detached.
type Client interface {
	// Header is that of the head, which goes out with what is said first.
	Header() http.Header

	// Say says some texts, which must not change any more, and reports whether the client
	// can still be told something.
	Say(texts ...[]byte) (ok bool)
}

// Follow waits with everybody who waits for the same as p, and has st tell its client what
// becomes of that, for as long as that goes on. The verdict is why it has ended, or did not
// begin. start is that of [Spot.Wait]. Who turns out to wait for something else after it has
// begun ends: by then the header is that of a stream, which what is checked for all is not to
// begin with.
//
//go:noinline
func (sp *Spot) Follow(p *poll.Poll, w http.ResponseWriter, start func(*poll.Resource), st Stream) poll.Verdict {
	sp.welcome(p)
	v := poll.Verdict{Kind: poll.Moved}
	for moves := 0; v.Kind == poll.Moved && moves < maxMoves && !st.Begun(); moves++ {
		if moves > 0 {
			p.Find(sp.Rules.Share.Memory.Of(p.Name))
		}
		v = sp.visitOn(p, w, start, st)
	}
	if v.Kind == poll.Moved {
		v.Kind = poll.Pass
	}
	if !p.ParkedAt.IsZero() && v.Kind != poll.Detached {
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
	timer := time.NewTimer(Pause(p, st))
	defer timer.Stop()
	for {
		v, awaited, more := sp.goOn(p, m, w, start, st)
		switch {
		case !more:
			return v
		case awaited == nil:
			continue
		}
		timer.Reset(Pause(p, st))
		select {
		case <-awaited:
		case <-done:
			return poll.Verdict{Kind: poll.Gone}
		case <-sp.Lot.Drained():
			return sp.drainOn(done, m.Parked())
		case <-timer.C:
			if end, more := sp.beat(p, m, w, start, st); !more {
				return end
			}
		}
	}
}

// Pause is how long a stream waits for what it awaits, before something else is to be done.
func Pause(p *poll.Poll, st Stream) time.Duration { return min(st.Rest(), p.TimeLeft()) }

// GoOn is goOn for a stream that waits elsewhere.
func (sp *Spot) GoOn(p *poll.Poll, m *poll.Waiter, st Stream) (v poll.Verdict, awaited <-chan struct{}, more bool) {
	return sp.goOn(p, m, nil, nil, st)
}

// goOn looks at what is known now, and has st tell what there is to say. It returns what is
// to be awaited before it is called again, nil if nothing is; or, without more, the end.
//
//go:noinline
func (sp *Spot) goOn(p *poll.Poll, m *poll.Waiter, w http.ResponseWriter, start func(*poll.Resource), st Stream) (v poll.Verdict, awaited <-chan struct{}, more bool) {
	parked := m.Parked()
	v, awaited = sp.step(p, m, w, start)
	switch v.Kind {
	case poll.Ready, poll.Hold:
		if end, more := sp.tell(p, m, w, start, v, st); !more {
			return end, nil, false
		}
		switch {
		case p.TimeLeft() <= 0:
			return poll.Verdict{Kind: poll.Expire}, nil, false
		case v.Kind == poll.Ready || !parked:
			awaited = nil // meanwhile there may be more to say, and who is parked may await something else
		}
		return v, awaited, true
	case poll.Ask:
		if w != nil && sp.detachStream(p, m, w, v, st) {
			return poll.Verdict{Kind: poll.Detached}, nil, false
		}
		return v, awaited, true
	}
	return v, nil, false
}

// detachStream has p, which has been told nothing, wait elsewhere, if it can. Before the
// first answer nobody knows what of the request it depends on, which can be asked for as
// long as the request is there.
//
//go:noinline
func (sp *Spot) detachStream(p *poll.Poll, m *poll.Waiter, w http.ResponseWriter, v poll.Verdict, st Stream) bool {
	if sp.Detach == nil || p.Attached || !m.Snapshot().Known() {
		return false
	}
	if p.Attached = !sp.Detach(p, *m, w, v, st); p.Attached {
		return false
	}
	*m = poll.Waiter{}
	return true
}

// tell has st tell what there is to say. Who is told is parked: who can not be is not
// told. Who is told for the first time leaves its goroutine before that, if it can.
//
//go:noinline
func (sp *Spot) tell(p *poll.Poll, m *poll.Waiter, w http.ResponseWriter, start func(*poll.Resource), v poll.Verdict, st Stream) (end poll.Verdict, more bool) {
	s := m.Snapshot()
	if v.Kind == poll.Ready && !st.Begins(v.State) {
		return v, false
	}
	if !m.Parked() {
		if end, parked := sp.park(p, m, s, w); !parked {
			return end, false
		}
	}
	if w != nil && m.Watch() {
		start(m.Resource) // before the header is that of a stream, and by who has not left
	}
	if v.Kind == poll.Hold && !st.MayBegin(known(p, s)) {
		return end, true
	}
	if w != nil { // what is told here can not be told elsewhere
		if sp.detachStream(p, m, w, v, st) {
			return poll.Verdict{Kind: poll.Detached}, false
		}
		p.Attached = true
	}
	return sp.Tell(p, m, v, st)
}

// Tell has st tell a client that is parked what v says, which is Ready or Hold. Without more
// the verdict is the end.
func (sp *Spot) Tell(p *poll.Poll, m *poll.Waiter, v poll.Verdict, st Stream) (end poll.Verdict, more bool) {
	s := m.Snapshot()
	if !st.Tell(v, known(p, s)) {
		return poll.Verdict{Kind: poll.Gone}, false
	}
	if v.Kind == poll.Ready {
		p.Heard(v.State)
		m.Told(s) // as a poll would that comes back
	}
	return v, true
}

// known is what p may know: the state, or else what the last check has failed with; nil if
// there is neither.
func known(p *poll.Poll, s *poll.Snapshot) *state.Reading {
	switch st := s.State; {
	case st != nil && !st.Unshared && p.MayRead(st.State):
		return st
	case s.Failed():
		return p.FaultOf(s)
	}
	return nil
}

// Beat is beat for a stream that waits elsewhere.
func (sp *Spot) Beat(p *poll.Poll, m *poll.Waiter, st Stream) (end poll.Verdict, more bool) {
	return sp.beat(p, m, nil, nil, st)
}

// beat is called when the [Pause] of a stream is over: it ends, or says a word in between,
// or begins before the first check has ended: a hop on the way may cut what is silent for
// longer.
//
//go:noinline
func (sp *Spot) beat(p *poll.Poll, m *poll.Waiter, w http.ResponseWriter, start func(*poll.Resource), st Stream) (end poll.Verdict, more bool) {
	if p.TimeLeft() <= 0 {
		return poll.Verdict{Kind: poll.Expire}, false
	}
	if end, more := sp.tell(p, m, w, start, poll.Verdict{Kind: poll.Hold}, st); !more {
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
