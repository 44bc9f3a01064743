package contract_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	longpoll "github.com/caddy-longpoll/caddy-longpoll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/ops"
	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// TestMain fails if a goroutine of ours outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leaked(time.Minute); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines outlive the tests:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leaked waits for the goroutines of this module to end, and returns the stacks of
// those that have not.
func leaked(patience time.Duration) string {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		left := stacks("caddy-longpoll/caddy-longpoll")
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
	}
}

// stacks are those of other goroutines that text stands in.
func stacks(text string) []string {
	buf := make([]byte, 16<<20)
	all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	return slices.DeleteFunc(all[1:], func(stack string) bool { return !strings.Contains(stack, text) })
}

// virtual is a test in virtual time. It ends only when its goroutines have.
func virtual(f func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) { synctest.Test(t, f) }
}

// site is a handler, what is behind it, and what is before it.
type site struct {
	*longpoll.Handler
	t       testing.TB
	seen    *ops.Site // as operators see it
	lot     *poll.Lot // its
	backend *backend
	server  *caddyhttp.Server
	logs    *observer.ObservedLogs
	began   time.Time

	mu      sync.Mutex // protects clients and calls
	clients []*client

	// Of a site whose polls are detached: see detaches.
	doors *doors
	std   *http.Server
	calls map[string]*client

	spies []caddy.Module // the guests of `wake spy` and its like
	link  *boardLink     // the guest of `cluster board`

	// before is what other handlers do with a request on its way to us.
	before func(w http.ResponseWriter, r *http.Request)
}

// steady takes the chance out of times that a test wants to be exact about.
const steady = "hold 25s 0%\n"

// newSite makes a site of what stands in the block of the directive.
func newSite(t testing.TB, block string) *site {
	t.Helper()
	return provision(t, block, func() {
		time.Sleep(time.Hour) // checks that nobody waits for any more come to their end
	})
}

// realSite is newSite for tests in real time.
func realSite(t testing.TB, block string) *site {
	t.Helper()
	return provision(t, block, func() {})
}

// siteKey is the context key by which a guest module finds the site that it is part
// of.
const siteKey caddy.CtxKey = "site"

func provision(t testing.TB, block string, afterwards func()) *site {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	if detaches {
		block += "\ndetach\n"
	}
	s := &site{t: t, Handler: parseHandler(t, block), backend: newBackend(), server: new(caddyhttp.Server), logs: logs, began: time.Now()}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.WithValue(context.Background(), siteKey, s)})
	t.Cleanup(cancel)
	if err := s.Provision(ctx); err != nil {
		t.Fatalf("provisioning: %v", err)
	}
	all := ops.Live.Sites()
	s.seen = all[len(all)-1]
	s.seen.Log, s.lot = zap.New(core), s.seen.Lot
	t.Cleanup(func() {
		s.Cleanup()
		afterwards()
	})
	if detaches {
		s.open()
	}
	if err := s.Validate(); err != nil {
		t.Fatalf("validating: %v", err)
	}
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range s.clients {
			c.leave()
			<-c.done
		}
	})
	return s
}

// drain is what the server has the handler do when it shuts down.
func (s *site) drain() { s.seen.Drain(park.DrainSpread) }

// parseHandler reads the block as the Caddyfile adapter would, short placeholders
// included.
func parseHandler(t testing.TB, block string) *longpoll.Handler {
	t.Helper()
	tokens, err := caddyfile.Tokenize([]byte("long_poll {\n"+block+"\n}"), "Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	segment := caddyfile.Segment(tokens)
	httpcaddyfile.NewShorthandReplacer().ApplyToSegment(&segment)
	h := new(longpoll.Handler)
	if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(segment)); err != nil {
		t.Fatal(err)
	}
	return h
}

// now is the time since the site began.
func (s *site) now() time.Duration { return time.Since(s.began) }

// wake is a wake-up for a path.
func (s *site) wake(path string) { s.lot.Wake(path, func(lot.Name) bool { return true }) }

// settle waits until nothing moves any more unless time does, and then lets d
// pass.
func settle(d time.Duration) {
	synctest.Wait()
	time.Sleep(d)
	synctest.Wait()
}

