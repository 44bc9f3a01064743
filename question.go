package longpoll

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// subject is what is asked about: what a request has in common with the checks that
// are made on its behalf.
type subject struct {
	h    *Handler
	r    *http.Request
	body []byte
	id   uint64

	name      lot.Name
	base      lot.Key    // what always tells resources apart
	variation *variation // what the backend's Vary adds; nil if nothing

	state *state // what it is answered with, or was looked at last
}

// question is what one request asks: what it waits for, the version that it has,
// how long it will wait, what else holds it.
type question struct {
	subject
	repl    *caddy.Replacer
	user    string // who was authenticated on the way to us
	arrived time.Time

	limit   time.Duration // how long it may be parked; 0 is not at all
	applied string        // the value of a Prefer: wait that is honoured

	since  string    // the version that it has, by `since`
	tags   []string  // or by If-None-Match
	date   time.Time // or by If-Modified-Since
	parked *version  // the version that it is parked on

	loan *loan // its placeholders, while a check may read them

	writer       *caddyhttp.IdleTimeoutWriter // of the server; nil if it has none
	writeTimeout time.Duration                // of the server

	asked bool // the backend is asked because of it

	parkedAt time.Time
	draining bool  // its time is up because of a drain
	refusal  error // which bound it hit
	outcome  outcome
	held     time.Duration
}

// conditional reports whether the client's version came in a precondition field,
// which a 304 answers.
func (q *question) conditional() bool { return q.tags != nil || !q.date.IsZero() }

// named reports whether the client has named a version.
func (q *question) named() bool { return q.since != "" || q.conditional() }

// parkable reports whether r is a request that could be parked (SPEC rule 3.1). If-Match and
// If-Unmodified-Since are for the backend to judge, and a check bears no
// preconditions but its own.
func (h *Handler) parkable(r *http.Request) bool {
	head := r.Header
	return slices.Contains(h.Methods, r.Method) &&
		len(head["Upgrade"]) == 0 && len(head["Range"]) == 0 &&
		len(head["If-Match"]) == 0 && len(head["If-Unmodified-Since"]) == 0 &&
		!strings.Contains(strings.ToLower(strings.Join(head["Accept"], ",")), "text/event-stream")
}

// errLargeBody says that a request's body is larger than max_body.
var errLargeBody = errors.New("request body is larger than max_body")

// badWait is a client's wait that is neither a number nor a duration.
type badWait struct{ read string }

func (e badWait) Error() string {
	return fmt.Sprintf("wait %q is neither a number, zero or more, nor a duration such as 30s or 5m", e.read)
}

// question makes what becomes of the request visible to logs.
func (h *Handler) question(r *http.Request) *question {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	q := &question{subject: subject{h: h, r: r}, repl: repl, arrived: time.Now()}
	repl.Map(q.placeholder)
	return q
}

// begin tells the question from others. It is here that the user is looked up, and
// not where that is needed: what looks placeholders up has a large stack frame, and
// a stack that has grown does not shrink while the request is parked.
func (q *question) begin() {
	q.id = q.h.questions.Add(1)
	q.user, _ = q.repl.GetString("http.auth.user.id")
}

// ask reads what is asked. Afterwards the request's body can be read again. Its
// stack frame is gone when the request parks.
func (q *question) ask() error {
	q.begin()
	if isWrite(q.r.Method) {
		caddyhttp.SetVar(q.r.Context(), seenVar, true) // a poll by POST is no write
	}
	if err := q.readBody(*q.h.MaxBody); err != nil {
		return err
	}
	if q.h.deep {
		return apart(q.read)
	}
	return q.read()
}

// read reads all but the body.
func (q *question) read() error {
	if err := q.readWait(); err != nil {
		return err
	}
	q.readSince()
	q.name = lot.Name{Method: q.r.Method, Host: strings.ToLower(q.r.Host), Path: q.r.URL.Path}
	q.base = q.digest()
	q.variation = q.h.variations.of(q.name)
	return nil
}

