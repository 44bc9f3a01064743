// Package detach is where polls and streams wait that have no goroutine (contract 15):
// their connections have left the server, and a descriptor, what the answer needs and a
// place in the lot are all that is left of them. It writes answers and events to connections
// that are its own by then, watches these until their next request begins, and gives them back to the
// server that they came from. What is waited for and how long is park's, and what is
// answered is reply's: it knows neither.
package detach

import (
	"context"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// Switch says whether polls are detached.
type Switch struct {
	// Park HTTP/1.1 requests without a goroutine and without buffers, where nothing
	// stands between them and their connections but what Caddy puts there itself. Linux
	// only: elsewhere it changes nothing. Default: false.
	Detach bool `json:"detach,omitempty"`
}

// Subdirectives are those that s is written by.
func (s *Switch) Subdirectives() directive.Block {
	return directive.Block{"detach": {Set: directive.Flag(&s.Detach)}}
}

// Lobby is where the detached polls of one handler wait.
type Lobby struct {
	Spot *park.Spot

	// Answer writes what a verdict says to the client, and returns what is for Caddy to
	// tell it; Told counts a poll that has its answer.
	Answer func(*poll.Poll, http.ResponseWriter, poll.Verdict) error
	Told   func(*poll.Poll)

	Count func(n int) // counts n more polls that are detached, or with -1 one less
	Log   *zap.Logger

	access, errors *zap.Logger     // Caddy's own
	none           *caddy.Replacer // of polls whose answers take no placeholders
	plain          bool            // no answer takes a placeholder
	crowds         crowds
	lastPreset     atomic.Pointer[http.Header]
	lastHead       atomic.Pointer[http.Header] // of a stream
}

// Open has the polls of the lobby's spot detached from now on, unless what they are
// answered with takes placeholders that only the server's own request knows, or their
// requests can not pass the handlers in front twice: then the log says so. texts are what
// is answered, by subdirective, and ctx is that in which the handler is provisioned.
func (l *Lobby) Open(ctx caddy.Context, texts map[string][]string) {
	if why := hindrance(ctx); why != "" {
		l.Log.Warn("detach has no effect", zap.String("reason", why))
		return
	}
	l.plain = true
	for _, name := range []string{"hold_while", "header", "on_change", "on_timeout"} {
		for _, text := range texts[name] {
			if !ours(text) {
				l.Log.Warn("detach has no effect", zap.String("reason", name+" has a placeholder of the request: "+text))
				return
			}
			l.plain = l.plain && !strings.Contains(text, "{")
		}
	}
	server := ctx.Logger(new(caddyhttp.App))
	l.access, l.errors = server.Named("log.access"), server.Named("log.error")
	l.none = caddy.NewEmptyReplacer()
	l.crowds.all = make(map[<-chan struct{}]*crowd)
	l.crowds.drained = l.Spot.Lot.Drained()
	l.Spot.Detach, l.Spot.Welcome = l.take, l.welcome
	if of, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		of.RegisterConnContext(ConnContext)
		of.RegisterConnState(ConnState)
	}
}

// ours reports whether each placeholder in text is one of ours, or one that does not
// speak of the request.
func ours(text string) bool {
	for {
		_, rest, found := strings.Cut(text, "{")
		if !found {
			return true
		}
		name, after, closed := strings.Cut(rest, "}")
		if _, is := poll.OurKey(name); closed && !is && !strings.HasPrefix(name, "env.") && !strings.HasPrefix(name, "system.") {
			return false
		}
		text = after
	}
}

// take has p, who is m, wait here, and reports whether it does: then the connection is no
// longer the server's, and p, m and w are no longer their request's. A stream is told by
// st what v says, if that is Hold, and what comes then; st is nil for a poll.
//
// Until the handlers around us have returned nothing touches the connection, which they
// may still set deadlines of.
func (l *Lobby) take(p *poll.Poll, m poll.Waiter, w http.ResponseWriter, v poll.Verdict, st park.Stream) bool {
	r := p.Request
	hijacker, server := l.eligible(p, w)
	if hijacker == nil || st != nil && !plainly(w.Header()) {
		return false
	}
	logged := shouldLog(server, r)
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	g := gateOf(r.Context().Value(http.ServerContextKey).(*http.Server), local)
	if g == nil {
		return false
	}
	conn, buffered, err := hijacker.Hijack()
	if err != nil {
		g.answered()
		return false
	}
	defer func() {
		if p := recover(); p != nil { // the server closes no connection that is not its own any more
			_ = conn.Close()
			g.answered()
			panic(p)
		}
	}()
	c := &connection{gate: g, poll: &parked{lobby: l, poll: p, waiter: m, logged: logged, closes: r.Close, header: l.preset(w.Header(), &l.lastPreset)}}
	c.own(conn, buffered.Reader)
	if st != nil {
		c.poll.stream = &following{Stream: st}
		st.Detach(c)
	}
	ctx := r.Context()
	caddyhttp.SetVar(ctx, caddyhttp.LogSkipVar, true) // the line comes when there is something to tell
	l.forgetRequest(p, server)
	l.Count(1)
	if ctx.Err() != nil {
		// The client has left just now, and the end of the handlers is not told by the
		// context any more.
		time.AfterFunc(patience, func() { c.armed(v, true) })
		return true
	}
	context.AfterFunc(ctx, func() { c.armed(v, false) }) // which the server ends when they have returned
	return true
}

// patience is how long is waited for the handlers around a request to return where nothing
// tells that they have: they may still add to the line of the access log.
const patience = 100 * time.Millisecond

// preset is what the header of an answer begins with: a copy of what the handlers on the
// way to us have set, and that of a stream's head in the end. As a rule it is the same for
// all, who then share it: it must not be changed.
func (l *Lobby) preset(header http.Header, of *atomic.Pointer[http.Header]) http.Header {
	if last := of.Load(); last != nil && maps.EqualFunc(*last, header, slices.Equal) {
		return *last
	}
	preset := header.Clone()
	of.Store(&preset)
	return preset
}

// forgetRequest has p need nothing any more that the server made for its request: that
// is what a parked request weighs.
func (l *Lobby) forgetRequest(p *poll.Poll, server *caddyhttp.Server) {
	r := p.Request
	slim := http.Request{
		Method: r.Method, URL: r.URL, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
		Header: r.Header, ContentLength: r.ContentLength, TransferEncoding: r.TransferEncoding, Body: http.NoBody, Host: r.Host,
		RemoteAddr: r.RemoteAddr, RequestURI: r.RequestURI, TLS: r.TLS, Pattern: r.Pattern,
	}
	repl := l.none
	if !l.plain {
		repl = caddy.NewReplacer()
		repl.Map(p.Placeholder)
	}
	p.Detach(slim.WithContext(keep(r, server, repl)), repl)
}
