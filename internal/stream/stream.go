package stream

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
	"weak"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/delta"
	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/reply"
	"github.com/caddy-longpoll/caddy-longpoll/internal/sse"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Writer is what tells the streams of one handler.
type Writer struct {
	*Options
	Spot    *park.Spot
	Replies *reply.Writer
	Count   func(format string) // called for each event
	Open    func(n int)         // called with 1 when a stream begins, and with -1 when it ends
}

// Format is that in which r wants to be told each change; empty if it does not, or not in
// one that is allowed.
func (sw *Writer) Format(r *http.Request) Format {
	if len(sw.Stream) == 0 || r.Method != http.MethodGet {
		return ""
	}
	offered := make([]string, 0, len(kinds)) // on the stack
	for _, format := range sw.Stream {
		offered = append(offered, Format(format).kind())
	}
	kind := httphdr.Preferred(r.Header, offered)
	for _, format := range sw.Stream {
		if kind == Format(format).kind() {
			return Format(format)
		}
	}
	return ""
}

// Follow makes a stream's poll of p, before it is asked for.
func (sw *Writer) Follow(p *poll.Poll) {
	p.Follow(httphdr.WithoutTypes(p.Request.Header, kinds), time.Duration(*sw.StreamTimeout))
}

// Serve tells the client of p each change, who has sent r. start has a resource checked on
// behalf of p, which is that of r afterwards. The verdict is [poll.Detached] if it is told
// elsewhere from now on. The outcome is [poll.Streamed] if there was a stream. Else the verdict is for others to
// answer: [poll.Pass] too, where nobody shares what the backend says. The error is
// [http.ErrAbortHandler] of a stream that was cut, and that must not look as if it had ended between two events.
func (sw *Writer) Serve(p *poll.Poll, r *http.Request, w http.ResponseWriter, f Format, start func(*poll.Resource)) (v poll.Verdict, err error) {
	l := &line{Writer: sw, p: p, w: w, accepted: slices.Clone(r.Header["Accept"]), format: f, spoken: time.Now()}
	defer func() {
		if v.Kind != poll.Detached {
			l.Close()
			p.Request = r
		}
	}()
	if v = sw.Spot.Follow(p, w, start, l); v.Kind == poll.Detached {
		return v, nil
	}
	defer park.RestartDeadlines(p, w)
	return l.End(v)
}

// errNoText is of a body that can not be told by a stream.
var errNoText = errors.New("the body is no UTF-8 text, which a stream can not tell")

// line is one stream.
type line struct {
	*Writer
	p        *poll.Poll
	w        http.ResponseWriter // nil once it is detached
	detached park.Client         // nil until it is
	accepted []string            // the client's Accept; a copy, for all fields of a request are one piece of memory
	format   Format
	begun    bool
	told     bool // the first event is out
	cut      bool // its client has not taken all of what it was told
	spoken   time.Time
	heard    weak.Pointer[delta.State] // what the client has been told last, if that is something that a patch can be made of: for as long as a history has it, since a client that is silent keeps no body
}

// Begun reports whether the head was sent.
func (l *line) Begun() bool { return l.begun }

// Begins reports whether the stream can begin with s: an answer that is no 2xx is told as
// it is, and so is what is no text.
func (l *line) Begins(s *state.Reading) bool {
	return l.begun || s.Code()/100 == 2 && l.event(s) != nil
}

// MayBegin reports whether the head can be sent where there is nothing to tell, and known
// is known. A page of another origin may read it only if the head says so, and the
// EventSource of a page that may not does not come back. So as long as the backend fails
// and nobody has said who may read what it says, such a page waits for the head.
func (l *line) MayBegin(known *state.Reading) bool {
	return l.begun || !httphdr.FromAnotherOrigin(l.p.Request) ||
		known != nil && !failed(known) || l.Replies.Admits(known, l.header())
}

// failed reports whether s is what the backend fails with, and no state of the resource.
func failed(s *state.Reading) bool { return s.Fault() && !s.Held }

// Tell writes an event, or begins the stream for those there is nothing to tell yet.
func (l *line) Tell(v poll.Verdict, known *state.Reading) bool {
	if !l.begun {
		if v.State != nil {
			known = v.State
		}
		l.begin(known, v.State != nil)
		if alone := l.detached == nil || v.Kind == poll.Hold; alone && !l.say() {
			return false
		}
	}
	if v.Kind == poll.Hold {
		return true
	}
	s := v.State
	event := l.patch(s)
	if event == nil {
		event = l.event(s)
	}
	if l.heard = (weak.Pointer[delta.State]{}); s.History != nil && s.Code()/100 == 2 {
		l.heard = weak.Make(s.History.Present())
	}
	switch {
	case event == nil || !l.write(event):
		return false
	case s.Code()/100 != 2:
		return s.Code() != http.StatusUnauthorized && s.Code() != http.StatusForbidden
	}
	return true
}

