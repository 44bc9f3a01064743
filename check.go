package longpoll

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// template is what checks are made from: the request that parked first, without
// what is only between its client and us. It shares nothing with that request
// that either of them changes, so that a check borrows nothing (SPEC rule 7.10).
type template struct {
	subject // whose request is never sent itself
	next    caddyhttp.Handler
	ctx     context.Context // of the server, not of the client
	server  *caddyhttp.Server
	vars    []setting
	orig    any                 // the http.Request that it was before it was rewritten; nil if that is unknown
	groups  map[string]struct{} // route groups that were satisfied on the way to us
	header  http.Header         // response fields that were set on the way to us
	loan    *loan
	repl    *caddy.Replacer // see replacer
	slot    bool            // it has a slot of max_checks, for the next exchange
}

// setting is one of Caddy's vars: as a map, the few there are take three times the
// memory, for as long as somebody waits.
type setting struct {
	name  string
	value any
}

// routeGroups is the context key of Caddy's route groups: handle blocks exclude
// one another by it. A check starts in the middle of the routes, so it has to
// know which were passed.
const routeGroups caddy.CtxKey = "route_group"

// template makes a template of the request. It runs on the request's goroutine,
// which is the only one that may read the request.
func (h *Handler) template(q *question, w http.ResponseWriter, next caddyhttp.Handler) *template {
	r := q.r
	t := &template{subject: q.subject, next: next, header: h.seed(w.Header())}
	t.state = nil // which a check says for itself
	t.ctx = context.Background()
	for _, key := range []any{http.ServerContextKey, http.LocalAddrContextKey} {
		if v := r.Context().Value(key); v != nil {
			t.ctx = context.WithValue(t.ctx, key, v)
		}
	}
	t.server, _ = r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	t.vars = make([]setting, 0, len(vars))
	for name, value := range vars {
		t.vars = append(t.vars, setting{name, value})
	}
	if groups, _ := r.Context().Value(routeGroups).(map[string]struct{}); len(groups) > 0 {
		t.groups = maps.Clone(groups)
	}
	t.orig = r.Context().Value(caddyhttp.OriginalRequestCtxKey)
	q.loan = h.lend(q.repl)
	t.loan = q.loan

	t.r = r.Clone(t.ctx)
	t.r.Body = nil
	head := t.r.Header
	for _, option := range strings.Split(strings.Join(head["Connection"], ","), ",") {
		head.Del(textproto.TrimString(option))
	}
	for _, name := range notAsked {
		delete(head, name)
	}
	if h.Public && !q.variation.credentials() {
		delete(head, "Authorization")
		delete(head, "Cookie")
	}
	if h.Version != "" || len(h.HoldWhile) > 0 || len(h.ignore) > 0 {
		acceptReadable(head)
	}
	if len(h.StripQuery) > 0 {
		t.r.URL.RawQuery = stripQuery(t.r.URL.RawQuery, h.StripQuery)
		t.r.RequestURI = t.r.URL.RequestURI()
	}
	return t
}

// seed is what the header of an answer begins with. As a rule that is the same for
// all requests, and the checks of all resources share it.
func (h *Handler) seed(header http.Header) http.Header {
	if last := h.lastSeed.Load(); last != nil && maps.EqualFunc(*last, header, slices.Equal) {
		return *last
	}
	seed := header.Clone()
	h.lastSeed.Store(&seed)
	return seed
}

// acceptReadable takes the content codings out of Accept-Encoding that decoder can
// not undo: in an answer that can not be read each member is missing.
func acceptReadable(head http.Header) {
	if len(head["Accept-Encoding"]) == 0 {
		return
	}
	var readable []string
	for coding := range strings.SplitSeq(strings.Join(head["Accept-Encoding"], ","), ",") {
		name, _, _ := strings.Cut(coding, ";")
		switch strings.ToLower(textproto.TrimString(name)) {
		case "gzip", "x-gzip", "zstd", "identity":
			readable = append(readable, textproto.TrimString(coding))
		}
	}
	if readable == nil {
		readable = []string{"identity"}
	}
	head["Accept-Encoding"] = []string{strings.Join(readable, ", ")}
}

// notAsked are the fields of a poll that are between its client and us:
// preconditions, preferences, and what is only for one hop (RFC 9110, section
// 7.6.1).
var notAsked = []string{
	"If-None-Match", "If-Modified-Since", "If-Range", "Range", "Prefer", "Wait",
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Expect",
}

