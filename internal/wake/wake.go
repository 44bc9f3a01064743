// Package wake says when to look: the contracts of wakers, which are guest modules,
// and `wake writes`, which sees what passes through the site. It marks resources in
// the lot, and reads and answers nothing.
package wake

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/ops"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// Waker is a guest module in the namespace http.long_poll.wakers: a source of
// wake-ups. A wake-up says when to look, never what there is to see, so it may be
// lost, doubled or forged without harm beyond one check.
type Waker interface {
	// Watch is called when a resource gets its first waiter, never on the path of
	// a request. repl resolves the placeholders of the request that is asked on
	// behalf of all; it is only valid during the call. wake marks the resource for
	// a check: it never blocks, and may be called from any goroutine, any number
	// of times, after stop too.
	//
	// Watch returns at once. stop is called exactly once, when the resource is
	// forgotten, which is up to `linger` after its last waiter left, and returns
	// at once.
	Watch(repl *caddy.Replacer, wake func()) (stop func())
}

// PathWaker is a Waker whose messages name paths themselves. OnPath is called once,
// in Provision, before any Watch. wake is like that of Watch.
type PathWaker interface {
	Waker
	OnPath(wake func(path string))
}

// StatusWaker is a Waker that knows whether it can hear its source now.
type StatusWaker interface {
	Waker
	Up() bool
}

// OnWrites reports whether `wake writes` is among the guests. It looks at the raw
// configuration, since a Caddyfile is adapted without provisioning anything.
func OnWrites(guests []json.RawMessage) bool {
	return slices.ContainsFunc(guests, func(raw json.RawMessage) bool {
		var guest struct {
			Waker string `json:"waker"`
		}
		return json.Unmarshal(raw, &guest) == nil && guest.Waker == "writes"
	})
}

// Set is the wakers of one handler.
type Set struct {
	site   *ops.Site
	wakers []named
	writes []*Writes

	// Deaf reports whether a wake-up of a resource here is of no use; nil if it never is.
	Deaf func(r *poll.Resource) bool
}

// named is a Waker and the name of its source.
type named struct {
	Waker
	source string
}

// NewSet makes the set of a handler that has no wakers yet.
func NewSet(site *ops.Site) *Set { return &Set{site: site} }

// Load adds the guests of `wake`: raw is the field WakeRaw of host.
func (s *Set) Load(ctx caddy.Context, host any, raw []json.RawMessage) error {
	if len(raw) == 0 {
		return nil
	}
	guests, err := ctx.LoadModule(host, "WakeRaw")
	if err != nil {
		return fmt.Errorf("loading wake: %w", err)
	}
	for _, guest := range guests.([]any) {
		w, ok := guest.(Waker)
		if !ok {
			return fmt.Errorf("loading wake: module %T is not a Waker; expected one with the method Watch", guest)
		}
		s.add(w, guest.(caddy.Module).CaddyModule().ID.Name())
	}
	return nil
}

// add adds a guest, known by the name of its module.
func (s *Set) add(w Waker, source string) {
	ops.CountWakes(source)
	if ws, ok := w.(*Writes); ok {
		s.writes = append(s.writes, ws)
		return
	}
	s.wakers = append(s.wakers, named{w, source})
	if status, ok := w.(StatusWaker); ok {
		s.site.Wakers = append(s.site.Wakers, ops.Source{Name: source, Up: status.Up})
	}
	if p, ok := w.(PathWaker); ok {
		p.OnPath(func(path string) {
			ops.Woken(source)
			s.site.Lot.Wake(path, func(lot.Name) bool { return true })
		})
	}
}

// Seeing is next, with a look at r as it passes if that is a write and writes wake.
func (s *Set) Seeing(r *http.Request, next caddyhttp.Handler) caddyhttp.Handler {
	if len(s.writes) == 0 || !isWrite(r.Method) {
		return next
	}
	return caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { return see(w, r, next) })
}

// Watch has the wakers watch a resource, until it is forgotten: once for all of its
// checks. repl gives the placeholders of these. It runs on the poller's goroutine,
// since a waker may take its time.
func (s *Set) Watch(r *poll.Resource, repl func() *caddy.Replacer) {
	if len(s.wakers) == 0 || !r.Once() {
		return
	}
	defer func() { // nobody else would: what panics is a waker, or a placeholder in its name
		if p := recover(); p != nil {
			s.site.Panicked("a waker panicked", p)
		}
	}()
	for _, w := range s.wakers {
		r.OnForget(w.Watch(repl(), func() {
			ops.Woken(w.source)
			if s.Deaf == nil || !s.Deaf(r) {
				r.Wake()
			}
		}))
	}
}
