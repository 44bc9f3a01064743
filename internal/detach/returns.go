package detach

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// returning is a poll that was parked and turned out to wait for something else, or to have
// to ask for itself, and whose request is on its way through the server once more: it has
// its place, and the time that is left of its wait. It goes with its connection, until that
// request is answered.
type returning struct {
	spot              *park.Spot // where it was parked
	client            string     // who its place is counted for
	arrived, parkedAt time.Time
	place             bool // is kept
	found             atomic.Bool
	forget            *time.Timer
}

// wayBack bounds how long a place is kept for a request that does not come: a handler in
// front may not let it through any more.
const wayBack = 5 * time.Second

// expect keeps what p was until it comes back, and with place the one that
// [lot.Waiter.Reserve] has kept.
func expect(spot *park.Spot, p *poll.Poll, place bool) *returning {
	of := &returning{spot: spot, client: p.Client(), arrived: p.Arrived, parkedAt: p.ParkedAt, place: place}
	of.forget = time.AfterFunc(wayBack, of.giveUp)
	return of
}

// giveUp has no request come back any more.
func (of *returning) giveUp() {
	if of.found.CompareAndSwap(false, true) && of.place {
		of.spot.Lot.Unreserve(of.client)
	}
}

// returningOn is the poll that was parked before conn was given back; nil if none was.
func returningOn(conn net.Conn) *returning {
	switch conn := conn.(type) {
	case *returned:
		return conn.poll
	case *returnedTLS:
		return conn.poll
	}
	return nil
}

// returningKey is the context key by which a connection that is given back has its poll.
const returningKey caddy.CtxKey = "long_poll_returning"

// ConnContext is that of a server's connections, whose polls find what they were before they
// were given back.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	of := returningOn(conn)
	if of == nil {
		return ctx
	}
	return context.WithValue(ctx, returningKey, of)
}

// ConnState is called with what becomes of a server's connections. Once a request is
// answered, what comes next on its connection is another one, and not the poll that was given
// back: a handler in front has answered that.
func ConnState(conn net.Conn, now http.ConnState) {
	if now != http.StateIdle && now != http.StateClosed {
		return
	}
	if of := returningOn(conn); of != nil {
		of.forget.Stop()
		of.giveUp()
	}
}

// welcome has p, for which no place is kept yet, be the poll that it was before it was given
// back to the server, if it was.
func (l *Lobby) welcome(p *poll.Poll) {
	of, _ := p.Request.Context().Value(returningKey).(*returning)
	if of == nil || of.spot != l.Spot || !of.found.CompareAndSwap(false, true) {
		return
	}
	of.forget.Stop()
	p.Arrived, p.ParkedAt, p.Reserved = of.arrived, of.parkedAt, of.place
}
