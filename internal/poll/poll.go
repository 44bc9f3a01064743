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

// Rules is the part of the configuration that polls are read and judged by. The zero
// value of a string is the default of its subdirective.
type Rules struct {
	Hold         time.Duration
	Jitter       float64 // percent
	CheckTimeout time.Duration
	Interval     time.Duration
	Linger       time.Duration
	Freshness    time.Duration
	MaxBody      int64
	Methods      []string
	Wait         string
	WaitUnit     string
	Since        string
	Unset        []string
	Version      string
	HoldWhile    []Condition
	ParkUnnamed  bool // unversioned park
	Release      bool // on_error release

	Share *share.Rules
	State *state.Rules

	ids atomic.Uint64
}

// Subject is what is asked about: what a poll has in common with the checks that are
// made on its behalf.
type Subject struct {
	Request *http.Request
	Body    []byte
	ID      uint64 // tells the poll from all others; 0 for none

	Name      lot.Name
	Base      lot.Key          // what always tells resources apart
	Variation *share.Variation // what the backend's Vary adds; nil if nothing
}

// Key is what tells the resource from all others.
func (s *Subject) Key() lot.Key { return s.Variation.Key(s.Base, s.Request.Header, s.ID) }

// MayRead reports whether st, whose answer may depend on more than is always
// compared, is an answer to s too.
func (s *Subject) MayRead(st *state.State) bool {
	return st.Variation == nil || st.Variation.Key(lot.Key{}, s.Request.Header, s.ID) == st.Varied
}

// Poll is what one request asks: what it waits for, the version that it has, how long
// it will wait, what else holds it; and, at its end, what has become of it.
type Poll struct {
	Subject
	Arrived time.Time
	Limit   time.Duration // how long it may be parked; 0 is not at all
	Applied string        // the value of a Prefer: wait that is honoured
	Lent    Lent          // its placeholders, while a check may read them; nil if none may

	rules *Rules
	repl  *caddy.Replacer
	user  string // who was authenticated on the way to us

	since  string         // the version that it has, by `since`
	tags   []string       // or by If-None-Match
	date   time.Time      // or by If-Modified-Since
	parked *state.Version // the version that it is parked on

	Deadlines Deadlines

	Asked    bool // the backend is asked because of it
	ParkedAt time.Time
	Draining bool  // its time is up because of a drain
	Refusal  error // which bound it hit

	// What it was told, for placeholders in logs and in the answer itself.
	Told    *state.Reading
	Outcome Outcome
	Held    time.Duration
}

// Deadlines are those of the client's connection, for who clears them while the poll is
// parked and restarts them afterwards.
type Deadlines struct {
	Writer  *caddyhttp.IdleTimeoutWriter // of the server; nil if it has none
	Timeout time.Duration                // the server's write_timeout
}

// Lent is the placeholders of a request, while checks that are made on its behalf may
// read them. While it is locked no check does.
type Lent interface {
	sync.Locker
	End()
}

// New makes what becomes of the request visible to logs.
func (ru *Rules) New(r *http.Request) *Poll {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	p := &Poll{Subject: Subject{Request: r}, rules: ru, repl: repl, Arrived: time.Now()}
	repl.Map(p.Placeholder)
	return p
}

// Parkable reports whether r is a request that could be parked (contract 3.1). If-Match
// and If-Unmodified-Since are for the backend to judge, and a check bears no
// preconditions but its own.
func (ru *Rules) Parkable(r *http.Request) bool {
	head := r.Header
	return slices.Contains(ru.Methods, r.Method) &&
		len(head["Upgrade"]) == 0 && len(head["Range"]) == 0 &&
		len(head["If-Match"]) == 0 && len(head["If-Unmodified-Since"]) == 0 &&
		!strings.Contains(strings.ToLower(strings.Join(head["Accept"], ",")), "text/event-stream")
}

// ErrLargeBody says that a request's body is larger than max_body: it is passed on.
var ErrLargeBody = errors.New("request body is larger than max_body")

// BadWait is a client's wait that is neither a number nor a duration.
type BadWait struct{ Read string }

func (e BadWait) Error() string {
	return fmt.Sprintf("wait %q is neither a number, zero or more, nor a duration such as 30s or 5m", e.Read)
}

// Conditional reports whether the client's version came in a precondition field,
// which a 304 answers.
func (p *Poll) Conditional() bool { return p.tags != nil || !p.date.IsZero() }

// Named reports whether the client has named a version.
func (p *Poll) Named() bool { return p.since != "" || p.Conditional() }

// Replacer is that of the request.
func (p *Poll) Replacer() *caddy.Replacer { return p.repl }

