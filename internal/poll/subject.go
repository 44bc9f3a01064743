package poll

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Subject is what is asked about: what a poll has in common with the checks that are
// made on its behalf.
type Subject struct {
	Request *http.Request
	Body    []byte
	ID      uint64 // tells the poll from all others; 0 for none

	Name      lot.Name
	Base      lot.Key          // what always tells resources apart
	Variation *share.Variation // what the backend's answers turned out to depend on; nil if nothing
}

// identify finds out which resource is asked about.
func (p *Poll) identify() {
	r := p.Request
	p.Name = lot.Name{Method: r.Method, Host: strings.ToLower(r.Host), Path: r.URL.Path}
	p.Base = p.rules.Share.Key(r, p.Name, p.Asker())
	p.Find(p.rules.Share.Memory.Of(p.Name))
}

// Asker is what has become of the request on its way to us.
func (p *Poll) Asker() *share.Asker {
	a := &share.Asker{ID: p.ID, Body: p.Body, User: p.user} // on the stack, as a rule
	p.describe(a)
	return a
}

// describe fills in what Caddy and the handlers on the way to us have made of the request.
func (p *Poll) describe(a *share.Asker) {
	ctx := p.Request.Context()
	a.Vars, _ = ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)
	a.ClientIP, _ = a.Vars[caddyhttp.ClientIPVarKey].(string)
	a.Trusted, _ = a.Vars[caddyhttp.TrustedProxyVarKey].(bool)
	a.Groups, _ = ctx.Value(RouteGroups).(map[string]struct{})
	if orig, ok := ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		a.Method, a.URL = orig.Method, orig.URL
	}
	switch local := ctx.Value(http.LocalAddrContextKey).(type) {
	case *net.TCPAddr: // the usual ones, without the text of the address
		a.Local = local.AddrPort()
	case *net.UDPAddr:
		a.Local = local.AddrPort()
	case net.Addr:
		a.Local, _ = netip.ParseAddrPort(local.String())
	}
	if len(p.rules.Share.Values) > 0 {
		a.Value = func(text string) string { return p.repl.ReplaceAll(text, "") }
	}
}

// RouteGroups is the context key of Caddy's route groups: handle blocks exclude one
// another by it. What comes from the middle of the routes has to know which were
// passed.
const RouteGroups caddy.CtxKey = "route_group"

// Find finds the poll's resource, v being what the answers are known to depend on.
func (p *Poll) Find(v *share.Variation) {
	p.Variation = v
	p.key = p.vary(v, p.Base)
}

// Key is what tells the poll's resource from all others.
func (p *Poll) Key() lot.Key { return p.key }

// MayRead reports whether st, whose answer may depend on more than is always
// compared, is an answer to p too.
func (p *Poll) MayRead(st *state.State) bool {
	v := st.Variation
	if v == nil {
		return true
	}
	if !v.Equal(p.judged) {
		if p.detached && v.Wants() {
			return false // the placeholders that tell are the request's, which has gone
		}
		p.judged, p.varied = v, p.vary(v, lot.Key{})
	}
	return p.varied == st.Varied
}

// vary adds what p has of what v depends on to a key. Most answers depend on nothing
// more: then it costs nothing.
func (p *Poll) vary(v *share.Variation, base lot.Key) lot.Key {
	if v == nil {
		return base
	}
	return p.varyKey(v, base)
}

// varyKey is vary where there is something to add. It looks placeholders up on a stack of
// their own, if there are any.
func (p *Poll) varyKey(v *share.Variation, base lot.Key) (key lot.Key) {
	find := func() error {
		key = v.Key(base, share.Sharer{
			Header: p.Request.Header, ID: p.ID, Alone: true, Credentials: p.rules.Share.Credentials(p.Request, p.Asker()), Value: p.lookUp,
		})
		return nil
	}
	if v.Wants() {
		_ = OnOwnStack(find)
	} else {
		_ = find()
	}
	return key
}

// lookUp is the value of a placeholder that was set on the way to us. One that panics is
// not known: the check that asks for it fails, and the poll is told so.
func (p *Poll) lookUp(name string) (value string, known bool) {
	defer func() {
		if recover() != nil {
			value, known = "", false
		}
	}()
	if p.Lent != nil {
		p.Lent.Lock()
		defer p.Lent.Unlock()
	}
	v, known := p.repl.Get(name)
	return caddy.ToString(v), known
}

// OnOwnStack calls f on a goroutine of its own and waits for its end, since to look up
// placeholders takes a deep stack: that of a request would stay as deep for as long as it
// is parked. It returns the error of f, and panics with what f panics with.
func OnOwnStack(f func() error) error {
	type end struct {
		err   error
		panic any
	}
	ended := make(chan end, 1)
	go func() {
		e := end{panic: "a placeholder ended its goroutine"}
		defer func() {
			if p := recover(); p != nil {
				e.panic = p
			}
			ended <- e
		}()
		e.err, e.panic = f(), nil
	}()
	e := <-ended
	if e.panic != nil {
		panic(e.panic) // for net/http, as if it had happened here
	}
	return e.err
}
