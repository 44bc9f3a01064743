// Package poll is what one client asks, and what becomes of it, seen from a snapshot.
// It reads a request and judges states; it starts no goroutine (but OnOwnStack), waits
// for nothing and writes nothing.
package poll

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/line"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// What the lot keeps for polls.
type (
	Lot      = lot.Lot[*state.Reading]
	Resource = lot.Resource[*state.Reading]
	Waiter   = lot.Waiter[*state.Reading]
	Snapshot = lot.Snapshot[*state.Reading]
)

// Rules is the part of the configuration that polls are read and judged by: each field
// is the subdirective of its name, as the handler documents it, with the default filled
// in. The zero value of a string or a slice is the default of its subdirective.
type Rules struct {
	Hold         time.Duration
	Jitter       float64 // percent
	CheckTimeout time.Duration
	Interval     time.Duration
	MaxInterval  time.Duration
	Linger       time.Duration
	Freshness    time.Duration
	MaxBody      int64 // bytes
	Methods      []string
	Wait         string
	WaitUnit     string
	Since        string
	Unset        []string
	Version      string
	HoldWhile    []Condition
	ParkUnnamed  bool // unversioned park
	OnlyAsked    bool // polls asked
	Release      bool // on_error release

	Share *share.Rules
	State *state.Rules
	Line  *line.Line // what is known of what cuts; nil of polls that nobody parks

	ids atomic.Uint64
}

// Poll is what one request asks: what it waits for, the version that it has, how long
// it will wait, what else holds it; and, at its end, what has become of it.
type Poll struct {
	Subject
	Arrived time.Time
	Limit   time.Duration // how long it may be parked; 0 is not at all, or no longer
	Applied string        // the value of a Prefer: wait that is honoured
	Lent    Lent          // its placeholders, while a check may read them; nil if none may

	rules *Rules
	repl  *caddy.Replacer
	user  string // who was authenticated on the way to us

	since    string         // the version that it has, by `since`
	tags     []string       // or by If-None-Match
	date     time.Time      // or by If-Modified-Since
	wanted   time.Duration  // how long it will wait, if it says so
	says     bool           // and that it does
	asks     bool           // see Asks
	byID     bool           // since is the id of an event
	follows  bool           // see Follow
	Reserved bool           // a place is kept for it, while its body is read or it moves
	Asked    bool           // the backend is asked because of it
	Draining bool           // its time is up because of a drain
	passed   uint16         // the status of an answer of its own that has passed; 0 is none
	Attached bool           // it can not be detached
	detached bool           // see Detach
	parked   *state.Version // the version that it is parked on

	key    lot.Key          // see Find
	judged *share.Variation // that of the latest state that MayRead was asked about
	varied lot.Key          // what the poll has of it

	Deadlines Deadlines

	ParkedAt time.Time // zero if it was not parked
	Refusal  error     // which bound it hit

	// What it was told, for placeholders in logs and in the answer itself.
	Told    *state.Reading // nil if it was told none
	header  http.Header    // of an answer of its own that has passed
	Outcome Outcome
	Held    time.Duration // for how long it was parked
}

// Deadlines are those of the client's connection, for who clears them while the poll is
// parked and restarts them afterwards.
type Deadlines struct {
	Writer  *caddyhttp.IdleTimeoutWriter // of the server; nil if it has none
	Timeout time.Duration                // the server's write_timeout
	Cleared bool                         // they have been
}

// Lent is the placeholders of a request, while checks that are made on its behalf may
// read them. While it is locked no check does, and after End none ever does.
type Lent interface {
	sync.Locker
	End()
}

// New makes the poll of a request, of which nothing has been read yet. Placeholders, in
// logs too, tell from now on what becomes of it.
func (ru *Rules) New(r *http.Request) *Poll {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	p := &Poll{Subject: Subject{Request: r}, rules: ru, repl: repl, Arrived: time.Now()}
	repl.Map(p.Placeholder)
	return p
}

// Scatter has the IDs of polls begin anywhere: no other process has the same.
func (ru *Rules) Scatter() { ru.ids.Store(rand.Uint64() >> 1) }