// apart calls f on a goroutine of its own, since to look up placeholders takes a
// deep stack: that of a request would stay as deep for as long as it is parked.
func apart(f func() error) error {
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
func (q *question) readBody(limit int64) error {
	r := q.r
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil
	}
	if r.ContentLength > limit {
		return errLargeBody
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
		return errLargeBody
	}
	q.body = body
	q.rewind()
	return nil
}

// rewind makes the body readable again.
func (q *question) rewind() {
	if q.body != nil {
		q.r.Body = io.NopCloser(bytes.NewReader(q.body))
	}
}

// readWait finds out how long the request may be parked (SPEC rule 3.4).
func (q *question) readWait() error {
	hold := time.Duration(*q.h.Hold)
	limit := hold
	preferred, _ := preferWait(q.r.Header["Prefer"])
	if q.h.Wait != "" {
		text := strings.TrimSpace(q.repl.ReplaceAll(q.h.Wait, ""))
		if text != "" {
			unit := time.Second
			if q.h.WaitUnit == "ms" {
				unit = time.Millisecond
			}
			wait, ok := parseWait(text, unit)
			if !ok {
				return badWait{text}
			}
			limit = min(wait, hold)
		}
	} else if wait, ok := parseWait(preferred, time.Second); ok {
		limit = min(wait, hold)
		q.applied = "wait=" + preferred
	} else if wait, ok := parseWait(textproto.TrimString(q.r.Header.Get("Wait")), time.Second); ok {
		limit = min(wait, hold)
	}
	q.limit = limit - time.Duration(rand.Float64()**q.h.Jitter/100*float64(limit))
	return nil
}

// parseWait reads a bare number in units, or a Go duration. What is too large for
// a duration is as long as can be.
func parseWait(text string, unit time.Duration) (time.Duration, bool) {
	if text == "" || len(text) > 64 {
		return 0, false
	}
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		if strings.ContainsAny(text, "xXpPiInN_") || !(n >= 0) { // no hex, no Inf, no NaN
			return 0, false
		}
		if n > float64(1<<62)/float64(unit) {
			return 1 << 62, true
		}
		return time.Duration(n * float64(unit)), true
	}
	d, err := time.ParseDuration(text)
	return d, err == nil && d >= 0
}

// preferWait finds the value of the first wait preference (RFC 7240, sections 2
// and 4.3). It is lenient: real clients send "wait=60s;index=TOKEN".
func preferWait(fields []string) (string, bool) {
	for _, field := range fields {
		for _, pref := range splitTags(field) {
			pref, _, _ = strings.Cut(pref, ";")
			name, value, _ := strings.Cut(pref, "=")
			if strings.EqualFold(textproto.TrimString(name), "wait") {
				return strings.Trim(textproto.TrimString(value), `"`), true
			}
		}
	}
	return "", false
}

// readSince finds the version that the client has (SPEC rule 3.3, RFC 9110,
// section 13.2.2).
func (q *question) readSince() {
	if q.h.Since != "" {
		q.since = q.repl.ReplaceAll(q.h.Since, "")
		for _, unset := range q.h.Unset {
			if q.since == unset {
				q.since = ""
			}
		}
		return
	}
	for _, field := range q.r.Header["If-None-Match"] {
		if tags := splitTags(field); q.tags == nil {
			q.tags = tags
		} else {
			q.tags = append(q.tags, tags...)
		}
	}
	if q.tags == nil && len(q.r.Header["If-None-Match"]) == 0 {
		q.date, _ = http.ParseTime(q.r.Header.Get("If-Modified-Since"))
	}
}

// names reports whether s has the version that the client has.
func (q *question) names(s *state) bool {
	switch {
	case q.since != "":
		return s.version.is(q.since) || q.h.Version == "" && s.etag != "" && opaque(q.since) == opaque(s.etag)
	case q.tags != nil:
		return s.matches(q.tags)
	case !q.date.IsZero():
		if s.answer == nil {
			return false
		}
		modified, err := http.ParseTime(s.answer.header.Get("Last-Modified"))
		return err == nil && !modified.After(q.date)
	}
	return false
}