// request is a fresh request for one check.
func (t *template) request(ctx context.Context, repl *caddy.Replacer, w http.ResponseWriter) *http.Request {
	r := t.r.Clone(ctx)
	r.Body = http.NoBody
	if t.body != nil {
		r.Body = io.NopCloser(bytes.NewReader(t.body))
		r.ContentLength = int64(len(t.body))
	}
	r = caddyhttp.PrepareRequest(r, repl, w, t.server)
	ctx = r.Context()
	if t.orig != nil {
		ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, t.orig)
		// The replacer reads the context of the very request that it was
		// prepared for.
		*r = *r.WithContext(ctx)
	}
	if vars, ok := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any); ok {
		for _, v := range t.vars {
			vars[v.name] = v.value
		}
	}
	if groups, ok := ctx.Value(routeGroups).(map[string]struct{}); ok {
		maps.Copy(groups, t.groups)
	}
	repl.Map(t.loan.get)
	return r
}

// loan is what a check may know of the placeholders that were set on the client's
// replacer on the way to us (an authenticated user, a match of a regular
// expression, the output of a map). Nobody can list them, so they are looked up
// when they are asked for: while the client's request is parked and touches
// nothing, by its own replacer; afterwards among those that were looked up before.
type loan struct {
	h      *Handler
	mu     sync.Mutex // protects what follows, and the client's replacer while it is parked
	repl   *caddy.Replacer
	values map[string]any
}

// lend begins a loan, and looks up what was asked for in earlier ones.
func (h *Handler) lend(repl *caddy.Replacer) *loan {
	l := &loan{h: h, repl: repl, values: make(map[string]any)}
	for _, key := range h.asked.list() {
		if v, ok := l.find(key); ok {
			l.values[key] = v
		}
	}
	return l
}

// find asks the client's replacer for what a check may ask for. Who panics there does
// so when the check asks, which that survives: here all others would be left without.
func (l *loan) find(key string) (v any, ok bool) {
	defer func() {
		if recover() != nil {
			v, ok = nil, false
		}
	}()
	return l.repl.Get(key)
}

// end takes the client's replacer back.
func (l *loan) end() {
	if l != nil {
		l.mu.Lock()
		l.repl = nil
		l.mu.Unlock()
	}
}

func (l *loan) lock() {
	if l != nil {
		l.mu.Lock()
	}
}

func (l *loan) unlock() {
	if l != nil {
		l.mu.Unlock()
	}
}

// get looks up a placeholder for a check.
func (l *loan) get(key string) (any, bool) {
	if _, ours := ourKey(key); ours {
		return nil, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if v, ok := l.values[key]; ok {
		return v, true
	}
	if l.repl == nil {
		return nil, false
	}
	v, ok := l.repl.Get(key)
	if ok {
		l.values[key] = v
		l.h.asked.add(key)
	}
	return v, ok
}

// names is a small set of the placeholders that the handlers behind us ask for.
// They come from the configuration, but a bound costs nothing.
type names struct {
	mu  sync.Mutex // protects all
	all []string
}

func (n *names) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.all) < 64 && !slices.Contains(n.all, name) {
		n.all = append(n.all, name)
	}
}

func (n *names) list() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clip(n.all)
}

// Why a check failed, where no handler says it.
var (
	errTimeout  = errors.New("check took longer than check_timeout")
	errAborted  = errors.New("the backend aborted its answer")
	errNothing  = errors.New("no handler answered the check")
	errUnasked  = errors.New("the backend answered 304 to a request without preconditions")
	errOverdue  = errors.New("no check has ended within the time limit")
	errLookElse = errors.New("the answer can not be shared") // pass through
)

