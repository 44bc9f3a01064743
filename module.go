// Package longpoll adds long-polling to REST backends that know nothing of it.
//
// A resource is what several requests wait for together, found by its key. Its
// state is a chain of immutable snapshots; each bears a channel that is closed
// when the backend says something else, so that a release of ten thousand
// waiters is one close. One poller for each watched resource makes the checks, on
// a request and a context of its own: it is a timer, and a goroutine only while a
// check is in flight. A parked request is its own goroutine in one small function
// that waits for four things: a change, its time limit, its client's departure, a
// drain.
//
//	client ──► Handler.ServeHTTP ──► question ──► lot ──► resource ◄── poller ──► check ──► next (reverse_proxy)
//	                 ▲                (since,      (key)      │           ▲
//	                 │                 wait,                  │           └── wakers: writes, redis, admin
//	                 └──── answer ◄── park ◄──── snapshot ◄───┘
package longpoll

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/check"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/ops"
	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/reply"
	"github.com/caddy-longpoll/caddy-longpoll/internal/shadow"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
	"github.com/caddy-longpoll/caddy-longpoll/internal/tap"
	"github.com/caddy-longpoll/caddy-longpoll/internal/wake"
	_ "github.com/caddy-longpoll/caddy-longpoll/redis" // so that one --with is enough
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler holds a request whose client already has what the backend would
// answer, checks the backend once for everybody who waits for the same thing,
// and answers when that has changed or the time is up. What it puts in front of
// is the next handler, usually reverse_proxy.
//
// Every field is optional.
type Handler struct {
	// How long a request may be parked. Choose it shorter than what the most
	// impatient hop between the client and Caddy allows a silent connection.
	// A client can ask for less, never for more. Default: 25s.
	Hold *caddy.Duration `json:"hold,omitempty"`

	// By up to how many percent, at random, the limit of a parked request is
	// shortened, so that clients that were parked together do not come back
	// together. 0 to 100. Default: 10.
	Jitter *float64 `json:"jitter,omitempty"`

	// How long the client is willing to wait: text with placeholders that gives
	// a number or a Go duration. Empty is no wish; 0 is "do not park". Anything
	// else is answered 400. Default: `Prefer: wait=N` (RFC 7240, section 4.3),
	// else the `Wait` field; both in seconds, and ignored where malformed.
	Wait string `json:"wait,omitempty"`

	// The unit of a bare number in `wait`: `s` or `ms`. Default: s.
	WaitUnit string `json:"wait_unit,omitempty"`

	// The version that the client has: text with placeholders. Empty means that
	// the client names none. Default: `If-None-Match`, else `If-Modified-Since`
	// (RFC 9110, section 13.1).
	Since string `json:"since,omitempty"`

	// Values of `since` that name no version, such as `0` or `now`.
	Unset []string `json:"unset,omitempty"`

	// The version that the backend has: text with placeholders, such as
	// `{lp.json.revision}`. Default: the answer's ETag, else a hash over its
	// status, Content-Type, Location and body.
	Version string `json:"version,omitempty"`

	// Members of the JSON answer that are no change: dotted paths, where `#`
	// stands for every element of an array. Implies the hash as the version, so
	// it can not be combined with `version`.
	Ignore []string `json:"ignore,omitempty"`

	// Hold, whatever the versions are, while any of these is true of the answer.
	HoldWhile []Condition `json:"hold_while,omitempty"`

	// What happens to a request that names no version: `answer` it at once, or
	// `park` it until the first change after its arrival. Default: answer.
	Unversioned string `json:"unversioned,omitempty"`

	// The pause between two checks of a resource that somebody waits for.
	// Default: 1s.
	Interval *caddy.Duration `json:"interval,omitempty"`

	// With it the pause grows by half while nothing changes, up to this, and
	// falls back to `interval` on a change. Default: the same as `interval`.
	MaxInterval *caddy.Duration `json:"max_interval,omitempty"`

	// The age up to which a state may answer a request without a check.
	// Default: 0, which is never.
	Freshness caddy.Duration `json:"freshness,omitempty"`

	// The methods that may be parked. Default: GET.
	Methods []string `json:"methods,omitempty"`

	// Query parameters that are neither sent to the backend nor part of what
	// tells two resources apart.
	StripQuery []string `json:"strip_query,omitempty"`

	// A cheap URI that is checked in place of the resource.
	Probe *Probe `json:"probe,omitempty"`

	// How long one check may take. Default: 10s.
	CheckTimeout *caddy.Duration `json:"check_timeout,omitempty"`

	// How many checks may be in flight at once. Default: 64.
	MaxChecks *int `json:"max_checks,omitempty"`

	// What a failing check (no connection, time-out, 5xx, 429) does to those who
	// are parked: `hold` them, or `release` them with the backend's error.
	// Default: hold.
	OnError string `json:"on_error,omitempty"`

	// Text with placeholders that tells resources apart in addition to what
	// always does, such as the name of a consumer.
	Key []string `json:"key,omitempty"`

	// Request header fields that tell resources apart in addition to
	// Authorization, Cookie, Accept, Accept-Encoding, Accept-Language and those
	// in the backend's own Vary.
	Vary []string `json:"vary,omitempty"`

	// The answer is the same for everybody: Authorization and Cookie are neither
	// part of what tells resources apart nor sent with a check.
	Public bool `json:"public,omitempty"`

	// What is answered on a change in place of the backend's answer.
	OnChange *Reply `json:"on_change,omitempty"`

	// What is answered when the time is up. Default: a 304 where the client's
	// version came in If-None-Match or If-Modified-Since, else the backend's
	// latest answer again.
	OnTimeout *Reply `json:"on_timeout,omitempty"`

	// Header fields, with placeholders, that are set on every answer that this
	// handler makes.
	Header http.Header `json:"header,omitempty"`

	// Sources of wake-ups: guest modules that say when to look.
	WakeRaw []json.RawMessage `json:"wake,omitempty" caddy:"namespace=http.long_poll.wakers inline_key=waker"`

	// How many requests may be parked at once. Default: 0, no bound.
	MaxParked int `json:"max_parked,omitempty"`

	// How many requests of one client address may be parked at once.
	// Default: 0, no bound.
	MaxParkedPerClient int `json:"max_parked_per_client,omitempty"`

	// How many resources may be known at once. Default: 10000.
	MaxResources *int `json:"max_resources,omitempty"`

	// The size in bytes up to which an answer is looked at and a request's body
	// is read; larger ones are passed through. Default: 1 MiB.
	MaxBody *int64 `json:"max_body,omitempty"`

	// How long a resource is remembered after its last waiter left.
	// Default: 30s.
	Linger *caddy.Duration `json:"linger,omitempty"`

	// Park nobody and change nothing, but count what it would have saved.
	Shadow bool `json:"shadow,omitempty"`

	site    *ops.Site
	wakes   *wake.Set
	polls   *poll.Rules
	spot    *park.Spot
	checks  *check.Checker
	replies *reply.Writer
	shadow  *shadow.Shadow
}

