// Package check asks the handlers behind us once, on behalf of all who wait for the
// answer. It knows neither where a poll waits nor what it is told.
package check

import (
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
	"github.com/caddy-longpoll/caddy-longpoll/internal/tap"
)

// Checker is the part of the configuration that the checks of a handler are made by, and
// what they have in common. It makes a [Backend] for each resource.
type Checker struct {
	*poll.Rules
	Probe    *Probe
	OnChange bool      // on_change gives the body of an answer
	Slots    tap.Slots // max_checks

	Asked       func()                          // called for each request to the handlers behind us
	Panicked    func(message string, p any)     // called by what has recovered from p
	Unversioned func(name lot.Name, status int) // called where `version` gives nothing for a 2xx

	wanted     wanted
	lastPreset atomic.Pointer[http.Header]
	lastWay    atomic.Pointer[way]
	alike      share.Alike
}

// Probe is a cheap URI that is checked in place of the resource.
type Probe struct {
	// Default: GET.
	Method string `json:"method,omitempty"`

	// Path and query, with placeholders.
	URI string `json:"uri,omitempty"`
}

// Acquire waits until a check may begin, which takes one of the places of max_checks;
// it returns false if abandoned is closed before: then nobody needs it any more.
func (b *Backend) Acquire(abandoned <-chan struct{}) bool {
	b.slot = b.c.Slots.Acquire(abandoned)
	return b.slot != nil
}

// Release gives back what Acquire took, where no check is made.
func (b *Backend) Release() { b.slot.Release() }

// Check finds out what the backend says now, and gives back what Acquire took. last is
// what is known so far. It returns nil if abandoned was closed before there was an answer:
// then nobody needs it any more.
func (b *Backend) Check(last *poll.Snapshot, abandoned <-chan struct{}) (now *state.State) {
	// Placeholders of other modules, and what decodes the backend's bytes, run on the
	// poller's goroutine, where nobody else would recover.
	defer func() {
		b.abandoned = nil // not kept during a pause
		if p := recover(); p != nil {
			b.c.Panicked("a check panicked", p)
			b.slot.Release()
			now = state.Failure(asHandlerError(tap.ErrAborted), http.StatusBadGateway)
			now.Owner = b.ID
		}
	}()
	old := last.State.Known()
	b.abandoned, b.retries = abandoned, !last.Failed()
	what := b.ask(old)
	if errors.Is(what.err, errAbandoned) {
		return nil
	}
	now = b.conclude(what, old)
	now.Settle()
	return now
}

// finding is what an exchange came to, or two of them: of a probe, and of the resource.
type finding struct {
	answer *state.Answer // of the resource; nil if it was not asked
	source *state.Answer // what the version is read from; nil if err is not
	err    error
	kept   *state.State // whose answer is still good, where only the probe was asked
}

// ask reads the resource, or the probe, and, where that says that something has
// changed and somebody will want to read it, the resource too.
func (b *Backend) ask(old *state.State) finding {
	if b.c.Probe == nil {
		var has *state.Answer
		if old != nil {
			has = old.Answer
		}
		a, err := b.revalidate(has, nil, "")
		return finding{answer: a, source: a, err: err}
	}
	uri, err := probeURL(b.c.Probe.URI, b.replacer(old))
	if err != nil {
		b.slot.Release()
		return finding{err: err}
	}
	var has *state.Answer
	if old != nil {
		has = old.Source
	}
	p, err := b.revalidate(has, uri, b.c.Probe.Method)
	switch {
	case err != nil:
		return finding{err: err}
	case state.Outage(p.Status), b.c.OnChange:
		return finding{answer: p, source: p}
	case old != nil && old.Answer != nil && old.Version == b.version(p, old):
		return finding{source: p, kept: old}
	}
	if !b.Acquire(b.abandoned) {
		return finding{err: errAbandoned}
	}
	a, err := b.revalidate(nil, nil, "")
	if a != nil && state.Outage(a.Status) {
		p = a // it is the resource that fails, whatever the probe says
	}
	return finding{answer: a, source: p, err: err}
}

// conclude makes a state of what was found. It is the only place where a state is made of
// what a check has read.
func (b *Backend) conclude(what finding, old *state.State) *state.State {
	s := &state.State{Answer: what.answer, Source: what.source, Owner: b.ID}
	switch {
	case errors.Is(what.err, tap.ErrUnshared):
		s.Unshared = true
	case what.err != nil:
		var header http.Header
		var f failed
		if errors.As(what.err, &f) {
			what.err, s.ErrFields, header = f.error, f.fields, f.fields.Header
		}
		s.Err = asHandlerError(what.err)
		s.Version.Status = errorStatus(what.err)
		s.Answer, s.Source = nil, nil
		b.depend(s, header)
	default:
		s.Version = b.version(what.source, old)
		if s.Answer != nil {
			s.ETag = b.c.State.ETag(s.Answer, s.Version)
			s.Stale = s.Answer.Status == http.StatusUnauthorized && httphdr.Stale(s.Answer.Header)
			b.renew(s.Answer.Cookies)
			b.depend(s, s.Answer.Header)
			s.Unshared = b.unseen(s.Answer, s.Version)
		}
		if k := what.kept; k != nil {
			s.Answer, s.ETag, s.Variation, s.Varied = k.Answer, k.ETag, k.Variation, k.Varied
		}
	}
	s.Renewed = b.renewed
	s.Held = s.Fault() && b.holds(s)
	s.News = old != nil && b.differ(old, s)
	s.Ended = time.Now()
	return s
}