// exchange asks the handlers behind us once, for method and uri if they are given,
// and with tag as If-None-Match. The caller holds a slot of max_checks, which is
// given back when the handlers have returned. They have a goroutine of their own
// for that: some do not notice that their context has ended (FastCGI), and its
// stack goes when it goes.
//
// An answer that can not be shared or held gives errLookElse.
func (t *template) exchange(probe *url.URL, method, tag string) (*answer, error) {
	h := t.h
	// Cancelled without a cause and without a deadline: those count against the
	// upstream in passive health checks.
	ctx, cancel := context.WithCancel(t.ctx)
	w := newRecorder(t.header, *h.MaxBody)
	w.bodiless = cmp.Or(method, t.r.Method) == http.MethodHead
	repl := caddy.NewReplacer()
	done := make(chan error, 1)
	t.slot = false // it is the exchange's now
	go func() {
		defer func() {
			if p := recover(); p != nil {
				err := errAborted
				if p != http.ErrAbortHandler {
					h.logger.Error("a handler panicked during a check", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
				}
				done <- err
			}
			h.slots.release()
		}()
		r := t.request(ctx, repl, w)
		if probe != nil {
			r.Method, r.URL, r.RequestURI = method, probe, probe.RequestURI()
			r.Body, r.ContentLength = http.NoBody, 0
		}
		if tag != "" {
			r.Header.Set("If-None-Match", tag)
		}
		done <- t.next.ServeHTTP(w, r)
	}()
	timer := time.NewTimer(time.Duration(*h.CheckTimeout))
	defer timer.Stop()
	defer cancel()
	select {
	case err := <-done:
		return w.result(err)
	case <-w.stopped:
		return nil, errLookElse
	case <-timer.C:
		if w.giveUp() {
			return nil, errLookElse
		}
		return nil, errTimeout
	}
}

// recorder is the response writer of a check. It does not unwrap to that of any
// client.
type recorder struct {
	seed     http.Header // what the header began with
	limit    int64
	bodiless bool          // it is the answer to a HEAD
	stopped  chan struct{} // closed when the answer turns out to be not for us

	header http.Header // the handlers'

	mu     sync.Mutex  // protects what follows: handlers may go on after we gave up
	status int         // 0 before the final status
	final  http.Header // header as it was then
	body   bytes.Buffer
	over   bool // no more is recorded
}

func newRecorder(seed http.Header, limit int64) *recorder {
	return &recorder{seed: seed, limit: limit, stopped: make(chan struct{}), header: seed.Clone()}
}

var errStopped = errors.New("the check has ended")

func (w *recorder) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

func (w *recorder) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeaderLocked(status)
}

func (w *recorder) writeHeaderLocked(status int) {
	if w.status != 0 || w.over {
		return
	}
	if status == http.StatusSwitchingProtocols {
		w.stopLocked()
		return
	}
	if status < 200 {
		return // informational; the final status follows
	}
	w.status, w.final = status, w.header.Clone()
	if strings.HasPrefix(strings.ToLower(w.final.Get("Content-Type")), "text/event-stream") {
		w.stopLocked()
	}
	if w.announcedLocked() > w.limit {
		w.stopLocked()
	}
}

// announcedLocked is how long the body is said to be; 0 if that is not said, or if
// there is none (RFC 9110, section 8.6).
func (w *recorder) announcedLocked() int64 {
	if w.bodiless || !hasBody(w.status) {
		return 0
	}
	length, _ := strconv.ParseInt(w.final.Get("Content-Length"), 10, 64)
	return length
}

func (w *recorder) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeaderLocked(http.StatusOK)
	if w.over {
		return 0, errStopped
	}
	if int64(w.body.Len()+len(p)) > w.limit {
		w.stopLocked()
		return 0, errStopped
	}
	return w.body.Write(p)
}

// FlushError has nothing to do, but must be there: without it a flush is an error.
func (w *recorder) FlushError() error { return nil }

func (w *recorder) stopLocked() {
	if w.over {
		return
	}
	w.over = true
	w.body = bytes.Buffer{}
	close(w.stopped)
}

// giveUp ends the recording, and reports whether an answer had begun.
func (w *recorder) giveUp() (begun bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.body = bytes.Buffer{}
	return w.status != 0
}

// result is what was recorded, after the handlers returned err.
func (w *recorder) result(err error) (*answer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.over:
		return nil, errLookElse
	case err != nil:
		return nil, err
	case w.status == 0:
		return nil, errNothing
	case w.status == 499, int64(w.body.Len()) < w.announcedLocked():
		return nil, errAborted // reverse_proxy's word for an exchange that was broken off
	}
	a := &answer{status: w.status, header: w.final, body: bytes.Clone(w.body.Bytes())}
	if a.header == nil {
		a.header = make(http.Header)
	}
	a.strip()
	for name, values := range w.seed {
		if name == "Set-Cookie" { // each client has its own already
			a.cookies = slices.DeleteFunc(a.cookies, func(c string) bool { return slices.Contains(values, c) })
			continue
		}
		now, ok := a.header[name]
		if !ok {
			a.absent = append(a.absent, name)
		} else if slices.Equal(now, values) {
			delete(a.header, name) // each client's own way to us has set it
		}
	}
	a.plain = decoder(strings.ToLower(a.header.Get("Content-Encoding")), a.body, w.limit)
	return a, nil
}