// until waits for a condition, in real time.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("in vain waited until %s", what)
		}
	}
}

// passing counts the time that passes from now on while this machine does not stand still:
// a ticker drops what nobody takes.
func passing(t testing.TB) func() time.Duration {
	t.Helper()
	const tick = 10 * time.Millisecond
	var ticks atomic.Int64
	ticker := time.NewTicker(tick)
	ended := make(chan struct{})
	t.Cleanup(func() {
		ticker.Stop()
		close(ended)
	})
	go func() {
		for {
			select {
			case <-ticker.C:
				ticks.Add(1)
			case <-ended:
				return
			}
		}
	}()
	return func() time.Duration { return time.Duration(ticks.Load()) * tick }
}

// client is one request, and what became of it.
type client struct {
	t      testing.TB
	r      *http.Request
	asked  *http.Request // see serve
	w      *response
	leave  context.CancelFunc
	done   chan struct{}
	err    error // what the handler returned
	broken bool  // the handler has aborted the response
	began  time.Time
	took   time.Duration
}

// get sends a GET with fields such as "If-None-Match: x".
func (s *site) get(target string, fields ...string) *client {
	return s.send(newRequest(http.MethodGet, target, "", fields...))
}

// post sends a POST with a body.
func (s *site) post(target, body string, fields ...string) *client {
	return s.send(newRequest(http.MethodPost, target, body, fields...))
}

func newRequest(method, target, body string, fields ...string) *http.Request {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, target, reader)
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ":")
		r.Header.Add(name, strings.TrimSpace(value))
	}
	return r
}

// send has a goroutine of its own do with the request what Caddy's server does
// with it, its end included: there the server reuses what it has.
func (s *site) send(r *http.Request) *client {
	if detaches {
		return s.call(r)
	}
	ctx, cancel := context.WithCancel(r.Context())
	c := &client{t: s.t, w: newResponse(), leave: cancel, done: make(chan struct{}), began: time.Now()}
	s.mu.Lock()
	s.clients = append(s.clients, c)
	s.mu.Unlock()
	repl := caddy.NewReplacer()
	c.r = caddyhttp.PrepareRequest(r.WithContext(ctx), repl, c.w, s.server)
	if s.before != nil {
		s.before(c.w, c.r)
	}
	go func() {
		defer close(c.done)
		defer cancel()
		defer func() {
			c.took = time.Since(c.began)
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler:
				c.broken = true
			default:
				panic(p)
			}
			c.r.Header.Set("Reused", "yes")
			c.r.URL.Path = "/reused"
			repl.Set("reused", "yes")
			caddyhttp.SetVar(c.r.Context(), "reused", "yes")
			c.w.Header().Set("Reused", "yes")
		}()
		c.err = s.ServeHTTP(c.w, c.r, s.backend)
		if c.err != nil {
			c.w.WriteHeader(statusOf(c.err))
		}
		c.w.end()
	}()
	return c
}

// statusOf is the status that Caddy answers an error with.
func statusOf(err error) int {
	var he caddyhttp.HandlerError
	if errors.As(err, &he) && he.StatusCode != 0 {
		return he.StatusCode
	}
	return http.StatusInternalServerError
}

