package poll

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/delta"
	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/sse"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Follow makes of p a poll that goes on after it has been told something, for at most
// timeout, which the jitter shortens: a stream (contract 13). It is asked with accept in
// place of its Accept field, so that it shares with who asks for the same otherwise. To
// be called before Ask.
func (p *Poll) Follow(accept string, timeout time.Duration) {
	r := p.Request.WithContext(p.Request.Context())
	r.Header = r.Header.Clone()
	delete(r.Header, "Accept")
	if accept != "" {
		r.Header["Accept"] = []string{accept}
	}
	p.Request = r
	p.follows, p.says, p.asks = true, true, true
	p.Limit = timeout - time.Duration(rand.Float64()*p.rules.Jitter/100*float64(timeout))
}

// Follows reports whether p is the poll of a stream.
func (p *Poll) Follows() bool { return p.follows }

// readLastEvent finds the version that the client of a stream has.
func (p *Poll) readLastEvent() {
	if id := lastEvent(p.Request.Header); id != "" {
		p.since, p.byID = id, true
		return
	}
	p.readSince()
}

// lastEvent is the id that a client has been told last; empty if it says none.
func lastEvent(header http.Header) string { return header.Get("Last-Event-ID") }

// Heard notes that the client of a stream has been told s: it waits for what comes next.
func (p *Poll) Heard(s *state.Reading) {
	version := s.Version // a copy, as in ParkOn
	p.parked = &version
	p.since, p.byID, p.tags, p.date = "", false, nil, time.Time{}
}

// lookOn judges a snapshot for a stream. An outage is waited out, whatever on_error says:
// who reads events and once got an error does not come back.
func (p *Poll) lookOn(m *Waiter, s *Snapshot) Verdict {
	if s.Failed() {
		return p.lookOnFault(m, s)
	}
	switch st := s.State; {
	case !s.Known():
		return Verdict{Kind: Ask}
	case st.Unshared:
		return p.lookAtUnshared(st)
	case !p.MayRead(st.State):
		return Verdict{Kind: Moved}
	case p.Holds(st):
		if p.parked == nil && p.awaitsFirst() && !p.Recent(m, s) {
			return Verdict{Ask, st} // the first change after its arrival is one to what was then
		}
		return Verdict{Hold, st}
	case !p.Recent(m, s):
		return Verdict{Ask, st} // it may be older than what the client has
	default:
		return Verdict{Ready, st}
	}
}

// lookOnFault is lookOn where the last check has failed.
func (p *Poll) lookOnFault(m *Waiter, s *Snapshot) Verdict {
	known := s.Known() && !s.State.Unshared && p.MayRead(s.State.State)
	switch {
	case s.Fault.Stale && m.Parked():
		return Verdict{Kind: Expire} // it comes back with another nonce
	case s.Fault.Stale && m.Tried(s):
		return Verdict{Ready, p.fault(s).State}
	case s.Fault.Stale, !m.Parked() && !m.Tried(s) && !p.freshFault(s) && m.Pause() == 0:
		return Verdict{Kind: Ask}
	case known && p.Recent(m, s) && !p.Holds(s.State):
		return Verdict{Ready, s.State}
	case m.Parked() && s.Known() && !(known && p.Holds(s.State)):
		return Verdict{Kind: Ask} // what it awaits may be what was known, and so no change to anybody else
	}
	return Verdict{Kind: Hold}
}

// Reclaim has no check look up the placeholders of the request, which tell what p was told
// too, until the returned function is called: a stream is told while checks are made on
// its behalf.
func (p *Poll) Reclaim() (lend func()) {
	if p.Lent == nil {
		return func() {}
	}
	p.Lent.Lock()
	return p.Lent.Unlock
}

// Names reports whether the client has named the version of s, which was before. The
// client of a stream that names several is not told of which of them a patch is.
func (p *Poll) Names(s *delta.State) bool {
	switch {
	case p.byID:
		return sse.ID(s.Version) == p.since
	case p.since != "":
		return s.Version == p.since || p.rules.Version == "" && s.Tag != "" && httphdr.Opaque(p.since) == httphdr.Opaque(s.Tag)
	}
	return s.Tag != "" && !(p.follows && len(p.tags) > 1) && !slices.Contains(p.tags, "*") && state.MatchesTag(p.tags, s.Tag)
}
