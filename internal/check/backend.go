package check

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
	"github.com/caddy-longpoll/caddy-longpoll/internal/tap"
)

// Backend is the handlers behind us, asked on behalf of one poll and of all who wait
// for the same: its Request is what checks are made from, and is never sent itself. It
// shares nothing with the poll's request that either of them changes, so that a check
// borrows nothing (contract 7.10).
type Backend struct {
	poll.Subject
	c      *Checker
	next   caddyhttp.Handler
	ctx    context.Context // of the server, not of the client
	server *caddyhttp.Server
	vars   []setting
	orig   any                 // the http.Request that it was before it was rewritten; nil if that is unknown
	groups map[string]struct{} // route groups that were satisfied on the way to us
	preset http.Header         // response fields that were set on the way to us
	lent   *lent

	// of the poller alone
	repl  *caddy.Replacer // see replacer
	about *state.State    // what it speaks of
	slot  *tap.Slot       // of the next exchange
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

// Backend prepares checks on behalf of p. It runs while p's request is at hand: only
// its own goroutine, or one that this waits for, may read it.
func (c *Checker) Backend(p *poll.Poll, w http.ResponseWriter, next caddyhttp.Handler) *Backend {
	r := p.Request
	b := &Backend{Subject: p.Subject, c: c, next: next, preset: c.preset(w.Header())}
	b.ctx = context.Background()
	for _, key := range []any{http.ServerContextKey, http.LocalAddrContextKey} {
		if v := r.Context().Value(key); v != nil {
			b.ctx = context.WithValue(b.ctx, key, v)
		}
	}
	b.ctx = tap.MarkCheck(b.ctx)
	b.server, _ = r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	b.vars = make([]setting, 0, len(vars))
	for name, value := range vars {
		b.vars = append(b.vars, setting{name, value})
	}
	if groups, _ := r.Context().Value(routeGroups).(map[string]struct{}); len(groups) > 0 {
		b.groups = maps.Clone(groups)
	}
	b.orig = r.Context().Value(caddyhttp.OriginalRequestCtxKey)
	b.lent = c.lend(p.Replacer())
	p.Lent = b.lent

	b.Request = r.Clone(b.ctx)
	b.Request.Body = nil
	head := b.Request.Header
	share.DropClientsOwn(head)
	if c.Share.Public && !p.Variation.ByWhoAsks() {
		delete(head, "Authorization")
		delete(head, "Cookie")
	}
	if c.Version != "" || len(c.HoldWhile) > 0 || len(c.State.Ignore) > 0 {
		acceptReadable(head)
	}
	if len(c.Share.StripQuery) > 0 {
		b.Request.URL.RawQuery = share.StripQuery(b.Request.URL.RawQuery, c.Share.StripQuery)
		b.Request.RequestURI = b.Request.URL.RequestURI()
	}
	return b
}

// preset is what the header of an answer begins with. As a rule that is the same for
// all requests, and the checks of all resources share it.
func (c *Checker) preset(header http.Header) http.Header {
	if last := c.lastPreset.Load(); last != nil && maps.EqualFunc(*last, header, slices.Equal) {
		return *last
	}
	preset := header.Clone()
	c.lastPreset.Store(&preset)
	return preset
}

// Varied is a digest of what v depends on, as it is in the check.
func (b *Backend) Varied(v *share.Variation) lot.Key {
	return v.Key(lot.Key{}, b.Request.Header, b.ID)
}

// request is a fresh request for one check.
func (b *Backend) request(ctx context.Context, repl *caddy.Replacer, w http.ResponseWriter) *http.Request {
	r := b.Request.Clone(ctx)
	r.Body = http.NoBody
	if b.Body != nil {
		r.Body = io.NopCloser(bytes.NewReader(b.Body))
		r.ContentLength = int64(len(b.Body))
	}
	r = caddyhttp.PrepareRequest(r, repl, w, b.server)
	ctx = r.Context()
	if b.orig != nil {
		ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, b.orig)
		// The replacer reads the context of the very request that it was
		// prepared for.
		*r = *r.WithContext(ctx)
	}
	if vars, ok := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any); ok {
		for _, v := range b.vars {
			vars[v.name] = v.value
		}
	}
	if groups, ok := ctx.Value(routeGroups).(map[string]struct{}); ok {
		maps.Copy(groups, b.groups)
	}
	repl.Map(b.lent.get)
	return r
}