// The parts of the configuration, and the contracts of guest modules, as embedders
// know them.
type (
	// Condition is one `hold_while`.
	Condition = poll.Condition
	// Probe is a cheap URI that is checked in place of the resource.
	Probe = check.Probe
	// Reply is an answer from the configuration.
	Reply = reply.Reply
	// Waker is a source of wake-ups, a guest in the namespace http.long_poll.wakers.
	Waker = wake.Waker
	// PathWaker is a Waker whose messages name paths.
	PathWaker = wake.PathWaker
	// StatusWaker is a Waker that knows whether it can be heard.
	StatusWaker = wake.StatusWaker
	// Writes is the Waker of `wake writes`.
	Writes = wake.Writes
	// WritesHandler sees the writes of a site for `wake writes`.
	WritesHandler = wake.WritesHandler
)

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.long_poll",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision fills in the defaults and sets the handler up. It dials nothing.
func (h *Handler) Provision(ctx caddy.Context) error {
	orDefault(&h.Hold, caddy.Duration(25*time.Second))
	orDefault(&h.Jitter, 10)
	orDefault(&h.Interval, caddy.Duration(time.Second))
	orDefault(&h.MaxInterval, *h.Interval)
	orDefault(&h.CheckTimeout, caddy.Duration(10*time.Second))
	orDefault(&h.MaxChecks, 64)
	orDefault(&h.MaxResources, 10000)
	orDefault(&h.MaxBody, 1<<20)
	orDefault(&h.Linger, caddy.Duration(30*time.Second))
	if len(h.Methods) == 0 {
		h.Methods = []string{http.MethodGet}
	}
	if h.Probe != nil && h.Probe.Method == "" {
		h.Probe.Method = http.MethodGet
	}
	h.site = &ops.Site{
		Shadow: h.Shadow, OnError: cmp.Or(h.OnError, "hold"), Interval: time.Duration(*h.Interval), Log: ctx.Logger(),
		Lot: lot.New[*state.Reading](lot.Limits{
			Parked: h.MaxParked, PerClient: h.MaxParkedPerClient, Resources: *h.MaxResources, Linger: time.Duration(*h.Linger),
		}),
	}
	h.wakes = wake.NewSet(h.site) // Cleanup needs both, whatever fails from here on
	if err := h.furnish(); err != nil {
		return err
	}
	if err := h.provisionWakers(ctx); err != nil {
		return err
	}
	if err := ops.Register(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	// Cleanup comes too late at a stop: only after the requests have ended.
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		h.site.Server = server.Name()
		server.RegisterOnShutdown(h.drain)
	}
	h.wakes.Listen()
	h.site.Begin()
	return nil
}