// Begin tells the poll from others. It is here that the user is looked up, and not
// where that is needed: what looks placeholders up has a large stack frame, and a
// stack that has grown does not shrink while the request is parked.
func (p *Poll) Begin() {
	p.ID = p.rules.ids.Add(1)
	p.user, _ = p.repl.GetString("http.auth.user.id")
}

// Ask reads what is asked: ErrLargeBody, a BadWait, or that the body can not be read
// is its error. Afterwards the request's body can be read again. Its stack frame is
// gone when the request parks.
func (p *Poll) Ask() error {
	p.Begin()
	if err := p.readBody(); err != nil {
		return err
	}
	if strings.Contains(p.rules.Wait, "{") || strings.Contains(p.rules.Since, "{") || len(p.rules.Share.Values) > 0 {
		return OnOwnStack(p.read)
	}
	return p.read()
}

// read reads all but the body.
func (p *Poll) read() error {
	if err := p.readWait(); err != nil {
		return err
	}
	p.readSince()
	p.identify()
	p.Variation = p.rules.Share.Memory.Of(p.Name)
	return nil
}

// Overhear reads what is asked, for who only looks on: what would be a bad request is
// not parked.
func (p *Poll) Overhear() {
	if p.readWait() != nil {
		p.Limit = 0
	}
	p.readSince()
	p.identify()
}

func (p *Poll) identify() {
	r := p.Request
	p.Name = lot.Name{Method: r.Method, Host: strings.ToLower(r.Host), Path: r.URL.Path}
	p.Base = p.rules.Share.Key(r, p.Name, share.Asker{Body: p.Body, User: p.user, Value: func(text string) string {
		return p.repl.ReplaceAll(text, "")
	}})
}

// OnOwnStack calls f on a goroutine of its own, since to look up placeholders takes a
// deep stack: that of a request would stay as deep for as long as it is parked.
func OnOwnStack(f func() error) error {
	type end struct {
		err   error
		panic any
	}
	ended := make(chan end, 1)
	go func() {
		e := end{panic: "a placeholder ended its goroutine"}
		defer func() {
			if p := recover(); p != nil {
				e.panic = p
			}
			ended <- e
		}()
		e.err, e.panic = f(), nil
	}()
	e := <-ended
	if e.panic != nil {
		panic(e.panic) // for net/http, as if it had happened here
	}
	return e.err
}

// readBody reads the body to its end: only then does net/http notice that an
// HTTP/1.1 client goes away.
func (p *Poll) readBody() error {
	r, limit := p.Request, p.rules.MaxBody
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil
	}
	if r.ContentLength > limit {
		return ErrLargeBody
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
	hold := p.rules.Hold
	limit := hold
	preferred, _ := httphdr.PreferWait(p.Request.Header["Prefer"])
	if p.rules.Wait != "" {
		text := strings.TrimSpace(p.repl.ReplaceAll(p.rules.Wait, ""))
		if text != "" {
			unit := time.Second
			if p.rules.WaitUnit == "ms" {
				unit = time.Millisecond
			}
			wait, ok := httphdr.ParseWait(text, unit)
			if !ok {
				return BadWait{text}
			}
			limit = min(wait, hold)
		}
	} else if wait, ok := httphdr.ParseWait(preferred, time.Second); ok {
		limit = min(wait, hold)
		p.Applied = "wait=" + preferred
	} else if wait, ok := httphdr.ParseWait(textproto.TrimString(p.Request.Header.Get("Wait")), time.Second); ok {
		limit = min(wait, hold)
	}
	p.Limit = limit - time.Duration(rand.Float64()*p.rules.Jitter/100*float64(limit))
	return nil
}

// readSince finds the version that the client has (contract 3.3, RFC 9110, section
// 13.2.2).
func (p *Poll) readSince() {
	if p.rules.Since != "" {
		p.since = p.repl.ReplaceAll(p.rules.Since, "")
		if slices.Contains(p.rules.Unset, p.since) {
			p.since = ""
		}
		return
	}
	for _, field := range p.Request.Header["If-None-Match"] {
		if tags := httphdr.SplitTags(field); p.tags == nil {
			p.tags = tags
		} else {
			p.tags = append(p.tags, tags...)
		}
	}
	if p.tags == nil && len(p.Request.Header["If-None-Match"]) == 0 {
		p.date, _ = http.ParseTime(p.Request.Header.Get("If-Modified-Since"))
	}
}

// Client is who is counted for max_parked_per_client: the address of the client as
// Caddy knows it, behind trusted proxies too.
func (p *Poll) Client() string {
	client, _ := caddyhttp.GetVar(p.Request.Context(), caddyhttp.ClientIPVarKey).(string)
	return client
}
