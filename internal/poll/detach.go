package poll

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
)

// Detach has p wait on without the goroutine of its request and without what the server
// has made for that: r is what is left of the request, and repl its placeholders. Until
// [Poll.Attach] what logs ask for is only given when they are written.
func (p *Poll) Detach(r *http.Request, repl *caddy.Replacer) {
	p.Request, p.repl, p.Deadlines, p.detached = r, repl, Deadlines{Cleared: true}, true
}

// Attach ends what Detach has begun: p is about to be told what has become of it.
func (p *Poll) Attach() { p.detached = false }

// User is who was authenticated on the way to us.
func (p *Poll) User() string { return p.user }

// later is the value of a placeholder that is not known yet.
type later struct {
	p   *Poll
	key string
}

// String is the value, when it is known.
func (l later) String() string {
	v, _ := l.p.placeholder(l.key)
	return caddy.ToString(v)
}