// furnish gives each room the part of the configuration that it is about.
func (h *Handler) furnish() error {
	answers := &state.Rules{Configured: h.Version != "", Named: h.Since != ""}
	for _, path := range h.Ignore {
		parts, err := state.MemberPath(path)
		if err != nil {
			return fmt.Errorf("ignore: %w", err)
		}
		answers.Ignore = append(answers.Ignore, parts)
	}
	sharing := &share.Rules{Public: h.Public, Vary: h.Vary, StripQuery: h.StripQuery, Values: h.Key}
	sharing.Memory.Max = max(*h.MaxResources, 1)
	slots := make(tap.Slots, max(*h.MaxChecks, 1))
	h.polls = &poll.Rules{
		Hold: time.Duration(*h.Hold), Jitter: *h.Jitter, CheckTimeout: time.Duration(*h.CheckTimeout),
		Interval: time.Duration(*h.Interval), Linger: time.Duration(*h.Linger), Freshness: time.Duration(h.Freshness),
		MaxBody: *h.MaxBody, Methods: h.Methods, Wait: h.Wait, WaitUnit: h.WaitUnit, Since: h.Since, Unset: h.Unset,
		Version: h.Version, HoldWhile: h.HoldWhile, ParkUnnamed: h.Unversioned == "park", Release: h.OnError == "release",
		Share: sharing, State: answers,
	}
	h.spot = &park.Spot{Lot: h.site.Lot, Memory: &sharing.Memory, Departed: h.site.Departed}
	h.checks = &check.Checker{
		Timeout: time.Duration(*h.CheckTimeout), MaxBody: *h.MaxBody, Probe: h.Probe, OnChange: h.OnChange != nil,
		HoldWhile: h.HoldWhile, Version: h.Version, Share: sharing, State: answers,
		Slots: slots, Drained: h.site.Lot.Drained(), Panicked: h.site.Panicked,
	}
	h.replies = &reply.Writer{
		Header: h.Header, OnChange: reply.NewBody(h.OnChange), OnTimeout: reply.NewBody(h.OnTimeout), Probe: h.Probe != nil,
	}
	h.shadow = shadow.New(shadow.Rules{
		Polls: h.polls, Share: sharing, State: answers, Version: h.Version != "", Since: h.Since != "",
		HoldWhile: len(h.HoldWhile) > 0, Probe: h.Probe != nil, Slots: slots, MaxBody: *h.MaxBody, Interval: time.Duration(*h.Interval),
		Resources: *h.MaxResources,
	})
	return nil
}

