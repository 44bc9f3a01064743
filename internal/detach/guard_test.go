package detach

import (
	"bufio"
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// house is a server whose polls are detached, without a backend: a test says what is read.
type house struct {
	*Lobby
	t        *testing.T
	server   *httptest.Server
	resource atomic.Pointer[poll.Resource]
	told     atomic.Int64
	detached atomic.Int64
	streams  bool // it is told by buggy ones
	open     atomic.Int64

	mu  sync.Mutex // protects log
	log bytes.Buffer
}

func (h *house) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(b)
}

// logged is what the server has logged.
func (h *house) logged() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.String()
}

func newHouse(t *testing.T) *house {
	if !watches {
		t.Skip("nobody is detached here")
	}
	rules := &poll.Rules{
		Hold: time.Minute, CheckTimeout: 10 * time.Second, Interval: time.Hour, Linger: time.Minute,
		MaxBody: 1 << 20, Methods: []string{http.MethodGet}, Share: new(share.Rules), State: new(state.Rules),
	}
	h := &house{t: t}
	h.Lobby = &Lobby{
		Spot: &park.Spot{Rules: rules, Lot: lot.New[*state.Reading](lot.Limits{Resources: 10}), Departed: func() {}},
		Answer: func(p *poll.Poll, w http.ResponseWriter, v poll.Verdict) error {
			w.WriteHeader(http.StatusNoContent)
			return nil
		},
		Told: func(*poll.Poll) { h.told.Add(1) }, Count: func(n int) { h.detached.Add(int64(n)) }, Log: zap.NewNop(),
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	h.Open(ctx, nil)
	of := new(caddyhttp.Server)
	h.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := rules.New(caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, of))
		if h.streams {
			p.Follow("", time.Hour)
		}
		if err := p.Ask(func() error { return nil }); err != nil {
			t.Error(err)
		}
		v := poll.Verdict{}
		if h.streams {
			v = h.Spot.Follow(p, w, h.start, &buggy{atEnd: r.URL.Path == "/end", p: p, open: &h.open})
		} else {
			v = h.Spot.Wait(p, w, h.start)
		}
		if v.Kind != poll.Detached {
			t.Errorf("got %v; want it to be detached", v)
		}
	}))
	h.server.Config.ErrorLog = log.New(h, "", 0)
	h.server.Start()
	t.Cleanup(h.server.Close)
	return h
}

// buggy is a stream that panics when it is told something after it has begun, or at its end.
type buggy struct {
	park.Stream
	to    park.Client
	begun bool
	atEnd bool
	p     *poll.Poll
	open  *atomic.Int64
}

func (b *buggy) Begun() bool                  { return b.begun }
func (b *buggy) Begins(*state.Reading) bool   { return true }
func (b *buggy) MayBegin(*state.Reading) bool { return true }
func (b *buggy) Detach(c park.Client)         { b.to = c }
func (b *buggy) Taken()                       {}
func (b *buggy) Rest() time.Duration          { return time.Hour }
func (b *buggy) Close()                       { b.open.Add(-1) }
func (b *buggy) Accept() []string             { return nil }

func (b *buggy) Tell(v poll.Verdict, _ *state.Reading) bool {
	switch {
	case !b.begun:
		b.begun = true
		b.p.Outcome = poll.Streamed
		b.open.Add(1)
	case v.Kind == poll.Ready && b.atEnd:
		return false
	case v.Kind == poll.Ready:
		panic("a bug")
	default:
		return true
	}
	return b.to.Say([]byte("told\n"))
}

func (b *buggy) End(v poll.Verdict) (poll.Verdict, error) {
	if b.atEnd {
		panic("a bug")
	}
	return v, nil
}

// start has the first check of a resource read "1".
func (h *house) start(r *poll.Resource) {
	h.resource.Store(r)
	go func() {
		r.Begin()
		r.Publish(h.reading("1"), true, time.Now().Add(time.Hour))
	}()
}

// reading is what is made of an answer with that ETag.
func (h *house) reading(tag string) *state.Reading {
	a := state.NewAnswer(http.StatusOK, http.Header{"Etag": {`"` + tag + `"`}}, nil, nil, 1<<20)
	s := &state.State{Answer: a, Source: a, Ended: time.Now()}
	s.Version = h.Spot.Rules.State.Version(a, "")
	s.ETag = h.Spot.Rules.State.ETag(a, s.Version)
	return &state.Reading{State: s, Result: state.Changed, Since: s.Ended}
}

// park has a client ask, and wait.
func (h *house) park() net.Conn { return h.parkAt("/") }

