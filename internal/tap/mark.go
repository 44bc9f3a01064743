package tap

import (
	"context"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Mark says whose a request is, of one long_poll behind another.
type Mark int

const (
	Client Mark = iota // its client's
	Check              // a check of a long_poll in front
	Passed             // its client's, and a long_poll in front has passed it on
)

// Put marks the context of a request. The mark is in the request's own context, which all
// handlers on the way pass on, and not in its response writer, which some wrap and hide.
func (m Mark) Put(ctx context.Context) context.Context { return context.WithValue(ctx, Client, m) }

// passedVar says of a client's own request that a long_poll has passed it on.
const passedVar = "long_poll.passed"

// Pass marks a client's request as passed on. It stays the one that placeholders speak of,
// which a request with another context is not.
func Pass(r *http.Request) { caddyhttp.SetVar(r.Context(), passedVar, true) }

// MarkOf is the mark of the request with that context.
func MarkOf(ctx context.Context) Mark {
	m, _ := ctx.Value(Client).(Mark)
	if m == Client && caddyhttp.GetVar(ctx, passedVar) != nil {
		return Passed
	}
	return m
}
