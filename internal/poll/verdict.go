package poll

import (
	"errors"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/sse"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Verdict is what becomes of a poll, seen from a snapshot, and the state that it is
// told, if it is told one.
type Verdict struct {
	Kind
	State *state.Reading
}

// Kind is what kind of end a poll comes to, or that it does not yet.
type Kind int

const (
	Hold     Kind = iota // it waits: the client has what there is
	Ask                  // a check has to be made first
	Ready                // there is something to say
	Same                 // there is nothing to say, but it must not wait
	Expire               // its time is up
	Patience             // its time is up, and it waits on: the check that tells is about to be made, or in flight
	Drain                // it is released early
	Fault                // it gets the backend's error
	Refuse               // a bound forbids to park it
	Gone                 // its client has left
	Moved                // it waits for something else than those it has joined
	Pass                 // it asks the backend for itself
	Detached             // it waits elsewhere, and is told there
)

// has reports whether the client has the version of s.
func (p *Poll) has(s *state.Reading) bool {
	switch {
	case p.byID:
		return sse.ID(s.Version.Text) == p.since
	case p.since != "":
		return s.Version.Is(p.since) || p.rules.Version == "" && s.ETag != "" && httphdr.Opaque(p.since) == httphdr.Opaque(s.ETag)
	case p.tags != nil:
		return s.Matches(p.tags)
	case !p.date.IsZero():
		modified := s.Modified()
		return !modified.IsZero() && !modified.After(p.date)
	}
	return false
}

// HasTag reports whether the client has what is known by an entity tag, by what its
// request says whoever put it there.
func (p *Poll) HasTag(etag string) bool {
	for _, field := range p.Request.Header["If-None-Match"] {
		if state.MatchesTag(httphdr.SplitTags(field), etag) {
			return true
		}
	}
	return false
}

// Holds reports whether a client that asks this has to wait, s being what the backend
// answers (contract 3.2, 3.3, 3.5 and 3.6).
func (p *Poll) Holds(s *state.Reading) bool {
	return p.heldBack(s) || p.waits() && p.Current(s)
}

// heldBack reports whether what the backend answers holds the client, whatever it has.
func (p *Poll) heldBack(s *state.Reading) bool {
	for i := range p.rules.HoldWhile {
		c := &p.rules.HoldWhile[i]
		if c.True(p.value(c.Value, s), func(text string) string { return p.value(text, s) }, s.State) {
			return true
		}
	}
	return false
}

// waits reports whether the version that the client has can hold it: a cache that
// revalidates wants to know at once (contract 3.7).
func (p *Poll) waits() bool { return p.Asks() || p.rules.ParkUnnamed }

// Current reports whether the client has what s is. Only a 2xx is something to have
// (RFC 9110, section 13.2.1).
func (p *Poll) Current(s *state.Reading) bool {
	switch {
	case p.follows && p.parked != nil:
		return *p.parked == s.Version
	case s.Code()/100 != 2:
		return false
	case p.parked == nil:
		return p.has(s) || p.awaitsFirst()
	case !p.date.IsZero() || p.awaitsFirst():
		// A date may fit several versions, and silence fits all: what the request
		// was parked on tells them apart.
		return *p.parked == s.Version
	default:
		return p.parked.Status == s.Code() && p.has(s)
	}
}

// ParkOn notes that the poll is parked on s. It reports whether it is held by the
// version that its client has, and not by what the backend says.
func (p *Poll) ParkOn(s *state.Reading) bool {
	if p.parked == nil && p.waits() && p.Current(s) {
		version := s.Version // a copy: a pointer into s would keep its answer as long as the client is parked
		p.parked = &version
		p.shorten(s)
	}
	return p.parked != nil
}

// maxTags bounds how many entity tags are kept of a client that is parked.
const maxTags = 32

// shorten keeps of a long list of entity tags the one that s has: the others are memory
// for as long as the client is parked, and mean no more than that it gets what it has
// once had, should the backend go back to that.
func (p *Poll) shorten(s *state.Reading) {
	if len(p.tags) <= maxTags {
		return
	}
	for _, tag := range p.tags {
		if s.Matches([]string{tag}) {
			p.tags = []string{strings.Clone(tag)}
			p.Request.Header["If-None-Match"] = p.tags
			return
		}
	}
}

// awaitsFirst reports whether the client waits for the first change after its
// arrival.
func (p *Poll) awaitsFirst() bool { return p.rules.ParkUnnamed && !p.Named() }

// Look judges a snapshot.
func (p *Poll) Look(m *Waiter, s *Snapshot) Verdict {
	if p.follows {
		return p.lookOn(m, s)
	}
	if s.Failed() {
		if v, ok := p.lookAtFault(m, s); ok {
			return v
		}
	}
	if !s.Known() {
		return Verdict{Kind: Ask}
	}
	st := s.State
	if st.Unshared {
		return p.lookAtUnshared(st)
	}
	if !p.MayRead(st.State) {
		return Verdict{Kind: Moved}
	}
	recent := p.Recent(m, s)
	switch holds := p.Holds(st); {
	case !holds && !recent:
		return Verdict{Ask, st} // it may be older than what the client has
	case !holds && p.Current(st):
		return Verdict{Same, st}
	case !holds:
		return Verdict{Ready, st}
	case m.Parked() && p.Limit > 0:
		return Verdict{Hold, st}
	case !recent && (p.Limit == 0 || p.awaitsFirst()):
		return Verdict{Ask, st}
	case m.Parked():
		return Verdict{Expire, st}
	case p.Limit == 0:
		return Verdict{Same, st}
	}
	return Verdict{Hold, st}
}

// lookAtUnshared has the poll ask for itself, where another has been told not long ago that
// each has to.
func (p *Poll) lookAtUnshared(st *state.Reading) Verdict {
	if time.Since(st.Ended) < max(p.rules.Linger, p.rules.Interval) {
		return Verdict{Kind: Pass}
	}
	return Verdict{Kind: Ask}
}

// lookAtFault judges a snapshot whose last check has failed (contract 7.7). It reports
// false where what was known before is to be looked at.
func (p *Poll) lookAtFault(m *Waiter, s *Snapshot) (v Verdict, ok bool) {
	known := s.Known() && !s.State.Unshared && p.MayRead(s.State.State)
	if s.Fault.Stale {
		// What the backend says of a nonce is no news of the resource: who is parked
		// comes back with another nonce, who has just asked is to see the challenge.
		switch {
		case m.Parked() && known:
			return Verdict{Expire, s.State}, true
		case m.Parked() || m.Tried(s):
			return Verdict{Ready, p.fault(s).State}, true
		}
		return Verdict{Kind: Ask}, true
	}
	switch {
	case m.Parked():
		if p.rules.Release || p.Limit == 0 && m.Tried(s) {
			return p.fault(s), true
		}
		return Verdict{}, false
	case m.Tried(s), p.freshFault(s):
		return p.fault(s), true
	case known && !p.rules.Release && p.Limit > 0 && p.waits() && p.Current(s.State):
		return Verdict{Hold, s.State}, true // it has what was known last, and waits with the others
	case m.Pause() > 0:
		return p.fault(s), true
	}
	return Verdict{Kind: Ask}, true
}

// freshFault reports whether the fault of s is no older than what `freshness` allows.
func (p *Poll) freshFault(s *Snapshot) bool {
	return p.rules.Freshness > 0 && !s.Fault.Ended.Before(p.Arrived.Add(-p.rules.Freshness))
}

// FaultOf is what the last check has failed with, as the poll may be told it.
func (p *Poll) FaultOf(s *Snapshot) *state.Reading { return p.fault(s).State }

// fault has the poll told what the last check has failed with, or, where that is not
// for everybody, its status.
func (p *Poll) fault(s *Snapshot) Verdict {
	f := s.Fault
	if f.Owner != p.ID && !p.MayRead(f.State) {
		status := f.Code()
		bare := *f
		bare.State = state.Failure(caddyhttp.Error(status, errNotForAll), status)
		f = &bare
	}
	return Verdict{Fault, f}
}

// errNotForAll stands for an error that is somebody else's.
var errNotForAll = errors.New("the backend's error is not for everybody who waits")

// MaxRestless is after how many checks in a row that polls asked for, each of which
// found another version, the next one that a poll asks for waits for its turn: what is
// different each time (a nonce, the time in the body) would be asked for without end
// (contract 3.9).
const MaxRestless = 4

// MaxBlind is after how many changes of the backend's ETag in a row, none of which
// ignore_match has left anything of, an operator is asked whether it matches too much.
const MaxBlind = 3

// Recent reports whether the state of s was read by a check that began after the poll
// had come, or is no older than what `freshness` allows (contract 7.3).
func (p *Poll) Recent(m *Waiter, s *Snapshot) bool {
	return m.Asked(s) || p.rules.Freshness > 0 && !s.Began.Before(p.Arrived.Add(-p.rules.Freshness))
}

// TimeUp judges a snapshot for a poll whose time is up. It is never Hold or Ask: where
// there is nothing to say yet, [Patience] has the poll wait for its check a little longer.
func (p *Poll) TimeUp(m *Waiter, s *Snapshot) Verdict {
	v := p.Look(m, s)
	switch {
	case v.Kind != Hold && v.Kind != Ask:
		return v
	case m.Parked() && p.Truthful(m, s):
		if p.Draining {
			return Verdict{Drain, s.State}
		}
		return Verdict{Expire, s.State}
	case s.Failed():
		return p.fault(s)
	case p.Draining:
		return Verdict{Kind: Pass} // what has changed is not known well enough to be told
	case (!m.Parked() || v.Kind == Ask) && time.Since(p.Arrived) < p.rules.patience():
		return Verdict{Kind: Patience}
	}
	err := caddyhttp.Error(overdueStatus, state.ErrOverdue)
	return Verdict{Fault, &state.Reading{State: state.Failure(err, overdueStatus)}}
}

// overdueStatus is that of RFC 9110, section 15.6.5.
const overdueStatus = 504

// Truthful reports whether the client can be told that what s says is still so: either
// that was read after the poll had come, or it is what the client itself has named and
// nothing is known to the contrary. A drain can not wait for another check: a client that
// has named no version is told what is known, and can not be sent back in time by it.
func (p *Poll) Truthful(m *Waiter, s *Snapshot) bool {
	return p.Recent(m, s) || !s.Failed() && (p.Current(s.State) || p.Draining && !p.Named())
}

// TimeLeft is how long the poll waits before TimeUp is asked.
func (p *Poll) TimeLeft() time.Duration {
	if p.Limit == 0 {
		return p.PatienceLeft() // for a check, not parked
	}
	return time.Until(p.Arrived.Add(p.Limit))
}

// PatienceLeft is how long the poll waits, after a verdict of [Patience], before TimeUp is
// asked once more.
func (p *Poll) PatienceLeft() time.Duration { return time.Until(p.Arrived.Add(p.rules.patience())) }

// patience is how long a poll that is not parked may wait for its first check, where
// many others are checked before it: `hold`, or two times `check_timeout`, for the check
// in flight and its own, if that is longer.
func (ru *Rules) patience() time.Duration { return max(ru.Hold, 2*ru.CheckTimeout) }

// NeedBy is when a poll that is held by what the backend says has to be told what it
// has said since: a little before its time is up.
func (p *Poll) NeedBy() time.Time {
	return p.Arrived.Add(p.Limit - min(p.Limit/4, p.rules.CheckTimeout))
}
