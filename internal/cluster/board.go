package cluster

import (
	"context"
	"time"
)

// Board is where the Caddys of a cluster meet: a guest module in the namespace
// http.long_poll.clusters. It keeps leases and what was read, each for a time, and passes
// messages on to all who follow a name. It knows nothing of what it keeps.
//
// A call that takes a context ends with an error when that ends. Messages may be lost,
// doubled or late; a lease is one Caddy's at a time, as long as the board forgets nothing.
type Board interface {
	// Name is that by which a resource is known on the board. It is not ok where none can
	// be given without telling who asks: personal is true of keys made of credentials.
	Name(key [32]byte, personal bool) (name string, ok bool)

	// Follow calls heard with each message to a name, and ready whenever none is missed
	// from then on, which is to be looked at within a random part of the given time.
	// Neither blocks. It returns at once, and so does stop. The empty name is that of all
	// resources.
	Follow(name string, heard func(message []byte), ready func(within time.Duration)) (stop func())

	// Claim takes the lease of a name for ttl, if nobody has it, with a token that is
	// larger than known and than all before, and at most 1<<50: where that can not be, it
	// counts from 1 again, for such a number is forged. Else it says with which token somebody has
	// it, and for how long yet. Either way it returns what was last posted.
	Claim(ctx context.Context, name, who string, known uint64, ttl time.Duration) (mine bool, token uint64, left time.Duration, state, fault []byte, err error)

	// Renew has a lease last for ttl from now on, and reports whether it is that of who.
	Renew(ctx context.Context, name, who string, token uint64, ttl time.Duration) (mine bool, err error)

	// Post keeps a state or a fault, whichever is not nil, in the place of the one before,
	// and tells all; a state takes the fault away. It does nothing, and reports false,
	// where the lease is not that of who.
	Post(ctx context.Context, name, who string, token uint64, state, fault []byte, keep time.Duration, message []byte) (mine bool, err error)

	// Keep has the state be kept for so long from now on, and reports whether there is one.
	Keep(ctx context.Context, name string, keep time.Duration) (there bool, err error)

	// Fetch returns what was last posted.
	Fetch(ctx context.Context, name string) (state, fault []byte, err error)

	// Tell tells all who follow a name.
	Tell(ctx context.Context, name string, message []byte) error

	// Yield gives a lease up, and tells all, where it is that of who.
	Yield(ctx context.Context, name, who string, token uint64, message []byte) error

	// Up reports whether the board can be reached, as far as is known.
	Up() bool
}
