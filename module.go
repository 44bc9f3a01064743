// Package longpoll adds long-polling to REST backends that know nothing of it.
//
// A resource is what several requests wait for together, found by its key. Its state is
// a chain of immutable snapshots; each bears a channel that is closed when the backend
// says something else, so that a release of ten thousand waiters is one close. A parked
// request is its own goroutine in one small function; a poller, one for each watched
// resource, is a timer, and a goroutine only while a check is in flight.
//
//	client ──► Handler.ServeHTTP ──► poll ──► park ──► lot ◄── poller ──► check ──► next (reverse_proxy)
//	                 ▲                 what is asked     ▲        ▲          │
//	                 │                                   │        │          └── tap: the answer, kept back
//	                 └── reply ◄── state ◄── snapshot ───┘        ├── wake: writes, redis, admin
//	                     stream, again and again                  └── cluster: what another Caddy has read
//
// The client's side (poll, park, detach, reply, stream) and the backend's (check, tap) meet only in
// lot and state. What they compare and carry is in share; what is no poll never comes near
// (reply's Own). The code cites docs/contract.md, which internal/contract tests.
//
// # A handler's life
//
//	provisioned   Provision: rooms are furnished, nothing is dialled
//	live          ServeHTTP: requests are parked
//	drained       at a reload or a stop: the parked are released, nobody parks any more
//	retired       Cleanup: its wakers are closed
//	forgotten     when the last of its requests has left
//
// # Where to go
//
//	a new placeholder                   internal/poll, or internal/state if it speaks of the answer
//	a field that is not compared        internal/httphdr, Personal
//	a new way to answer                 internal/reply
//	a new source of wake-ups            a guest of http.long_poll.wakers: see Waker
//	a new format of streams             internal/stream: a state is all it needs
package longpoll

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/behind"
	"github.com/caddy-longpoll/caddy-longpoll/internal/check"
	"github.com/caddy-longpoll/caddy-longpoll/internal/cli"
	"github.com/caddy-longpoll/caddy-longpoll/internal/cluster"
	"github.com/caddy-longpoll/caddy-longpoll/internal/detach"
	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/ops"
	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/reply"
	"github.com/caddy-longpoll/caddy-longpoll/internal/shadow"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
	"github.com/caddy-longpoll/caddy-longpoll/internal/stream"
	"github.com/caddy-longpoll/caddy-longpoll/internal/tap"
	"github.com/caddy-longpoll/caddy-longpoll/internal/wake"
	_ "github.com/caddy-longpoll/caddy-longpoll/redis" // so that one --with is enough
)

func init() {
	caddy.RegisterModule(new(Handler))
	cli.Register(Version)
	ops.Built(Version)
}

// Version is that of the module, in the User-Agent of checks that are nobody's.
const Version = "0.2.0"

