package detach

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// returning is a poll that was parked and turned out to wait for something else, or to have
// to ask for itself, and whose request is on its way through the server once more: it has
// its place, and the time that is left of its wait. It goes with its connection.
type returning struct {
	arrived, parkedAt time.Time
	unreserve         func() // gives its place up; nil if it has none
	found             atomic.Bool
	forget            *time.Timer
}

// lose gives up what is kept, unless the poll has found it: it does not come any more.
func (of *returning) lose() {
	if of.found.CompareAndSwap(false, true) && of.unreserve != nil {
		of.unreserve()
	}
}

// wayBack bounds how long a place is kept for a request that does not come: a handler in
// front may not let it through any more.
const wayBack = 5 * time.Second

// expect keeps what p was until it comes back, and with place the one that
// [lot.Waiter.Reserve] has kept.
func expect(spot *park.Spot, p *poll.Poll, place bool) *returning {
	of := &returning{arrived: p.Arrived, parkedAt: p.ParkedAt}
	if place {
		client := p.Client()
		of.unreserve = func() { spot.Lot.Unreserve(client) }
	}
	of.forget = time.AfterFunc(wayBack, of.lose)
	return of
}

// returningKey is the context key by which a connection that is given back has its poll.
const returningKey caddy.CtxKey = "long_poll_returning"

// ConnContext is that of a server's connections, whose polls find what they were before they
// were given back.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	var of *returning
	switch conn := conn.(type) {
	case *returned:
		of = conn.poll
	case *returnedTLS:
		of = conn.poll
	}
	if of == nil {
		return ctx
	}
	return context.WithValue(ctx, returningKey, of)
}

// welcome has p, which is about to wait, be the poll that it was before it was given back
// to the server, if it was.
func (l *Lobby) welcome(p *poll.Poll) {
	of, _ := p.Request.Context().Value(returningKey).(*returning)
	if of == nil || !of.found.CompareAndSwap(false, true) {
		return
	}
	of.forget.Stop()
	p.Arrived, p.ParkedAt = of.arrived, of.parkedAt
	if of.unreserve != nil {
		l.Spot.Unreserve(p) // what was reserved while its body was read
		p.Reserved = true
	}
}