// unseen reports whether v, the version of a, says nothing: it is made of the body, which
// does not come to a HEAD. It would seem never to change.
func (b *Backend) unseen(a *state.Answer, v state.Version) bool {
	if b.Request.Method != http.MethodHead || b.c.Probe != nil || a.Status/100 != 2 || a.Status == http.StatusNoContent {
		return false
	}
	return (b.c.State.Hashes() || a.Header.Get("Etag") == "") && v == b.c.State.Version(a, "") // what `version` gives is another one
}

// depend notes who may read s.
func (b *Backend) depend(s *state.State, header http.Header) {
	if s.Variation = b.c.Share.Variation(header, b.lent.asked()); s.Variation != nil {
		s.Varied = s.Variation.Key(lot.Key{}, b.sharer())
	}
}

// version is that of an answer. Where that says no more than that old's ETag has become
// strong, or weak, it is old's: to clients that name it, nothing has changed.
func (b *Backend) version(source *state.Answer, old *state.State) state.Version {
	var text string
	if b.c.Version != "" {
		value := func(s *state.State) string { return b.value(b.c.Version, s) }
		if text = poll.VersionOf(b.c.Version, value, &state.State{Source: source, Version: state.Version{Status: source.Status}}); text == "" && source.Status/100 == 2 {
			b.c.Unversioned(b.Name, source.Status)
		}
	}
	v := b.c.State.Version(source, text)
	if text == "" && old != nil && v.Weakly(old.Version) {
		return old.Version
	}
	return v
}

// differ reports whether anybody who is parked could be released by now.
func (b *Backend) differ(old, now *state.State) bool {
	if old.Version != now.Version || old.Unshared != now.Unshared || !old.Variation.Equal(now.Variation) {
		return true
	}
	// A hold_while may look at what is no part of the version. What it takes from the
	// request is the same for both.
	for i := range b.c.HoldWhile {
		if text := b.c.HoldWhile[i].Value; b.value(text, old) != b.value(text, now) {
			return true
		}
	}
	return false
}

// holds reports whether a hold_while is true of s, as far as the check can tell.
// Where there was no answer nothing is, but for what has a value even then, such as
// the status: each member would be `empty`, and an outage no news.
func (b *Backend) holds(s *state.State) bool {
	for i := range b.c.HoldWhile {
		c := &b.c.HoldWhile[i]
		value := b.value(c.Value, s)
		if (s.Err == nil || value != "") && c.True(value, func(text string) string { return b.value(text, s) }, s) {
			return true
		}
	}
	return false
}

// value replaces the placeholders in text by what they are for the check. Only the
// poller calls it.
func (b *Backend) value(text string, s *state.State) string {
	return b.replacer(s).ReplaceAll(text, "")
}

// Replacer resolves placeholders for the check, as far as they speak of no state.
// Only the poller calls it.
func (b *Backend) Replacer() *caddy.Replacer { return b.replacer(nil) }

// replacer resolves placeholders for the check, those that speak of s too.
func (b *Backend) replacer(s *state.State) *caddy.Replacer {
	if b.repl == nil {
		b.repl = caddy.NewReplacer()
		b.request(b.ctx, b.Request, b.repl, nil)
		b.repl.Map(func(key string) (any, bool) { return b.Subject.Placeholder(b.c.State, b.about, key) })
	}
	b.about = s
	return b.repl
}

// errAbandoned is of a check that nobody waits for any more. It is no end that anybody is
// told of.
var errAbandoned = errors.New("nobody waits for the check any more")

// errorStatus is the status that Caddy's error routes would make of err: that of a
// handler's own error, else 504, 502 or 500.
func errorStatus(err error) int {
	var he caddyhttp.HandlerError
	if errors.As(err, &he) && he.StatusCode != 0 {
		return he.StatusCode
	}
	switch {
	case errors.Is(err, state.ErrTimeout):
		return http.StatusGatewayTimeout
	case errors.Is(err, tap.ErrAborted), errors.Is(err, tap.ErrNothing), errors.Is(err, state.ErrUnasked):
		return http.StatusBadGateway
	}
	return http.StatusInternalServerError
}

// asHandlerError gives err the status that it is answered with.
func asHandlerError(err error) error {
	var he caddyhttp.HandlerError
	if errors.As(err, &he) {
		return err
	}
	return caddyhttp.Error(errorStatus(err), err)
}