// Handler holds a request whose client already has what the backend would answer,
// checks the backend once for everybody who waits for the same thing, and answers when
// that has changed or the time is up. The backend is the next handler, usually
// reverse_proxy. Every field is optional.
type Handler struct {
	// How long a request may be parked: shorter than what the most impatient hop between
	// client and Caddy allows a silent connection. A client can ask for less. Default: 25s.
	Hold *caddy.Duration `json:"hold,omitempty"`

	// Keep a tenth below the age at which something on the way cuts silent connections,
	// once that is known; `hold` is then the most, and what it begins with.
	HoldAuto bool `json:"hold_auto,omitempty"`

	// By up to how many percent, at random, that time is shortened, so that clients that
	// were parked together do not come back together. 0 to 100. Default: 10.
	Jitter *float64 `json:"jitter,omitempty"`

	// How long the client is willing to wait: text with placeholders that gives a number
	// or a Go duration. Empty is no wish, 0 is "do not park", anything else is answered
	// 400. Default: `Prefer: wait=N` (RFC 7240, section 4.3), else the `Wait` field; both
	// in seconds, and ignored where malformed.
	Wait string `json:"wait,omitempty"`

	// The unit of a bare number in `wait`: `s` or `ms`. Default: s.
	WaitUnit string `json:"wait_unit,omitempty"`

	// The version that the client has: text with placeholders; empty is none. Default:
	// `If-None-Match`, else `If-Modified-Since` (RFC 9110, section 13.1).
	Since string `json:"since,omitempty"`

	// Values of `since` that name no version, such as `0` or `now`.
	Unset []string `json:"unset,omitempty"`

	// The version that the backend has: text with placeholders, such as
	// `{lp.json.revision}`. Default, and where it is empty: the answer's ETag, else a hash
	// over its status, Content-Type, Location and body.
	Version string `json:"version,omitempty"`

	// Members of the JSON answer that are no change: dotted paths, where `#` stands for
	// every element of an array. Implies the hash, so it excludes `version`.
	Ignore []string `json:"ignore,omitempty"`

	// Regular expressions (RE2) whose matches in the answer's decoded text are no change,
	// in bodies that are no JSON too. Implies the hash, so it excludes `version`.
	IgnoreMatch []string `json:"ignore_match,omitempty"`

	// Hold, whatever the versions are, while any of these is true of the answer.
	HoldWhile []Condition `json:"hold_while,omitempty"`

	// A request that names no version: `answer` it at once, or `park` it until the first
	// change after its arrival. Default: answer.
	Unversioned string `json:"unversioned,omitempty"`

	// Whose preconditions make a poll: `any` client's, but for browsers, whose caches send
	// them by themselves; or, with `asked`, nobody's: then it takes a wait, or a version
	// named by `since`. Default: any.
	Polls string `json:"polls,omitempty"`

	// The pause between two checks of a resource that somebody waits for. Default: 1s.
	Interval *caddy.Duration `json:"interval,omitempty"`

	// With it the pause grows by half while nothing changes, up to this, and falls back to
	// `interval` on a change. Default: the same as `interval`.
	MaxInterval *caddy.Duration `json:"max_interval,omitempty"`

	// The age up to which a state or an error may answer without a check. Default: 0: never.
	Freshness caddy.Duration `json:"freshness,omitempty"`

	// The methods that may be parked. Default: GET.
	Methods []string `json:"methods,omitempty"`

	// Query parameters that are neither sent to the backend nor tell resources apart.
	StripQuery []string `json:"strip_query,omitempty"`

	// A cheap URI that is checked in place of the resource.
	Probe *Probe `json:"probe,omitempty"`

	// How long one check may take. Default: 10s.
	CheckTimeout *caddy.Duration `json:"check_timeout,omitempty"`

	// How many checks may be in flight at once. Default: 64.
	MaxChecks *int `json:"max_checks,omitempty"`

	// What a failing check (no connection, time-out, 5xx, 429) does to requests that are
	// parked: `hold` them, or `release` them with the backend's error. Default: hold.
	OnError string `json:"on_error,omitempty"`

	// Text with placeholders that tells resources apart too, such as a consumer's name.
	Key []string `json:"key,omitempty"`

	// Request fields that tell resources apart, and are sent with a check, in addition to
	// those that always do and those in the backend's own Vary. With a minus in front
	// (`-X-Trace`) neither. `client_ip` is the client's address.
	Vary []string `json:"vary,omitempty"`

	// The answer is the same for everybody: credentials, the client's address and its
	// User-Agent neither tell resources apart nor are sent with a check.
	Public bool `json:"public,omitempty"`

	cluster.Membership
	reply.Answers

	// Sources of wake-ups: guest modules that say when to look.
	WakeRaw []json.RawMessage `json:"wake,omitempty" caddy:"namespace=http.long_poll.wakers inline_key=waker"`

	park.Bounds
	stream.Options
	detach.Switch

	// Park nobody and change nothing, but count what it would have saved.
	Shadow bool `json:"shadow,omitempty"`

	site    *ops.Site
	wakes   *wake.Set
	polls   *poll.Rules
	spot    *park.Spot
	pollers pollers
	replies *reply.Writer
	streams *stream.Writer
	shadow  *shadow.Shadow
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.long_poll",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision fills in the defaults and sets the handler up. It dials nothing.
func (h *Handler) Provision(ctx caddy.Context) error {
	looks, before := behind.At(ctx, h), behind.Before(ctx, h) // and defaults later: handlers are told apart by what they were given
	directive.OrDefault(&h.Hold, caddy.Duration(25*time.Second))
	directive.OrDefault(&h.Jitter, 10)
	directive.OrDefault(&h.Interval, caddy.Duration(time.Second))
	directive.OrDefault(&h.MaxInterval, *h.Interval)
	directive.OrDefault(&h.CheckTimeout, caddy.Duration(10*time.Second))
	directive.OrDefault(&h.MaxChecks, 64)
	h.Bounds.Fill()
	h.Options.Fill()
	if len(h.Methods) == 0 {
		h.Methods = []string{http.MethodGet}
	}
	if h.Probe != nil && h.Probe.Method == "" {
		h.Probe.Method = http.MethodGet
	}
	h.site = &ops.Site{
		Shadow: h.Shadow, OnError: cmp.Or(h.OnError, "hold"), Interval: time.Duration(*h.Interval), Log: ctx.Logger(),
		Lot: lot.New[*state.Reading](h.Bounds.Limits()),
	}
	h.site.Hear(ctx, h, time.Duration(*h.Hold), h.HoldAuto)
	h.site.Reached(before)
	h.wakes = wake.NewSet(h.site) // Cleanup needs the site and these, whatever fails from here on
	if err := h.furnish(looks); err != nil {
		return err
	}
	if err := cmp.Or(h.wakes.Load(ctx, h, h.WakeRaw), h.joinCluster(ctx), ops.Register(ctx.GetMetricsRegistry())); err != nil {
		return err
	}
	// Cleanup comes too late at a stop: only after the requests have ended.
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		h.site.Server = server.Name()
		server.RegisterOnShutdown(h.drain)
	}
	h.detach(ctx)
	h.wakes.Listen()
	h.site.Begin()
	return nil
}