// holds reports whether a client that asks this has to wait, s being what the
// backend answers (SPEC rules 3.2, 3.3, 3.5 and 3.6).
func (q *question) holds(s *state) bool {
	q.state = s
	for i := range q.h.HoldWhile {
		if q.h.HoldWhile[i].holds(q.value(q.h.HoldWhile[i].Value)) {
			return true
		}
	}
	return q.current(s)
}

// current reports whether the client has what s is. Only a 2xx is something to
// have (RFC 9110, section 13.2.1).
func (q *question) current(s *state) bool {
	switch {
	case s.version.status/100 != 2:
		return false
	case q.parked == nil:
		return q.names(s) || q.awaitsFirst()
	case !q.date.IsZero() || q.awaitsFirst():
		// A date may fit several versions, and silence fits all: what the request
		// was parked on tells them apart.
		return *q.parked == s.version
	default:
		return q.parked.status == s.version.status && q.names(s)
	}
}

// awaitsFirst reports whether the client waits for the first change after its
// arrival.
func (q *question) awaitsFirst() bool { return q.h.Unversioned == "park" && !q.named() }

// verdict is what becomes of a request, seen from a snapshot.
type verdict int

const (
	hold    verdict = iota // it waits: the client has what there is
	ask                    // a check has to be made first
	ready                  // there is something to say
	same                   // there is nothing to say, but it must not wait
	expire                 // its time is up
	drain                  // it is released early
	fault                  // it gets the backend's error
	refuse                 // a bound forbids to park it
	gone                   // its client has left
	moved                  // it waits for something else than those it has joined
	through                // it asks the backend for itself
)

// look judges a snapshot.
func (q *question) look(m *waiter, s *snapshot) verdict {
	if s.Failed() {
		if m.Parked() && q.h.OnError == "release" || !m.Parked() && m.Tried(s) {
			q.state = s.Fault
			return fault
		}
		if !m.Parked() {
			return ask // nobody is parked on a state that can not be read any more
		}
	}
	if !s.Known() {
		return ask
	}
	st := s.State
	if st.through {
		if time.Since(st.ended) < max(time.Duration(*q.h.Linger), time.Duration(*q.h.Interval)) {
			return through
		}
		return ask
	}
	if !q.mayRead(st) {
		return moved
	}
	recent := q.recent(m, s)
	if !q.holds(st) {
		if !recent {
			return ask // it may be older than what the client has
		}
		return ready
	}
	if m.Parked() {
		return hold
	}
	if !recent && (q.limit == 0 || q.awaitsFirst()) {
		return ask
	}
	if q.limit == 0 {
		return same
	}
	return hold
}

// recent reports whether the state of s is no older than the question, or than what
// `freshness` allows (SPEC rule 7.3).
func (q *question) recent(m *waiter, s *snapshot) bool {
	return m.Asked(s) || q.h.Freshness > 0 && !s.Began.Before(q.arrived.Add(-time.Duration(q.h.Freshness)))
}

