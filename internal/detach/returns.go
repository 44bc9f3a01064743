package detach

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// returns are the polls that turned out to wait for something else, and whose requests are
// on their way through the server once more: each has its place, and the time that is left
// of its wait. They are told from all others by the address of their connection.
type returns struct {
	some atomic.Int64 // how many they are

	mu  sync.Mutex // protects all
	all map[string]*returning
}

// returning is one of them.
type returning struct {
	arrived, parkedAt time.Time
	forget            *time.Timer
}

// wayBack bounds how long a place is kept for a request that does not come: a handler in
// front may not let it through any more.
const wayBack = 5 * time.Second

// expect keeps the place of p, which [lot.Waiter.Reserve] has kept, until it comes back.
func (rs *returns) expect(spot *park.Spot, p *poll.Poll) {
	address, client := addressOf(p), p.Client()
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.all == nil {
		rs.all = make(map[string]*returning)
	}
	if address == "" || rs.all[address] != nil {
		spot.Lot.Unreserve(client)
		return
	}
	of := &returning{arrived: p.Arrived, parkedAt: p.ParkedAt}
	of.forget = time.AfterFunc(wayBack, func() {
		if rs.take(address, of) {
			spot.Lot.Unreserve(client)
		}
	})
	rs.all[address] = of
	rs.some.Add(1)
}

// take takes one out, and reports whether it was there.
func (rs *returns) take(address string, of *returning) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.all[address] != of {
		return false
	}
	delete(rs.all, address)
	rs.some.Add(-1)
	return true
}

// welcome has p, which is about to wait, be the poll that it was before it was given back
// to the server, if it was.
func (l *Lobby) welcome(p *poll.Poll) {
	if l.returns.some.Load() == 0 {
		return
	}
	address := addressOf(p)
	if address == "" {
		return
	}
	l.returns.mu.Lock()
	of := l.returns.all[address]
	l.returns.mu.Unlock()
	if of == nil || !l.returns.take(address, of) {
		return
	}
	of.forget.Stop()
	if p.Reserved { // while its body was read
		l.Spot.Unreserve(p)
	}
	p.Arrived, p.ParkedAt, p.Reserved = of.arrived, of.parkedAt, true
}

// addressOf is by what the connection of p is told from all others: its two ends, as they
// were before handlers on the way to us could change them. It is empty where that is not
// enough, as for Unix sockets.
func addressOf(p *poll.Poll) string {
	ctx := p.Request.Context()
	orig, _ := ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	local, _ := ctx.Value(http.LocalAddrContextKey).(net.Addr)
	if _, port, err := net.SplitHostPort(orig.RemoteAddr); err != nil || port == "" || local == nil {
		return ""
	}
	return orig.RemoteAddr + " " + local.String()
}