// furnish gives each room of internal/ the part of the configuration that it is about;
// looks is what the handlers behind us look at.
func (h *Handler) furnish(looks behind.Looks) error {
	answers, err := state.NewRules(h.Ignore, h.IgnoreMatch)
	if err != nil {
		return err
	}
	answers.Configured, answers.Named, answers.Delta = h.Version != "", h.Since != "" && !poll.OfTags(h.Since), h.Options.Kind()
	sharing, unsaid := share.New(share.Config{
		Public: h.Public, Vary: h.Vary, Key: h.Key, StripQuery: h.StripQuery,
		UserAgent: httphdr.CheckAgent + Version, Looks: looks.Fields, Seen: len(looks.Address) > 0, Local: looks.Local || len(looks.Address) > 0,
	})
	h.site.Looked(looks.Address, unsaid)
	slots := make(tap.Slots, max(*h.MaxChecks, 1))
	h.polls = &poll.Rules{
		Hold: time.Duration(*h.Hold), Jitter: *h.Jitter, CheckTimeout: time.Duration(*h.CheckTimeout),
		Interval: time.Duration(*h.Interval), MaxInterval: time.Duration(*h.MaxInterval),
		Linger: time.Duration(*h.Linger), Freshness: time.Duration(h.Freshness),
		MaxBody: *h.MaxBody, Methods: h.Methods, Wait: h.Wait, WaitUnit: h.WaitUnit, Since: h.Since, Unset: h.Unset,
		Version: h.Version, HoldWhile: h.HoldWhile, ParkUnnamed: h.Unversioned == "park", OnlyAsked: h.Polls == "asked", Release: h.OnError == "release",
		Share: sharing, State: answers, Line: h.site.Line,
	}
	h.spot = &park.Spot{Rules: h.polls, Lot: h.site.Lot, Again: looks.Again, Departed: h.site.Departed}
	h.pollers = pollers{site: h.site, wakes: h.wakes, checks: &check.Checker{
		Rules: h.polls, Probe: h.Probe, OnChange: h.OnChange != nil, Slots: slots, Asked: ops.Asked,
		Panicked: h.site.Panicked, Unversioned: h.site.Unversioned,
	}}
	h.replies = &reply.Writer{
		Rules: h.polls, Header: h.Header, OnChange: reply.NewBody(h.OnChange), OnTimeout: reply.NewBody(h.OnTimeout),
		Probe: h.Probe != nil, NeedsBody: h.Probe == nil && reply.SpeaksOfBody(h.Header), Shown: looks.Answer,
	}
	h.streams = &stream.Writer{Options: &h.Options, Spot: h.spot, Replies: h.replies, Open: h.site.Streams, Count: ops.Event}
	h.shadow = shadow.New(h.polls, h.Probe != nil, slots, *h.MaxResources)
	return nil
}