// strip takes out what is only for one hop or for one client, and what is made
// anew.
func (a *answer) strip() {
	for _, option := range strings.Split(strings.Join(a.header["Connection"], ","), ",") {
		a.header.Del(textproto.TrimString(option))
	}
	for _, name := range []string{
		"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authenticate",
		"Date", "Content-Length",
	} {
		delete(a.header, name)
	}
	a.cookies = a.header["Set-Cookie"]
	delete(a.header, "Set-Cookie")
}

// fails reports whether a status is an outage rather than an answer (SPEC rule
// 7.7).
func fails(status int) bool { return status >= 500 || status == http.StatusTooManyRequests }

// errorStatus is the status that Caddy's error routes would make of err.
func errorStatus(err error) int {
	var he caddyhttp.HandlerError
	if errors.As(err, &he) && he.StatusCode != 0 {
		return he.StatusCode
	}
	switch {
	case errors.Is(err, errTimeout), errors.Is(err, errOverdue):
		return http.StatusGatewayTimeout
	case errors.Is(err, errAborted), errors.Is(err, errNothing), errors.Is(err, errUnasked):
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

// release gives back a slot that no exchange has used.
func (t *template) release() {
	if t.slot {
		t.slot = false
		t.h.slots.release()
	}
}

// check finds out what the backend says now; old is what it said last, if it is
// known.
func (t *template) check(old *state) (s *state) {
	s = &state{owner: t.id}
	// Placeholders of other modules, and what decodes the backend's bytes, run on the
	// poller's goroutine, where nobody else would recover.
	defer func() {
		if p := recover(); p != nil {
			t.h.logger.Error("a check panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			t.release()
			s = &state{owner: t.id, ended: time.Now()}
			t.conclude(s, nil, nil, errAborted)
		}
	}()
	if t.h.Probe == nil {
		t.ask(s, old)
	} else {
		t.probe(s, old)
	}
	s.held = s.fault() && t.holds(s)
	s.news = old != nil && t.differ(old, s)
	s.ended = time.Now()
	return s
}

// ask reads the resource itself into s.
func (t *template) ask(s, old *state) {
	var tag string
	if old != nil {
		tag = old.answer.validator()
	}
	a, err := t.exchange(nil, "", tag)
	if a != nil && a.status == http.StatusNotModified {
		if tag == "" {
			a, err = nil, errUnasked
		} else {
			a = old.answer.freshened(a)
		}
	}
	t.conclude(s, a, a, err)
}

// probe reads the probe into s, and, where that says that something has changed and
// somebody will want to read it, the resource.
func (t *template) probe(s, old *state) {
	h := t.h
	uri, err := probeURL(h.Probe.URI, t.replacer(old))
	if err != nil {
		t.release()
		t.conclude(s, nil, nil, err)
		return
	}
	var tag string
	if old != nil {
		tag = old.seen.validator()
	}
	p, err := t.exchange(uri, h.Probe.Method, tag)
	if p != nil && p.status == http.StatusNotModified {
		if tag == "" {
			p, err = nil, errUnasked
		} else {
			p = old.seen.freshened(p)
		}
	}
	if err != nil || fails(p.status) {
		t.conclude(s, p, p, err)
		return
	}
	if h.OnChange != nil {
		t.conclude(s, p, p, nil)
		return
	}
	t.conclude(s, nil, p, nil)
	if old != nil && old.answer != nil && old.version == s.version {
		s.answer, s.etag, s.variation, s.varied = old.answer, old.etag, old.variation, old.varied
		return
	}
	if t.slot = h.slots.acquire(h.lot.Drained()); !t.slot {
		t.conclude(s, nil, nil, errAborted)
		return
	}
	a, err := t.exchange(nil, "", "")
	if a != nil && a.status == http.StatusNotModified {
		a, err = nil, errUnasked
	}
	if a != nil && fails(a.status) {
		p = a // it is the resource that fails, whatever the probe says
	}
	t.conclude(s, a, p, err)
}

// validator is what the next check asks with. An answer that is not 2xx has none:
// a 304 would not tell whether it or another with its ETag is meant.
func (a *answer) validator() string {
	if a == nil || a.status/100 != 2 {
		return ""
	}
	return a.header.Get("Etag")
}

// freshened is a, after a 304 said that it is still good (RFC 9111, section 3.2).
// The ETag stays: Caddy's encode puts the one without its suffix into a 304.
func (a *answer) freshened(by *answer) *answer {
	b := *a
	b.header = a.header.Clone()
	for _, name := range pauseFields {
		delete(b.header, name) // it asked for a pause then, and does not now
	}
	for name, values := range by.header {
		switch name {
		case "Etag", "Content-Encoding", "Content-Type", "Content-Range":
		case "Vary":
			for _, v := range values { // less would let others read it
				if !slices.Contains(b.header[name], v) {
					b.header[name] = append(b.header[name], v)
				}
			}
		default:
			b.header[name] = values
		}
	}
	b.cookies = by.cookies
	return &b
}

// conclude makes of an answer, or of the lack of one, what is kept of it. seen is
// where the version is read.
func (t *template) conclude(s *state, a, seen *answer, err error) {
	h := t.h
	s.answer, s.seen, s.err = a, seen, nil
	if errors.Is(err, errLookElse) {
		s.through = true
		return
	}
	if err != nil {
		s.err = asHandlerError(err)
		s.version = version{status: errorStatus(err)}
		return
	}
	s.version.status = seen.status
	var text string
	if h.Version != "" {
		text = t.value(h.Version, s)
	}
	h.identify(s, text)
	if a != nil {
		t.sharing(s)
	}
}

// identify finds the version of s, which has been read, and what a client's copy of
// it is known by; text is what `version` gives, if it is configured.
func (h *Handler) identify(s *state, text string) {
	a, seen := s.answer, s.seen
	switch {
	case h.Version != "":
		s.version.text = text
	case len(h.ignore) == 0 && seen.header.Get("Etag") != "":
		s.version.text = seen.header.Get("Etag")
	default:
		s.version.text = h.fingerprint(seen)
	}
	if a == nil {
		return
	}
	s.etag = a.header.Get("Etag")
	if a.status/100 == 2 {
		ownTag := len(h.ignore) > 0 || s.etag == ""
		if h.Version != "" {
			// Where clients name the version by If-None-Match, it has to be the
			// version that they are given.
			ownTag = h.Since == ""
		}
		if ownTag {
			s.etag = tagFor(s.version.text)
		}
	}
}

// value replaces the placeholders in text by what they are for the check. Only
// the poller calls it.
func (t *template) value(text string, s *state) string {
	return t.replacer(s).ReplaceAll(text, "")
}

// replacer resolves placeholders for the check, those that speak of s too.
func (t *template) replacer(s *state) *caddy.Replacer {
	if t.repl == nil {
		t.repl = caddy.NewReplacer()
		t.request(t.ctx, t.repl, nil)
		t.repl.Map(t.placeholder)
	}
	t.state = s
	return t.repl
}

// holds reports whether a hold_while is true of s, as far as the check can tell.
// Where there was no answer nothing is, but for what has a value even then, such as
// the status: each member would be `empty`, and an outage no news.
func (t *template) holds(s *state) bool {
	for i := range t.h.HoldWhile {
		c := &t.h.HoldWhile[i]
		if value := t.value(c.Value, s); (s.err == nil || value != "") && c.holds(value) {
			return true
		}
	}
	return false
}

// probeURL replaces the placeholders in a probe's URI so that none of their values
// can reach beyond the part of the URI that it stands in.
func probeURL(uri string, repl *caddy.Replacer) (*url.URL, error) {
	path, query, hasQuery := strings.Cut(uri, "?")
	path, _ = repl.ReplaceFunc(path, func(name string, v any) (any, error) {
		text := caddy.ToString(v)
		if name == "http.request.uri.path" || strings.HasPrefix(name, "http.request.orig_uri.path") {
			return (&url.URL{Path: text}).EscapedPath(), nil // slashes are its own
		}
		return url.PathEscape(text), nil
	})
	u, err := url.ParseRequestURI(path) // two slashes do not make a host of what follows
	if err != nil || !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("probe %q is not a path with an optional query", path)
	}
	// Escaped or not, a segment of dots is a step up for most of those who read it.
	for segment := range strings.FieldsFuncSeq(u.Path, func(r rune) bool { return r == '/' || r == '\\' }) {
		if segment == "." || segment == ".." {
			return nil, caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("probe %q climbs by %q", path, segment))
		}
	}
	if hasQuery {
		u.RawQuery, _ = repl.ReplaceFunc(query, func(name string, v any) (any, error) {
			text := caddy.ToString(v)
			if name == "http.request.uri.query" {
				return text, nil
			}
			return url.QueryEscape(text), nil
		})
	}
	return u, nil
}