// begin sends the head. s is what is known, or what the backend fails with, and what it
// says of who may read it; nil if there is neither. present says that it is how things are.
func (l *line) begin(s *state.Reading, present bool) {
	l.begun = true
	l.Open(1)
	defer l.p.Reclaim()() // handlers in front may look placeholders up as the head goes by
	l.p.Outcome, l.p.Told = poll.Streamed, s
	header := l.header()
	if s != nil {
		l.Replies.Admit(l.p, header)
		for _, cookie := range s.Renewed {
			header.Add("Set-Cookie", cookie)
		}
		if failed(s) {
			l.p.Told = nil // `header` is to speak of no version that a client could name
		}
	}
	for name := range header {
		if httphdr.OfRepresentation(name) {
			delete(header, name)
		}
	}
	header.Del("Etag")
	if s != nil && present && s.ETag != "" && s.Code()/100 == 2 {
		header["Etag"] = []string{s.ETag}
	}
	header.Del("Last-Modified")
	header.Del("Expires")
	header["Cache-Control"] = []string{"no-store"}
	header["X-Accel-Buffering"] = []string{"no"}
	header["Incremental"] = []string{"?1"} // an encode in front would keep the head of lines back
	header["Content-Type"] = []string{l.format.kind()}
	l.Replies.Mark(l.p, header)
	if l.detached == nil {
		l.w.WriteHeader(http.StatusOK)
	}
	l.p.Told = nil // or its answer would be kept for as long as the stream lasts
}

// Rest is how long the client may be left without a byte.
func (l *line) Rest() time.Duration { return time.Until(l.spoken.Add(time.Duration(*l.Heartbeat))) }

// Beat says that the stream lives. One that has not begun is looked at again after as long.
func (l *line) Beat() bool {
	switch {
	case !l.begun:
		l.spoken = time.Now()
		return true
	case l.Rest() > 0:
		return true
	}
	text := sse.Heartbeat
	if l.format == NDJSON {
		text = sse.LineHeartbeat
	}
	return l.say([]byte(text))
}

// write writes an event, the first one with what says when to come back.
func (l *line) write(event []byte) bool {
	l.Count(string(l.format))
	if l.format == SSE && !l.told {
		l.told = true
		return l.say(l.retry(), event)
	}
	l.told = true
	return l.say(event)
}

// retry says when to come back, which is not the same for all: in 1 to 5 seconds.
func (l *line) retry() []byte {
	return sse.AppendRetry(nil, time.Second+rand.N(4*time.Second))
}

// header is that of the head.
func (l *line) header() http.Header {
	if l.detached != nil {
		return l.detached.Header()
	}
	return l.w.Header()
}

// Detach has c told all that the client is told.
func (l *line) Detach(c park.Client) { l.detached, l.w = c, nil }

// Taken notes that the client has taken what it was told.
func (l *line) Taken() { l.spoken = time.Now() }

// Accept is that field of the client's request.
func (l *line) Accept() []string { return l.accepted }

// End ends the stream, v being why: it says, between two events, when to come back, if that
// has not been said yet. One that has not begun is answered as a poll, unless its time is up:
// who reads events and gets anything else does not come back.
func (l *line) End(v poll.Verdict) (end poll.Verdict, err error) {
	over := v.Kind == poll.Drain || v.Kind == poll.Expire || v.Kind == poll.Pass && l.Spot.Lot.IsDrained()
	switch {
	case !l.begun && over && !l.MayBegin(v.State):
		l.p.Outcome = poll.Streamed
		return v, http.ErrAbortHandler // who loses the connection comes back
	case !l.begun && over:
		l.begin(v.State, false)
	case !l.begun && v.Kind == poll.Ready && v.State.Code()/100 == 2:
		s := state.Failure(caddyhttp.Error(http.StatusNotAcceptable, errNoText), http.StatusNotAcceptable)
		return poll.Verdict{Kind: poll.Ready, State: &state.Reading{State: s, Since: v.State.Since}}, nil
	case !l.begun:
		return v, nil
	}
	if l.format == SSE && !l.told && !l.cut {
		l.say(l.retry(), []byte{'\n'})
	}
	if l.cut {
		return v, http.ErrAbortHandler
	}
	return v, nil
}

// Close counts the stream no more, whatever has ended it.
func (l *line) Close() {
	if l.begun {
		l.Open(-1)
	}
}
