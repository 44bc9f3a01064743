package tap

import "context"

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

// MarkOf is the mark of the request with that context.
func MarkOf(ctx context.Context) Mark {
	m, _ := ctx.Value(Client).(Mark)
	return m
}
