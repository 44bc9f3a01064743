package tap

import "context"

// ofCheck marks the context of a check.
type ofCheck struct{}

// MarkCheck marks a context as that of a check. The mark is in the request's own
// context, which all handlers on the way pass on, and not in its response writer,
// which some wrap and hide.
func MarkCheck(ctx context.Context) context.Context { return context.WithValue(ctx, ofCheck{}, true) }

// IsCheck reports whether a request is a check, of a long_poll in front.
func IsCheck(ctx context.Context) bool { return ctx.Value(ofCheck{}) != nil }