// waits reports whether the client has no answer once nothing moves any more.
func (c *client) waits() bool {
	synctest.Wait()
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// mustWait fails the test if the client has an answer.
func (c *client) mustWait() {
	c.t.Helper()
	if !c.waits() {
		c.t.Fatalf("%s %s: got %v after %v; want it to wait", c.r.Method, c.r.RequestURI, c, c.took)
	}
}

// answer waits for the answer.
func (c *client) answer() *client {
	<-c.done
	return c
}

// wants waits for the answer and compares it: "200 changed state 2" is the status,
// the outcome and the body. What is left out is not compared.
func (c *client) wants(want string) *client {
	c.t.Helper()
	<-c.done
	status, rest, _ := strings.Cut(want, " ")
	outcome, body, all := strings.Cut(rest, " ")
	got := c.String()
	if fmt.Sprint(c.w.status) != status || c.outcome() != outcome || all && c.w.body.String() != body {
		c.t.Errorf("%s %s: got %q; want %q", c.r.Method, c.r.RequestURI, got, want)
	}
	return c
}

// within compares how long the answer took.
func (c *client) within(from, to time.Duration) *client {
	c.t.Helper()
	<-c.done
	if c.took < from || c.took > to {
		c.t.Errorf("%s %s: got %v after %v; want it after %v to %v", c.r.Method, c.r.RequestURI, c, c.took, from, to)
	}
	return c
}

// outcome is what the Long-Poll field says, or would say to a client that has
// left.
func (c *client) outcome() string {
	if c.w.status == 499 {
		return string(poll.Left)
	}
	outcome, _, _ := strings.Cut(c.w.sent.Get("Long-Poll"), ";")
	return outcome
}

// field is a field of the answer, all its lines.
func (c *client) field(name string) string {
	<-c.done
	return strings.Join(c.w.sent.Values(name), " | ")
}

// wantsField compares a field of the answer.
func (c *client) wantsField(name, want string) *client {
	c.t.Helper()
	if got := c.field(name); got != want {
		c.t.Errorf("%s %s: got %s %q; want %q", c.r.Method, c.r.RequestURI, name, got, want)
	}
	return c
}

func (c *client) String() string {
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", c.w.status, c.outcome(), c.w.body.String()))
}

// response is what a client receives. It is as picky as the real one.
type response struct {
	header   http.Header
	sent     http.Header // as it was when it was sent
	informed []int       // 1xx
	status   int
	body     strings.Builder

	mu       sync.Mutex // protects all but header, for who looks before the handler has returned
	deadline time.Time  // for writes

	taking chan struct{} // closed once the client takes what it is sent; nil if it does all the time
	each   atomic.Int64  // nanoseconds that a write takes
	breaks atomic.Bool   // somebody in front breaks off
}

func newResponse() *response { return &response{header: make(http.Header)} }

func (w *response) Header() http.Header { return w.header }

func (w *response) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case status >= 100 && status < 200 && status != http.StatusSwitchingProtocols:
		w.informed = append(w.informed, status)
	case w.status == 0:
		w.status, w.sent = status, w.header.Clone()
	}
}

func (w *response) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.breaks.Load() {
		panic(http.ErrAbortHandler)
	}
	if time.Sleep(time.Duration(w.each.Load())); w.stalls() {
		return 0, os.ErrDeadlineExceeded
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !httphdr.HasBody(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	return w.body.Write(p)
}

// stop has the client take nothing from now on, until the returned function is called.
func (w *response) stop() (goOn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	taking := make(chan struct{})
	w.taking = taking
	return func() { close(taking) }
}

// stalls waits until the client takes something, and reports whether it has taken nothing
// until the deadline.
func (w *response) stalls() bool {
	w.mu.Lock()
	taking, deadline := w.taking, w.deadline
	w.mu.Unlock()
	if taking == nil {
		return false
	}
	var late <-chan time.Time
	if !deadline.IsZero() {
		late = time.After(time.Until(deadline))
	}
	select {
	case <-taking:
		return false
	case <-late:
		return true
	}
}

func (w *response) FlushError() error { return nil }

func (w *response) SetReadDeadline(time.Time) error { return nil }

func (w *response) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline = t
	return nil
}

// writeDeadline is when a write would fail; zero if never.
func (w *response) writeDeadline() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.deadline
}

// end is what the server does when the handler has returned.
func (w *response) end() { w.WriteHeader(http.StatusOK) }

// backend is what is behind the handler. It notes what it is asked.
type backend struct {
	mu     sync.Mutex // protects what follows
	says   caddyhttp.HandlerFunc
	asked  []exchange
	flying int // in flight
	most   int // of them, ever
}

// exchange is a request as the backend got it.
type exchange struct {
	at     time.Time
	method string
	host   string
	uri    string
	header http.Header
	body   string
}

func newBackend() *backend { return &backend{says: tagged("1")} }

// say changes what the backend says from now on.
func (b *backend) say(says caddyhttp.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.says = says
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	e := exchange{at: time.Now(), method: r.Method, host: r.Host, uri: r.URL.RequestURI(), header: r.Header.Clone()}
	body, err := io.ReadAll(r.Body)
	e.body = string(body)
	b.mu.Lock()
	says := b.says
	b.asked = append(b.asked, e)
	b.flying++
	b.most = max(b.most, b.flying)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.flying--
		b.mu.Unlock()
	}()
	if err != nil {
		return err
	}
	return says(w, r)
}

