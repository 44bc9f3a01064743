package detach

import (
	"net/http"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// kept is what is left of the context of a request: what Caddy and the handlers on the
// way to us have said of it. That of the server holds its buffers.
type kept struct {
	server   *caddyhttp.Server
	replacer *caddy.Replacer
	vars     any
	groups   any // nil if none was passed
	local    any
	extra    any

	// The request as it was before it was rewritten.
	method, uri, remote string
	url                 *url.URL
	known               bool
}

// keep is what is kept of the context of r.
func keep(r *http.Request, server *caddyhttp.Server, replacer *caddy.Replacer) *kept {
	ctx := r.Context()
	k := &kept{
		server: server, replacer: replacer,
		vars: ctx.Value(caddyhttp.VarsCtxKey), local: ctx.Value(http.LocalAddrContextKey), extra: ctx.Value(caddyhttp.ExtraLogFieldsCtxKey),
	}
	if groups, ok := ctx.Value(poll.RouteGroups).(map[string]struct{}); ok && len(groups) > 0 {
		k.groups = groups
	}
	// All of an original request would be several times what it says, which most have in
	// common with what has become of it.
	var orig http.Request
	if orig, k.known = ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request); k.known {
		k.method, k.uri, k.remote, k.url = orig.Method, orig.RequestURI, orig.RemoteAddr, orig.URL
		if orig.URL != nil && *orig.URL == *r.URL {
			k.url = r.URL
		}
	}
	return k
}

// Value is that of the request's context, as far as it is kept.
func (k *kept) Value(key any) any {
	switch key {
	case caddyhttp.ServerCtxKey:
		return k.server
	case caddy.ReplacerCtxKey:
		return k.replacer
	case caddyhttp.VarsCtxKey:
		return k.vars
	case poll.RouteGroups:
		return k.groups
	case caddyhttp.OriginalRequestCtxKey:
		if k.known {
			return http.Request{Method: k.method, RequestURI: k.uri, RemoteAddr: k.remote, URL: k.url}
		}
	case caddyhttp.ExtraLogFieldsCtxKey:
		return k.extra
	case http.LocalAddrContextKey:
		return k.local
	}
	return nil
}

// Deadline, Done and Err say that it never ends: the connection tells when the client
// has left.
func (*kept) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }
func (*kept) Done() <-chan struct{}                   { return nil }
func (*kept) Err() error                              { return nil }