func (h *house) parkAt(path string) net.Conn {
	h.t.Helper()
	conn, err := net.Dial("tcp", h.server.Listener.Addr().String())
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	before := h.waiting()
	io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"1\"\r\n\r\n")
	h.until("it waits", func() bool { return h.waiting() == before+1 })
	return conn
}

// waiting is how many are in a crowd.
func (h *house) waiting() (n int) {
	h.crowds.mu.Lock()
	defer h.crowds.mu.Unlock()
	for _, cr := range h.crowds.all {
		n += len(cr.members)
	}
	return n
}

func (h *house) until(what string, ok func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("in vain waited until %s; log: %s", what, h.logged())
		}
	}
}

// A panic on a goroutine of ours ends one connection, which nobody counts any more, and is
// logged as those of the server are.
func TestPanicsEndOneConnection(t *testing.T) {
	once := func(f func()) func() {
		var did atomic.Bool
		return func() {
			if did.CompareAndSwap(false, true) {
				f()
			}
		}
	}
	for name, prepare := range map[string]func(h *house, boom func()){
		"told":     func(h *house, boom func()) { h.Told = func(*poll.Poll) { h.told.Add(1); boom() } },
		"departed": func(h *house, boom func()) { h.Spot.Departed = boom },
		"counted": func(h *house, boom func()) {
			h.Count = func(n int) {
				h.detached.Add(int64(n))
				if n < 0 {
					boom()
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			conns := []net.Conn{h.park(), h.park(), h.park()}
			if n := h.detached.Load(); n != 3 {
				t.Fatalf("%d are detached; want 3", n)
			}
			g := gateOf(h.server.Config, nil)
			g.answered()
			prepare(h, once(func() { panic("a bug") }))
			r := h.resource.Load()
			r.Begin()
			r.Publish(h.reading("2"), true, time.Now().Add(time.Hour))
			h.wantEmpty(g)
			var ended, answered int
			for _, conn := range conns {
				switch resp, err := http.ReadResponse(bufio.NewReader(conn), nil); {
				case err != nil:
					ended++
				case resp.StatusCode == http.StatusNoContent:
					answered++
				}
			}
			// What panics after the answer was written takes nothing of it back.
			if ended+answered != 3 || name == "departed" && ended != 1 || name != "departed" && answered != 3 {
				t.Errorf("%d have ended and %d were answered", ended, answered)
			}
			if text := h.logged(); strings.Count(text, "http: panic serving 127.0.0.1:") != 1 || !strings.Contains(text, "a bug") {
				t.Errorf("logged %q", text)
			}
		})
	}
}

// Where each step panics all who took one are gone, and counted nowhere.
func TestPanicsOfAllSteps(t *testing.T) {
	h := newHouse(t)
	for range 3 {
		h.park()
	}
	g := gateOf(h.server.Config, nil)
	g.answered()
	r := h.resource.Load()
	r.Begin()
	r.Publish(new(state.Reading), true, time.Now().Add(time.Hour))
	h.wantEmpty(g)
	if n := strings.Count(h.logged(), "http: panic serving"); n != 3 || h.told.Load() != 0 {
		t.Errorf("%d panics are logged, and %d were told", n, h.told.Load())
	}
}

// A stream that panics between two events or at its end is cut.
func TestPanicsOfStreams(t *testing.T) {
	for _, path := range []string{"/", "/end"} {
		t.Run(path, func(t *testing.T) {
			h := newHouse(t)
			h.streams = true
			conns := []net.Conn{h.parkAt(path), h.parkAt(path)}
			if n := h.open.Load(); n != 2 {
				t.Fatalf("%d are open; want 2", n)
			}
			g := gateOf(h.server.Config, nil)
			g.answered()
			r := h.resource.Load()
			r.Begin()
			r.Publish(h.reading("2"), true, time.Now().Add(time.Hour))
			h.wantEmpty(g)
			for _, conn := range conns {
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, err := io.ReadAll(resp.Body); string(body) != "told\n" || err != io.ErrUnexpectedEOF {
					t.Errorf("got %q, %v", body, err)
				}
			}
			if n := h.open.Load(); n != 0 || h.told.Load() != 0 || strings.Count(h.logged(), "http: panic serving") != 2 {
				t.Errorf("%d are open, and logged is %s", n, h.logged())
			}
		})
	}
}

// wantEmpty waits until nobody is counted any more.
func (h *house) wantEmpty(g *gate) {
	h.t.Helper()
	h.until("nobody waits", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return h.waiting() == 0 && h.Spot.Lot.Parked() == 0 && h.detached.Load() == 0 && g.waiting == 0
	})
}