// enter counts the request among those who wait, and then among the parked, and
// has checks made for it. It returns ask or hold if it may wait. It is not inlined
// into wait, whose frame a parked request keeps.
//
//go:noinline
func (q *question) enter(m *waiter, s *snapshot, v verdict, w http.ResponseWriter, next caddyhttp.Handler) verdict {
	if m.Watch() {
		h, r := q.h, m.Resource // q is not the poller's to keep
		var t *template
		_ = apart(func() error { t = h.template(q, w, next); return nil })
		m.Poll(func() { h.poll(r, t) })
	}
	q.asked = q.asked || m.First()
	if v == ask {
		// While the backend fails, those who are parked leave the pace to the
		// poller.
		if (!m.Parked() || !s.Failed()) && m.Want(s) {
			q.asked = true
		}
		return ask
	}
	if q.parked == nil && q.current(s.State) {
		q.parked = &s.State.version
	}
	if m.Parked() {
		return hold
	}
	switch err := m.Park(q.client()); {
	case errors.Is(err, lot.ErrDrained):
		if q.truthful(m, s) {
			return drain
		}
		return through
	case err != nil && !q.recent(m, s) && !time.Now().Before(m.Due()):
		// Where nobody is parked nobody looks, and one who is refused again and
		// again would never learn that it need not park any more.
		if m.Want(s) {
			q.asked = true
		}
		return ask
	case err != nil:
		q.refusal = err
		return refuse
	}
	if q.parkedAt.IsZero() {
		q.parkedAt = time.Now()
	}
	if q.parked == nil {
		// It is held by what the backend says, not by what the client has: if it
		// is told the same again, that has to be read after it has asked.
		m.NeedBy(q.arrived.Add(q.limit - min(q.limit/4, time.Duration(*q.h.CheckTimeout))))
	}
	q.clearDeadlines(w)
	return hold
}

// patience is how long it waits before timeUp is asked.
func (q *question) patience() time.Duration {
	if q.limit == 0 {
		return q.h.patience() // for a check, not parked
	}
	return time.Until(q.arrived.Add(q.limit))
}

// patience is how long a request that is not parked may wait for its first check,
// where many others are checked before it: as long as without us, which is the one
// in flight and one more.
func (h *Handler) patience() time.Duration {
	return max(time.Duration(*h.Hold), 2*time.Duration(*h.CheckTimeout))
}

// timeUp is what becomes of a request whose time is up: hold if there is nothing to
// say yet, and it may wait for its first check a little longer.
func (q *question) timeUp(m *waiter, s *snapshot) verdict {
	v := q.look(m, s)
	switch {
	case v != hold && v != ask:
		return v
	case m.Parked() && q.truthful(m, s):
		if q.draining {
			return drain
		}
		return expire
	case s.Failed():
		q.state = s.Fault
		return fault
	case q.draining:
		return through // what has changed is not known well enough to be told
	case (!m.Parked() || v == ask) && time.Since(q.arrived) < q.h.patience():
		return hold // the check that tells is about to be made, or in flight
	}
	q.state = &state{err: asHandlerError(errOverdue), version: version{status: errorStatus(errOverdue)}}
	return fault
}

// truthful reports whether the client can be told that what s says is still so:
// that was read after it asked, or it is what the client itself has said and
// nothing is known to the contrary. A drain can not wait for another check: who has
// named no version is told what is known, and can not be sent back in time by it.
func (q *question) truthful(m *waiter, s *snapshot) bool {
	return q.recent(m, s) || !s.Failed() && (q.current(s.State) || q.draining && !q.named())
}

// value replaces the placeholders in text by what they are for this client.
func (q *question) value(text string) string {
	// The usual case needs neither the replacer nor the stack that it takes.
	if name, ok := soleName(text); ok {
		if _, ours := ourKey(name); ours {
			v, _ := q.placeholder(name)
			return caddy.ToString(v)
		}
	}
	q.loan.lock()
	defer q.loan.unlock()
	return q.repl.ReplaceAll(text, "")
}

// soleName is the name of the placeholder that is all of text.
func soleName(text string) (string, bool) {
	if len(text) < 3 || text[0] != '{' || strings.IndexByte(text, '}') != len(text)-1 || strings.IndexByte(text[1:], '{') >= 0 {
		return "", false
	}
	return text[1 : len(text)-1], true
}

// holds reports whether the condition is true of value.
func (c *Condition) holds(value string) bool {
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

// client is who is counted for max_parked_per_client: the address of the client as
// Caddy knows it, behind trusted proxies too.
func (q *question) client() string {
	if q.h.MaxParkedPerClient == 0 {
		return ""
	}
	client, _ := caddyhttp.GetVar(q.r.Context(), caddyhttp.ClientIPVarKey).(string)
	return client
}