// Parkable reports whether r is a request that could be parked (contract 3.1). If-Match
// and If-Unmodified-Since are for the backend to judge, and a check bears no
// preconditions but its own. Of what a browser asks for only what a script fetches can
// wait, and no page, asset or image. The address of early data may be forged: who
// looks at it behind us has to see that it is early, which a check is not.
func (ru *Rules) Parkable(r *http.Request) bool {
	head := r.Header
	if !slices.Contains(ru.Methods, r.Method) ||
		len(head["Range"]) > 0 || len(head["If-Match"]) > 0 || len(head["If-Unmodified-Since"]) > 0 ||
		len(head["Upgrade"]) > 0 && httphdr.Upgrades(head) ||
		r.TLS != nil && !r.TLS.HandshakeComplete && ru.Share.Address == share.Always {
		return false
	}
	if to := httphdr.Destination(head); to != "" && to != "empty" {
		return false
	}
	return true
}

// ErrLargeBody says that a request's body is larger than max_body: the request is passed
// on with all of it.
var ErrLargeBody = errors.New("request body is larger than max_body")

// BadWait is a client's wait that is neither a number nor a duration (contract 3.4). Its
// text is for the client.
type BadWait struct{ Read string }

func (e BadWait) Error() string {
	return fmt.Sprintf("wait %q is neither a number, zero or more, nor a duration such as 30s or 5m", e.Read)
}

// Conditional reports whether the client's version came in a precondition field,
// which a 304 answers.
func (p *Poll) Conditional() bool { return p.tags != nil || !p.date.IsZero() }

// Named reports whether the client has named a version.
func (p *Poll) Named() bool { return p.since != "" || p.Conditional() }

// Replacer is that of the request. It is the goroutine's that serves the request, but for
// what Lent allows.
func (p *Poll) Replacer() *caddy.Replacer { return p.repl }

// Asks reports whether the request is a poll: it says how long it will wait, or what
// version it has. A precondition that a browser's cache or, with `polls asked`, any
// other may have added by itself says nothing (contract 3.7).
func (p *Poll) Asks() bool { return p.asks }

// judge finds out what Asks says: it is asked again and again.
func (p *Poll) judge() bool {
	return p.says || p.since != "" || OfTags(p.rules.Since) && p.tags != nil ||
		p.Conditional() && !p.rules.OnlyAsked && !httphdr.FromBrowser(p.Request.Header)
}

// Shared reports whether the request is answered with what is read for all who ask the
// same. Else it is its client's own exchange (contract 3.8).
func (p *Poll) Shared() bool {
	return p.Asks() || len(p.rules.HoldWhile) > 0 || p.rules.ParkUnnamed || p.rules.Freshness > 0
}

// Ask reads what is asked. Its error is ErrLargeBody, a BadWait, what reserve says, or
// that the body can not be read. Afterwards the request's body can be read again. Its
// stack frame is gone when the request parks.
//
// A body is read only where it has to be, and once reserve has found a place for the
// request: what stalls in the middle of it counts like what is parked.
func (p *Poll) Ask(reserve func() error) error {
	p.ID = p.rules.ids.Add(1)
	unread := p.Request.Body != nil && p.Request.Body != http.NoBody && p.Request.ContentLength != 0
	if unread && p.rules.asksBody() {
		if err := p.readBody(reserve); err != nil {
			return err
		}
		unread = false
	}
	if err := p.read(); err != nil || !p.Shared() {
		return err
	}
	if p.rules.Line != nil {
		p.rules.Line.See(p)
	}
	if unread {
		if err := p.readBody(reserve); err != nil {
			return err
		}
	}
	// It is here that the user is looked up, and not where that is needed: what looks
	// placeholders up has a large stack frame, and a stack that has grown does not
	// shrink while the request is parked.
	p.user, _ = p.repl.GetString("http.auth.user.id")
	if len(p.rules.Share.Values) > 0 {
		return OnOwnStack(func() error { p.identify(); return nil })
	}
	p.identify()
	return nil
}

// asksBody reports whether it takes a request's body to know what is asked.
func (ru *Rules) asksBody() bool {
	text := ru.Wait + ru.Since
	return Speaks(text, "request.") || strings.Contains(text, "{http.request.body")
}

// read reads how long the client will wait, and what it has.
func (p *Poll) read() (err error) {
	if strings.Contains(p.rules.Wait, "{") || strings.Contains(p.rules.Since, "{") {
		err = OnOwnStack(p.readBoth)
	} else {
		err = p.readBoth()
	}
	p.asks = p.judge()
	return err
}

func (p *Poll) readBoth() error {
	if p.follows {
		p.readLastEvent()
		return nil
	}
	if err := p.readWait(); err != nil {
		return err
	}
	p.readSince()
	return nil
}

// Overhear reads what is asked, for who only looks on: what would be a bad request is
// not parked.
func (p *Poll) Overhear() {
	p.ID = p.rules.ids.Add(1)
	if p.read() != nil {
		p.Limit = 0
	}
	p.user, _ = p.repl.GetString("http.auth.user.id")
	p.identify()
}

