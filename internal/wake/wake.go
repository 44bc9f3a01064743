// Package wake says when to look: the contracts of wakers, which are guest modules,
// and `wake writes`, which sees what passes through the site. It marks resources in
// the lot, and reads and answers nothing.
package wake

import (
	"github.com/caddyserver/caddy/v2"

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

// Set is the wakers of one handler.
type Set struct {
	site   *ops.Site
	wakers []named
	writes []*Writes
}

// named is a Waker and the name of its source.
type named struct {
	Waker
	source string
}

// NewSet makes the set of a handler that has no wakers yet.
func NewSet(site *ops.Site) *Set { return &Set{site: site} }

// Add adds a guest, known by the name of its module.
func (s *Set) Add(w Waker, source string) {
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

// OnWrites reports whether writes wake.
func (s *Set) OnWrites() bool { return len(s.writes) > 0 }

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
			r.Wake()
		}))
	}
}
