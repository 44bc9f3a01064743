package poll

import (
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
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
	Hold   Kind = iota // it waits: the client has what there is
	Ask                // a check has to be made first
	Ready              // there is something to say
	Same               // there is nothing to say, but it must not wait
	Expire             // its time is up
	Drain              // it is released early
	Fault              // it gets the backend's error
	Refuse             // a bound forbids to park it
	Gone               // its client has left
	Moved              // it waits for something else than those it has joined
	Pass               // it asks the backend for itself
)

// has reports whether the client has the version of s.
func (p *Poll) has(s *state.Reading) bool {
	switch {
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

// Holds reports whether a client that asks this has to wait, s being what the backend
// answers (contract 3.2, 3.3, 3.5 and 3.6).
func (p *Poll) Holds(s *state.Reading) bool {
	for i := range p.rules.HoldWhile {
		if c := &p.rules.HoldWhile[i]; c.True(p.value(c.Value, s)) {
			return true
		}
	}
	return p.Current(s)
}

// Current reports whether the client has what s is. Only a 2xx is something to have
// (RFC 9110, section 13.2.1).
func (p *Poll) Current(s *state.Reading) bool {
	switch {
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
	if p.parked == nil && p.Current(s) {
		p.parked = &s.Version
	}
	return p.parked != nil
}

// awaitsFirst reports whether the client waits for the first change after its
// arrival.
func (p *Poll) awaitsFirst() bool { return p.rules.ParkUnnamed && !p.Named() }

// Look judges a snapshot.
func (p *Poll) Look(m *Waiter, s *Snapshot) Verdict {
	if s.Failed() {
		if m.Parked() && p.rules.Release || !m.Parked() && m.Tried(s) {
			return Verdict{Fault, s.Fault}
		}
		if !m.Parked() {
			return Verdict{Kind: Ask} // nobody is parked on a state that can not be read any more
		}
	}
	if !s.Known() {
		return Verdict{Kind: Ask}
	}
	st := s.State
	if st.Unshared {
		if time.Since(st.Ended) < max(p.rules.Linger, p.rules.Interval) {
			return Verdict{Kind: Pass}
		}
		return Verdict{Kind: Ask}
	}
	if !p.MayRead(st.State) {
		return Verdict{Kind: Moved}
	}
	recent := p.Recent(m, s)
	switch holds := p.Holds(st); {
	case !holds && !recent:
		return Verdict{Ask, st} // it may be older than what the client has
	case !holds:
		return Verdict{Ready, st}
	case m.Parked():
		return Verdict{Hold, st}
	case !recent && (p.Limit == 0 || p.awaitsFirst()):
		return Verdict{Ask, st}
	case p.Limit == 0:
		return Verdict{Same, st}
	}
	return Verdict{Hold, st}
}

// Recent reports whether the state of s is no older than the question, or than what
// `freshness` allows (contract 7.3).
func (p *Poll) Recent(m *Waiter, s *Snapshot) bool {
	return m.Asked(s) || p.rules.Freshness > 0 && !s.Began.Before(p.Arrived.Add(-p.rules.Freshness))
}

// TimeUp is what becomes of a poll whose time is up: Hold if there is nothing to say
// yet, and it may wait for its first check a little longer.
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
		return Verdict{Fault, s.Fault}
	case p.Draining:
		return Verdict{Kind: Pass} // what has changed is not known well enough to be told
	case (!m.Parked() || v.Kind == Ask) && time.Since(p.Arrived) < p.rules.patience():
		return Verdict{Kind: Hold} // the check that tells is about to be made, or in flight
	}
	err := caddyhttp.Error(overdueStatus, state.ErrOverdue)
	return Verdict{Fault, &state.Reading{State: state.Failure(err, overdueStatus)}}
}

// overdueStatus is that of RFC 9110, section 15.6.5.
const overdueStatus = 504

// Truthful reports whether the client can be told that what s says is still so: that
// was read after it asked, or it is what the client itself has said and nothing is
// known to the contrary. A drain can not wait for another check: who has named no
// version is told what is known, and can not be sent back in time by it.
func (p *Poll) Truthful(m *Waiter, s *Snapshot) bool {
	return p.Recent(m, s) || !s.Failed() && (p.Current(s.State) || p.Draining && !p.Named())
}

// Patience is how long the poll waits before TimeUp is asked.
func (p *Poll) Patience() time.Duration {
	if p.Limit == 0 {
		return p.rules.patience() // for a check, not parked
	}
	return time.Until(p.Arrived.Add(p.Limit))
}

// LastPatience is how long the poll waits before TimeUp is asked once more.
func (p *Poll) LastPatience() time.Duration { return time.Until(p.Arrived.Add(p.rules.patience())) }

// patience is how long a request that is not parked may wait for its first check,
// where many others are checked before it: as long as without us, which is the one
// in flight and one more.
func (ru *Rules) patience() time.Duration { return max(ru.Hold, 2*ru.CheckTimeout) }

// NeedBy is when a poll that is held by what the backend says has to be told what it
// has said since: a little before its time is up.
func (p *Poll) NeedBy() time.Time {
	return p.Arrived.Add(p.Limit - min(p.Limit/4, p.rules.CheckTimeout))
}

// Condition is one `hold_while`.
type Condition struct {
	// Text with placeholders, such as `{lp.json.status}`.
	Value string `json:"value,omitempty"`

	// `is` (the value is one of the literals), `not` (it is none of them) or
	// `empty` (it is missing, blank, null, [] or {}).
	Op string `json:"op,omitempty"`

	// What the value is compared with.
	Literals []string `json:"literals,omitempty"`
}

// True reports whether the condition is true of value.
func (c *Condition) True(value string) bool {
	switch c.Op {
	case "empty":
		value = strings.TrimSpace(value)
		if last := len(value) - 1; last > 0 && (value[0] == '[' && value[last] == ']' || value[0] == '{' && value[last] == '}') {
			return strings.TrimSpace(value[1:last]) == ""
		}
		return value == "" || value == "null" || value == `""`
	case "not":
		return !slices.Contains(c.Literals, value)
	default:
		return slices.Contains(c.Literals, value)
	}
}
