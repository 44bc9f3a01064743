package detach

import (
	"context"
	"net/http"
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
	groups   any
	original any
	local    any
	extra    any
}

// keep is what is kept of ctx.
func keep(ctx context.Context, server *caddyhttp.Server, replacer *caddy.Replacer) *kept {
	return &kept{
		server: server, replacer: replacer,
		vars: ctx.Value(caddyhttp.VarsCtxKey), groups: ctx.Value(poll.RouteGroups),
		original: ctx.Value(caddyhttp.OriginalRequestCtxKey), local: ctx.Value(http.LocalAddrContextKey),
		extra: ctx.Value(caddyhttp.ExtraLogFieldsCtxKey),
	}
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
		return k.original
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