// provisionWakers loads the guests of `wake`.
func (h *Handler) provisionWakers(ctx caddy.Context) error {
	if len(h.WakeRaw) == 0 {
		return nil
	}
	guests, err := ctx.LoadModule(h, "WakeRaw")
	if err != nil {
		return fmt.Errorf("loading wake: %w", err)
	}
	for _, guest := range guests.([]any) {
		w, ok := guest.(Waker)
		if !ok {
			return fmt.Errorf("wake: module %T is not a Waker", guest)
		}
		h.wakes.Add(w, string(guest.(caddy.Module).CaddyModule().ID.Name()))
	}
	return nil
}

func orDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// ServeHTTP is the way of a poll: what it asks is read, it waits with all who wait for
// the same, and it is told what has become of that. What is no poll is passed on.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	switch {
	case tap.IsCheck(r.Context()):
		return next.ServeHTTP(w, r) // of a long_poll in front of us, which waits for both
	case h.Shadow:
		return h.shadow.Observe(w, r, next)
	}
	p := h.polls.New(r)
	if !h.polls.Parkable(r) {
		return h.pass(p, w, next)
	}
	h.sendAway(w, r)
	wake.NoWrite(r)
	switch err := p.Ask(); {
	case errors.Is(err, poll.ErrLargeBody):
		return h.pass(p, w, next)
	case err != nil:
		return h.told(p, h.replies.Reject(p, w, err))
	}
	v := h.spot.Wait(p, w, func(r *poll.Resource) { h.start(r, p, w, next) })
	if v.Kind == poll.Pass {
		return h.pass(p, w, next)
	}
	return h.told(p, h.replies.Answer(p, w, v))
}

// start has a resource checked on behalf of a poll: p is not the poller's to keep.
func (h *Handler) start(r *poll.Resource, p *poll.Poll, w http.ResponseWriter, next caddyhttp.Handler) {
	var b *check.Backend
	_ = poll.OnOwnStack(func() error { b = h.checks.Backend(p, w, next); return nil })
	r.Poll((&poller{h, r, b}).turn)
}

// told counts a poll that has its answer.
func (h *Handler) told(p *poll.Poll, err error) error {
	switch p.Outcome {
	case poll.Changed:
		ops.Released(p.Told.Since)
	case poll.Refused:
		h.site.Refused(p.Refusal)
	}
	h.site.Done(p)
	return err
}

// pass hands a request on that can not be parked, and changes nothing else.
func (h *Handler) pass(p *poll.Poll, w http.ResponseWriter, next caddyhttp.Handler) error {
	p.Outcome = poll.Bypassed
	p.Rewind()
	w.Header().Set("Long-Poll", string(poll.Bypassed))
	h.site.Done(p)
	if h.wakes.OnWrites() && wake.IsWrite(p.Request.Method) {
		return wake.See(w, p.Request, next)
	}
	return next.ServeHTTP(w, p.Request)
}

// sendAway has the client of a drained handler come back on a new connection, to
// what has taken its place. The server does so too, but not on an HTTP/2 connection
// that it accepted while it was being stopped: a client would poll there again and
// again, and never be parked.
func (h *Handler) sendAway(w http.ResponseWriter, r *http.Request) {
	select {
	case <-h.site.Lot.Drained():
		if r.ProtoMajor < 3 { // HTTP/3 has no such field, and means nothing by it
			w.Header().Set("Connection", "close")
		}
	default:
	}
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
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
)