// ServeHTTP is the way of a poll: what it asks is read, it waits with all who wait for
// the same, and it is told what has become of that. What is no poll is passed on.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	switch {
	case tap.MarkOf(r.Context()) != tap.Client: // it is, or was, that of a long_poll in front of us
		return h.wakes.Seeing(r, next).ServeHTTP(w, r)
	case h.Shadow:
		return h.shadow.Observe(w, r, next)
	}
	p, format := h.polls.New(r), h.streams.Format(r)
	switch {
	case !h.polls.Parkable(r), format == "" && httphdr.NamesEventStream(r.Header):
		return h.pass(p, w, next)
	case format != "":
		return h.stream(p, w, next, format)
	}
	h.spot.SendAway(w, r)
	defer h.spot.Unreserve(p)
	switch err := p.Ask(func() error { return h.spot.Reserve(p) }); {
	case errors.Is(err, poll.ErrLargeBody):
		return h.pass(p, w, next)
	case err != nil:
		return h.told(p, h.replies.Reject(p, w, err))
	case !p.Shared():
		return h.own(p, w, next)
	}
	wake.NoWrite(r)
	v := h.spot.Wait(p, w, func(r *poll.Resource) { h.pollers.start(r, p, w, next) })
	switch v.Kind {
	case poll.Detached:
		return nil // who is told later, on a connection that is not the server's any more
	case poll.Pass:
		return h.pass(p, w, next)
	}
	return h.told(p, h.replies.Answer(p, w, v))
}

// stream tells a client each change, who would rather hear than ask (contract 13).
func (h *Handler) stream(p *poll.Poll, w http.ResponseWriter, next caddyhttp.Handler, format stream.Format) error {
	r := p.Request // as its client has sent it
	h.spot.SendAway(w, r)
	defer h.spot.Unreserve(p)
	h.streams.Follow(p)
	switch err := p.Ask(func() error { return h.spot.Reserve(p) }); {
	case errors.Is(err, poll.ErrLargeBody):
		r.Body, p.Request = p.Request.Body, r
		return h.pass(p, w, next)
	case err != nil:
		return h.told(p, h.replies.Reject(p, w, err))
	}
	wake.NoWrite(r)
	v, err := h.streams.Serve(p, r, w, format, func(r *poll.Resource) { h.pollers.start(r, p, w, next) })
	switch {
	case v.Kind == poll.Detached:
		return nil
	case p.Outcome != "":
		h.site.Done(p)
		if err == http.ErrAbortHandler {
			panic(err)
		}
		return err
	case v.Kind == poll.Pass:
		return h.pass(p, w, next)
	}
	return h.told(p, h.replies.Answer(p, w, v))
}

// told counts a poll that has its answer. Inlined, it would deepen the stacks of the parked.
//
//go:noinline
func (h *Handler) told(p *poll.Poll, err error) error {
	h.site.Told(p)
	return err
}

// own has next answer a request that is no poll, and so its client's own exchange with
// the backend: it costs what it costs without us (contract 3.8).
func (h *Handler) own(p *poll.Poll, w http.ResponseWriter, next caddyhttp.Handler) error {
	h.spot.HandOn(p)
	if r := p.Request; len(h.StripQuery) > 0 {
		r.URL.RawQuery = share.StripQuery(r.URL.RawQuery, h.StripQuery)
		r.RequestURI = r.URL.RequestURI()
	}
	p.Outcome = poll.Answered
	h.site.Own(p) // before it may break off
	return h.replies.Own(p, w, h.wakes.Seeing(p.Request, next))
}

// pass hands a request on that can not be parked, or whose answer can not be shared
// (contract 3.1): nothing of it changes but the field Long-Poll.
func (h *Handler) pass(p *poll.Poll, w http.ResponseWriter, next caddyhttp.Handler) error {
	h.spot.HandOn(p)
	p.Outcome = poll.Bypassed
	w.Header().Set("Long-Poll", string(poll.Bypassed))
	h.site.Own(p)
	return h.wakes.Seeing(p.Request, next).ServeHTTP(w, p.Request)
}

// drain releases everybody who is parked, and parks nobody from now on.
func (h *Handler) drain() { h.site.Drain(park.DrainSpread) }

// Cleanup drains the handler, where no server has done so before.
func (h *Handler) Cleanup() error {
	if h.site == nil {
		return nil // Caddy cleans up after a Provision that failed
	}
	h.drain()
	h.site.Retire(h.wakes.Ignore)
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