// readBody reads the body to its end: only then does net/http notice that an
// HTTP/1.1 client goes away.
func (p *Poll) readBody(reserve func() error) error {
	r, limit := p.Request, p.rules.MaxBody
	if r.ContentLength > limit {
		return ErrLargeBody
	}
	if err := reserve(); err != nil {
		return err
	}
	orig := r.Body
	body, err := io.ReadAll(io.LimitReader(orig, limit+1))
	if err != nil {
		return fmt.Errorf("reading request body: %w", err)
	}
	if int64(len(body)) > limit {
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(body), orig), orig}
		return ErrLargeBody
	}
	p.Body = body
	p.Rewind()
	return nil
}

// Rewind makes the request's body readable again.
func (p *Poll) Rewind() {
	if p.Body != nil {
		p.Request.Body = io.NopCloser(bytes.NewReader(p.Body))
	}
}

// readWait finds out how long the request may be parked (contract 3.4).
func (p *Poll) readWait() error {
	if httphdr.FromCheck(p.Request.Header) {
		p.says = true // its own clients wait there, and to that Caddy a wait here would be an outage
		return nil
	}
	hold := p.rules.Hold
	if p.rules.Line != nil {
		hold = p.rules.Line.Hold(p.Arrived)
	}
	limit := hold
	preferred, _ := httphdr.PreferWait(p.Request.Header["Prefer"])
	if p.rules.Wait != "" {
		text := strings.TrimSpace(p.repl.ReplaceAll(p.rules.Wait, ""))
		if text != "" {
			p.says = true
			unit := time.Second
			if p.rules.WaitUnit == "ms" {
				unit = time.Millisecond
			}
			wait, ok := httphdr.ParseWait(text, unit)
			if !ok {
				return BadWait{text}
			}
			limit, p.wanted = min(wait, hold), wait
		}
	} else if wait, ok := httphdr.ParseWait(preferred, time.Second); ok {
		limit, p.says, p.wanted = min(wait, hold), true, wait
		p.Applied = "wait=" + preferred
	} else if wait, ok := httphdr.ParseWait(textproto.TrimString(p.Request.Header.Get("Wait")), time.Second); ok {
		limit, p.says, p.wanted = min(wait, hold), true, wait
	}
	p.Limit = limit - time.Duration(rand.Float64()*p.rules.Jitter/100*float64(limit))
	return nil
}

// readSince finds the version that the client has (contract 3.3, RFC 9110, section
// 13.2.2).
func (p *Poll) readSince() {
	if p.rules.Since != "" && !OfTags(p.rules.Since) {
		p.since = p.repl.ReplaceAll(p.rules.Since, "")
		if slices.Contains(p.rules.Unset, p.since) {
			p.since = ""
		}
		return
	}
	for _, field := range p.Request.Header["If-None-Match"] {
		if slices.Contains(p.rules.Unset, field) {
			continue
		}
		if tags := httphdr.SplitTags(field); p.tags == nil {
			p.tags = tags
		} else {
			p.tags = append(p.tags, tags...)
		}
	}
	if p.tags == nil && len(p.Request.Header["If-None-Match"]) == 0 {
		if since := p.Request.Header["If-Modified-Since"]; len(since) > 0 { // an error of ParseTime costs memory
			p.date, _ = http.ParseTime(since[0])
		}
	}
}

// Saw notes the head of an answer of the poll's own that passes: placeholders in logs may
// speak of it.
func (p *Poll) Saw(status int, header http.Header) { p.passed, p.header = uint16(status), header }

// Client is who is counted for max_parked_per_client: the address of the client as
// Caddy knows it, behind trusted proxies too.
func (p *Poll) Client() string {
	client, _ := caddyhttp.GetVar(p.Request.Context(), caddyhttp.ClientIPVarKey).(string)
	return client
}

// CountAge has the line know at what age the poll has ended, if it was parked and nothing
// was said since its arrival, as is on a stream. parked says how many are parked now. It
// returns what has been found by that, nil for nothing.
func (p *Poll) CountAge(parked func() int) *line.Finding {
	if p.ParkedAt.IsZero() || p.Outcome == Streamed || p.rules == nil || p.rules.Line == nil {
		return nil
	}
	age := p.ParkedAt.Sub(p.Arrived) + p.Held
	now := p.Arrived.Add(age)
	if p.Outcome == Left && !p.Draining {
		return p.rules.Line.Left(now, age, p.wanted, p, parked())
	}
	return p.rules.Line.Ended(now, age)
}