// exchanges are all requests that the backend got.
func (b *backend) exchanges() []exchange {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked)
}

// checks is how many requests the backend got.
func (b *backend) checks() int { return len(b.exchanges()) }

// last is the latest request that the backend got.
func (b *backend) last() exchange {
	all := b.exchanges()
	return all[len(all)-1]
}

// inFlight is how many requests the backend is at, and how many it ever was at at
// once.
func (b *backend) inFlight() (now, most int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flying, b.most
}

// pauses are between the requests that the backend got.
func (b *backend) pauses() (all []time.Duration) {
	asked := b.exchanges()
	for i := 1; i < len(asked); i++ {
		all = append(all, asked[i].at.Sub(asked[i-1].at))
	}
	return all
}

// reply answers with a status, a body and fields such as "ETag: x". It knows
// nothing of preconditions.
func reply(status int, body string, fields ...string) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ":")
			w.Header().Add(name, strings.TrimSpace(value))
		}
		w.WriteHeader(status)
		if body != "" && r.Method != http.MethodHead {
			io.WriteString(w, body)
		}
		return nil
	}
}

// tagged answers with "state v" and the ETag "v", or with a 304 to who has it.
func tagged(v string, fields ...string) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		fields := append([]string{`ETag: "` + v + `"`}, fields...)
		if strings.Contains(r.Header.Get("If-None-Match"), `"`+v+`"`) {
			return reply(http.StatusNotModified, "", fields...)(w, r)
		}
		return reply(http.StatusOK, "state "+v, fields...)(w, r)
	}
}

// has names the version v of tagged.
func has(v string) string { return `If-None-Match: "` + v + `"` }

// waits says that a request waits for up to n seconds: that alone makes a poll of it.
func waits(n int) string { return fmt.Sprintf("Prefer: wait=%d", n) }

// slowly takes a while before it says anything; like reverse_proxy it notices that
// nobody waits for it any more.
func slowly(d time.Duration, says caddyhttp.HandlerFunc) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		select {
		case <-time.After(d):
			return says(w, r)
		case <-r.Context().Done():
			w.WriteHeader(499)
			return nil
		}
	}
}

// hung never says anything.
func hung(w http.ResponseWriter, r *http.Request) error {
	<-r.Context().Done()
	w.WriteHeader(499)
	return nil
}

// deaf does not even notice that nobody waits any more, until it is let go.
func deaf(letGo <-chan struct{}) caddyhttp.HandlerFunc {
	return func(http.ResponseWriter, *http.Request) error {
		<-letGo
		return nil
	}
}

// unreachable is a backend that can not be connected to.
func unreachable(http.ResponseWriter, *http.Request) error {
	return caddyhttp.Error(http.StatusBadGateway, errors.New("connection refused"))
}

// aborted breaks off in the middle of an answer.
func aborted(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Length", "100")
	w.WriteHeader(http.StatusOK)
	io.WriteString(w, "half of it")
	panic(http.ErrAbortHandler)
}

// silent says nothing at all.
func silent(http.ResponseWriter, *http.Request) error { return nil }

// crashing is a handler with a bug.
func crashing(http.ResponseWriter, *http.Request) error { panic("a bug") }

// sequence says one thing after the other, and goes on saying the last.
func sequence(says ...caddyhttp.HandlerFunc) caddyhttp.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) error {
		mu.Lock()
		now := says[0]
		if len(says) > 1 {
			says = says[1:]
		}
		mu.Unlock()
		return now(w, r)
	}
}

// byField says what the value of a request field has it say.
func byField(name string, says map[string]caddyhttp.HandlerFunc) caddyhttp.HandlerFunc {
	says = maps.Clone(says)
	return func(w http.ResponseWriter, r *http.Request) error {
		if say, ok := says[r.Header.Get(name)]; ok {
			return say(w, r)
		}
		return reply(http.StatusTeapot, "who asks?")(w, r)
	}
}
