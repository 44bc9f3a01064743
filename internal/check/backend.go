package check

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
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
	asker  share.Asker // what is compared and carried of the way to us
	next   caddyhttp.Handler
	ctx    context.Context // of the server, not of the client
	server *caddyhttp.Server
	orig   original    // as it was before it was rewritten
	preset http.Header // response fields that were set on the way to us
	lent   *lent

	// only the poller's
	repl      *caddy.Replacer // see replacer
	about     *state.State    // what the placeholders of repl speak of; nil is no state
	slot      *tap.Slot       // of the next exchange
	abandoned <-chan struct{} // of the check that is being made
	renewed   []string        // see renew
	traits    []share.Trait   // of the request traitsOf
	traitsOf  *http.Request   //
	retries   bool            // an exchange that has failed may be made once more

	alone bool // nobody shares what it reads, so that checks carry the client's address
	knows bool // the client has said on whose behalf it asks, whether that is compared or not
}

// original is what is known of a request as it was before it was rewritten.
type original struct {
	method string
	url    *url.URL
	uri    string
}

// Backend prepares checks on behalf of p. It runs while p's request is at hand: only
// its own goroutine, or one that this waits for, may read it. Of the request it takes
// what [share.Rules] say that all who share it have in common, and nothing else.
func (c *Checker) Backend(p *poll.Poll, w http.ResponseWriter, next caddyhttp.Handler) *Backend {
	r, of := p.Request, p.Asker()
	b := &Backend{Subject: p.Subject, c: c, next: next, preset: c.preset(w.Header()), alone: p.Variation.Alone(), knows: share.Knows(r, of)}
	b.asker = share.Asker{ID: of.ID, Body: of.Body, User: of.User, Trusted: of.Trusted, Method: of.Method, Local: c.Share.LocalAddr(of)}
	b.asker.ClientIP = c.Share.ClientIP(r, of, p.Variation)
	if len(of.Groups) > 0 {
		b.asker.Groups = maps.Clone(of.Groups)
	}
	b.asker.Value = func(text string) string { return b.Replacer().ReplaceAll(text, "") }
	for name, value := range of.Vars {
		if share.CarriesVar(name) {
			if b.asker.Vars == nil {
				b.asker.Vars = make(map[string]any)
			}
			b.asker.Vars[name] = value
		}
	}
	b.ctx = c.context(r.Context(), b.asker.Local)
	b.server, _ = r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	b.lent = c.lend(p.Replacer())
	p.Lent = b.lent

	b.Request = (&http.Request{
		Method: r.Method, URL: c.Share.URL(r.URL), Host: p.Name.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: c.alike.Carried(c.Share, r, of, p.Variation), RemoteAddr: c.Share.RemoteAddr(r, p.Variation), TLS: completed(r.TLS, c.Share.Public),
	}).WithContext(b.ctx)
	b.Request.RequestURI = b.Request.URL.RequestURI()
	b.orig = original{r.Method, b.Request.URL, b.Request.RequestURI}
	if of.URL != nil {
		// Most requests are as they have come, and have one URL.
		b.orig.method = of.Method
		if u := c.Share.URL(of.URL); *u != *b.Request.URL {
			b.orig.url, b.orig.uri = u, u.RequestURI()
		}
		b.asker.URL = b.orig.url
	}
	return b
}

// completed is the state of a TLS connection with what is compared of that of r: the
// name of the server and, unless the answer is public, the client's certificate. Early
// data is none of it: a check begins when the handshake is over or was never needed.
func completed(of *tls.ConnectionState, public bool) *tls.ConnectionState {
	if of == nil {
		return nil
	}
	c := &tls.ConnectionState{
		Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, HandshakeComplete: true,
		NegotiatedProtocol: "http/1.1", ServerName: of.ServerName,
	}
	if !public {
		c.PeerCertificates, c.VerifiedChains = of.PeerCertificates, of.VerifiedChains
	}
	return c
}

// Splits reports a request field in which many resources of this name differ, and in
// nothing else.
func (b *Backend) Splits() (field string, many bool) {
	return b.c.Share.Splits.Add(b.Name, b.Request.URL.RawQuery, b.Request.Header)
}

// Traits are those of the checks. Only the poller calls it.
func (b *Backend) Traits() []share.Trait {
	if b.traitsOf != b.Request {
		b.traits, b.traitsOf = b.c.alike.Traits(b.Request), b.Request
	}
	return b.traits
}

// sharer is the check as one of those who may share.
func (b *Backend) sharer() share.Sharer {
	return share.Sharer{
		Header: b.Request.Header, ID: b.ID, Alone: b.alone,
		Credentials: b.c.Share.Credentials(b.Request, &b.asker), Value: b.lent.value,
	}
}

// Key is the key of the resource whose answers depend on v.
func (b *Backend) Key(v *share.Variation) lot.Key { return v.Key(b.Base, b.sharer()) }

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

// way is a context of checks, and what it was made of.
type way struct {
	context.Context
	server *http.Server
	local  netip.AddrPort
}

// context is that of checks that have come to local by the server of ctx, and of nothing
// that a client or a handler has set. As a rule it is the same for all requests.
func (c *Checker) context(ctx context.Context, local netip.AddrPort) context.Context {
	of := ctx.Value(http.ServerContextKey)
	server, known := of.(*http.Server)
	known = known || of == nil
	if last := c.lastWay.Load(); last != nil && known && last.server == server && last.local == local {
		return last.Context
	}
	w := &way{context.Background(), server, local}
	if of != nil {
		w.Context = context.WithValue(w.Context, http.ServerContextKey, of)
	}
	w.Context = tap.Check.Put(context.WithValue(w.Context, http.LocalAddrContextKey, net.Addr(net.TCPAddrFromAddrPort(local))))
	if known {
		c.lastWay.Store(w)
	}
	return w.Context
}

// request is a fresh request for one check, made from of: the Request of b, as it was when
// the check began.
func (b *Backend) request(ctx context.Context, of *http.Request, repl *caddy.Replacer, w http.ResponseWriter) *http.Request {
	r := of.Clone(ctx)
	r.Body = http.NoBody
	if b.Body != nil {
		r.Body = io.NopCloser(bytes.NewReader(b.Body))
		r.ContentLength = int64(len(b.Body))
	}
	// It is prepared as it was before it was rewritten, of which Caddy keeps a copy.
	now := r.URL
	r.Method, r.URL, r.RequestURI = b.orig.method, b.orig.url, b.orig.uri
	r = caddyhttp.PrepareRequest(r, repl, w, b.server)
	r.Method, r.URL, r.RequestURI = of.Method, now, of.RequestURI
	ctx = r.Context()
	if vars, ok := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any); ok {
		maps.Copy(vars, b.asker.Vars)
		vars[caddyhttp.TrustedProxyVarKey] = b.asker.Trusted
		vars[caddyhttp.ClientIPVarKey] = b.asker.ClientIP
	}
	if groups, ok := ctx.Value(poll.RouteGroups).(map[string]struct{}); ok {
		maps.Copy(groups, b.asker.Groups)
	}
	repl.Map(b.lent.get)
	return r
}
