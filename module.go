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
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
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

	logger     *zap.Logger
	metrics    *metrics
	lot        *lot.Lot[*state]
	ignore     [][]string
	deep       bool // a question takes placeholders
	onChange   *body
	onTimeout  *body
	wakers     []namedWaker
	slots      slots
	variations variations
	asked      names
	lastSeed   atomic.Pointer[http.Header] // see seed
	outage     outage
	parting    parting
	shadow     shadow
	writes     []*Writes // of wakers
	server     string    // the name of the server that we are part of
	questions  atomic.Uint64
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

// Probe is a cheap URI that is checked in place of the resource.
type Probe struct {
	// Default: GET.
	Method string `json:"method,omitempty"`

	// Path and query, with placeholders.
	URI string `json:"uri,omitempty"`
}

// Reply is an answer from the configuration.
type Reply struct {
	// Only for on_timeout: the backend's latest answer again, also to a client
	// that would otherwise get a 304. Excludes the other fields.
	Replay bool `json:"replay,omitempty"`

	// 200 to 599.
	Status int `json:"status,omitempty"`

	// Text in which only `{name}` is a placeholder. Where it is JSON, the values
	// of placeholders are escaped.
	Body string `json:"body,omitempty"`
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
	h.logger = ctx.Logger()
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
	h.deep = strings.Contains(h.Wait+h.Since+strings.Join(h.Key, ""), "{")
	h.onChange, h.onTimeout = newBody(h.OnChange), newBody(h.OnTimeout)
	h.slots = make(slots, max(*h.MaxChecks, 1))
	h.variations.max = max(*h.MaxResources, 1)
	h.shadow.max = *h.MaxResources
	h.lot = lot.New[*state](lot.Limits{
		Parked:    h.MaxParked,
		PerClient: h.MaxParkedPerClient,
		Resources: *h.MaxResources,
		Linger:    time.Duration(*h.Linger),
	})
	for _, path := range h.Ignore {
		parts, err := parseMemberPath(path)
		if err != nil {
			return fmt.Errorf("ignore: %w", err)
		}
		h.ignore = append(h.ignore, parts)
	}
	if err := h.provisionWakers(ctx); err != nil {
		return err
	}
	if err := h.provisionMetrics(ctx); err != nil {
		return err
	}
	// Cleanup comes too late at a stop: only after the requests have ended.
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		h.server = server.Name()
		server.RegisterOnShutdown(h.drain)
	}
	live.add(h)
	return nil
}

func orDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// ServeHTTP answers a poll, or passes on what is none.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if isCheck(w) {
		return next.ServeHTTP(w, r) // of a long_poll in front of us, which waits for both
	}
	if h.Shadow {
		return h.observe(w, r, next)
	}
	q := h.question(r)
	if !h.parkable(r) {
		return q.pass(w, next)
	}
	h.sendAway(w, r)
	if err := q.ask(); errors.Is(err, errLargeBody) {
		return q.pass(w, next)
	} else if err != nil {
		return q.reject(w, err)
	}
	if v := q.park(w, next); v != through {
		return q.answer(w, v)
	}
	return q.pass(w, next)
}

// park waits with everybody who waits for the same. It has returned before anything
// is answered, and its stack frame with it.
//
//go:noinline
func (q *question) park(w http.ResponseWriter, next caddyhttp.Handler) verdict {
	for range maxMoves {
		if v := q.visit(w, next); v != moved {
			return v
		}
		q.variation = q.h.variations.of(q.name)
	}
	return through
}

// visit waits with those who wait for the resource that q has now. Whatever happens,
// a placeholder that panics too, it leaves no trace there.
func (q *question) visit(w http.ResponseWriter, next caddyhttp.Handler) verdict {
	m := q.h.lot.Join(q.key(), q.name)
	defer func() {
		m.Leave()
		q.h.departed()
		q.loan.end()
	}()
	return q.wait(&m, w, next)
}

// maxMoves bounds how often a request can turn out to wait for something else: a
// backend may name another field in each Vary.
const maxMoves = 4

// wait is where a request is parked. It does little itself and is never inlined,
// so that a parked request keeps a small stack: what is deep has returned, or is
// yet to be called.
//
//go:noinline
func (q *question) wait(m *waiter, w http.ResponseWriter, next caddyhttp.Handler) verdict {
	done := q.r.Context().Done()
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for {
		// Taken before it is looked at: whatever comes after it closes the channel
		// that is awaited below.
		s := m.Snapshot()
		v := q.look(m, s)
		if v == ask || v == hold {
			v = q.enter(m, s, v, w, next)
		}
		var awaited, drained <-chan struct{}
		switch v {
		case ask:
			awaited, drained = s.Next(), q.h.lot.Drained()
		case hold:
			awaited = s.Changed() // which a drain closes too
		default:
			return v
		}
		if q.draining && m.Parked() {
			awaited, drained = nil, nil // nothing comes any more
		}
		if timer == nil {
			timer = time.NewTimer(q.patience())
		}
		select {
		case <-awaited:
		case <-done:
			return gone
		case <-drained:
			if !m.Parked() {
				return through
			}
		case <-timer.C:
			if v := q.timeUp(m, m.Snapshot()); v != hold {
				return v
			}
			timer.Reset(time.Until(q.arrived.Add(q.h.patience())))
		}
		if m.Parked() && !q.draining && q.h.lot.IsDrained() {
			q.draining = true
			timer.Reset(q.h.drainDelay())
		}
	}
}

// sendAway has the client of a drained handler come back on a new connection, to
// what has taken its place. The server does so too, but not on an HTTP/2 connection
// that it accepted while it was being stopped: a client would poll there again and
// again, and never be parked.
func (h *Handler) sendAway(w http.ResponseWriter, r *http.Request) {
	select {
	case <-h.lot.Drained():
		if r.ProtoMajor < 3 { // HTTP/3 has no such field, and means nothing by it
			w.Header().Set("Connection", "close")
		}
	default:
	}
}

// Cleanup drains the handler, where no server has done so before.
func (h *Handler) Cleanup() error {
	if h.lot == nil {
		return nil // Caddy cleans up after a Provision that failed
	}
	h.drain()
	h.retire()
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
