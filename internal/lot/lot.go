// Package lot is where requests are parked: resources, the snapshots of their
// state, those who wait for the next one, and the bounds on all of that. It knows
// neither how a waiter waits nor where a snapshot comes from.
//
// Everything is level-triggered. A wake-up says "look", a snapshot says what is,
// and a waiter compares that with what it has; nothing is counted on to arrive
// exactly once.
package lot

import (
	"container/list"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Why a request can not be parked.
var (
	ErrParked    = errors.New("max_parked is reached")
	ErrClient    = errors.New("max_parked_per_client is reached")
	ErrResources = errors.New("max_resources is reached")
	ErrDrained   = errors.New("the lot is drained")
)

// Key tells resources apart. It is a digest, so that it holds no credentials.
type Key [32]byte

// Name is what a person would call a resource.
type Name struct{ Method, Host, Path string }

// Limits bounds a lot.
type Limits struct {
	Parked    int           // requests parked at once; 0 is no bound
	PerClient int           // requests parked at once by one client; 0 is no bound
	Resources int           // resources known at once; 0 is no bound
	Linger    time.Duration // how long a resource is known after its last waiter left
}

// Lot is a set of resources whose states are of type S.
type Lot[S any] struct {
	limits  Limits
	parked  atomic.Int64
	drained chan struct{}

	mu        sync.Mutex                // protects what follows; taken after no other lock
	resources map[Key]*Resource[S]      //
	byPath    map[string][]*Resource[S] // the same, by path without trailing slashes
	idle      list.List                 // of *Resource[S], those without members, longest idle first
	clients   map[string]int            // parked by client, where that is bounded
	draining  bool                      // drained is closed
	farewells []func()                  // of resources just forgotten; unlock calls them
}

// New makes an empty lot.
func New[S any](limits Limits) *Lot[S] {
	return &Lot[S]{
		limits:    limits,
		drained:   make(chan struct{}),
		resources: make(map[Key]*Resource[S]),
		byPath:    make(map[string][]*Resource[S]),
		clients:   make(map[string]int),
	}
}

// Join makes the caller a member of the resource with that key: as long as there
// is one, the resource is not forgotten. Where the lot is full of resources that
// have members, the resource is not listed: nobody shares it and nobody can park
// on it, but its state can be read.
func (l *Lot[S]) Join(key Key, name Name) Waiter[S] {
	l.mu.Lock()
	defer l.unlock()
	r, ok := l.resources[key]
	if !ok {
		r = newResource(l, key, name)
		if l.limits.Resources == 0 || len(l.resources) < l.limits.Resources || l.evictLocked() {
			l.listLocked(r)
		}
	}
	r.members++
	if r.idle != nil {
		l.idle.Remove(r.idle)
		r.idle = nil
		if !r.linger.Stop() {
			// It has fired and waits for mu: the resource, idle anew by then, is
			// not to be forgotten because of that.
			r.linger = nil
		}
	}
	return Waiter[S]{Resource: r, joined: r.begun.Load()}
}

// unlock releases mu, and then tells those who asked for it what was forgotten
// meanwhile: they have locks of their own.
func (l *Lot[S]) unlock() {
	farewells := l.farewells
	l.farewells = nil
	l.mu.Unlock()
	for _, f := range farewells {
		f()
	}
}

// Rename lists a resource under another key, for what is only known once it has
// been read. Where the key is taken the resource has none any more: those who have
// joined it stay, and those who come join the other.
func (l *Lot[S]) Rename(r *Resource[S], key Key) {
	l.mu.Lock()
	defer l.unlock()
	if l.resources[r.key] != r {
		return
	}
	delete(l.resources, r.key)
	if _, taken := l.resources[key]; taken {
		// It can not be found by key any more, but by path: its waiters still
		// want their wake-ups.
		if r.members == 0 {
			l.forgetLocked(r)
		}
		return
	}
	r.key = key
	l.resources[key] = r
}

// Wake marks the resources of that path, with any query and in any guise, for a
// check, if match says so. A trailing slash makes no difference. It returns how
// many were marked.
func (l *Lot[S]) Wake(path string, match func(Name) bool) int {
	l.mu.Lock()
	// Marked when mu is free again: match is not ours, and they may be many.
	found := append([]*Resource[S](nil), l.byPath[trim(path)]...)
	l.mu.Unlock()
	return wakeAll(found, match)
}

// WakePrefix is Wake for all paths that begin with prefix.
func (l *Lot[S]) WakePrefix(prefix string, match func(Name) bool) int {
	return wakeAll(l.Resources(), func(n Name) bool {
		return strings.HasPrefix(n.Path, prefix) && match(n)
	})
}

func wakeAll[S any](found []*Resource[S], match func(Name) bool) (n int) {
	for _, r := range found {
		if match(r.Name) {
			r.Wake()
			n++
		}
	}
	return n
}

// Resources are those that are known now, in no order.
func (l *Lot[S]) Resources() []*Resource[S] {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*Resource[S], 0, len(l.resources))
	for _, rs := range l.byPath {
		all = append(all, rs...)
	}
	return all
}

// Len is how many resources are known.
func (l *Lot[S]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.resources)
}

// Empty reports whether Wake can find nothing. Len does not say so: a resource whose
// key was taken has none, but a path.
func (l *Lot[S]) Empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byPath) == 0
}

// Parked is how many requests are parked.
func (l *Lot[S]) Parked() int { return int(l.parked.Load()) }

// Drain ends the lot: nobody is parked from now on, Drained is closed, those who are
// parked are woken, pollers end, and what a check in flight reads is not published,
// since the handlers behind a retired configuration may say anything. It reports how
// many were parked, and whether this call was the first.
func (l *Lot[S]) Drain() (parked int, first bool) {
	l.mu.Lock()
	first = !l.draining
	if first {
		l.draining = true
		close(l.drained)
		for l.evictLocked() {
		}
	}
	l.unlock()
	if first {
		for _, r := range l.Resources() {
			r.drain()
		}
	}
	return l.Parked(), first
}

// Drained is closed when the lot is drained. Those who are parked need not wait for
// it too: a drain closes Changed of their snapshots.
func (l *Lot[S]) Drained() <-chan struct{} { return l.drained }

// IsDrained reports whether the lot is drained.
func (l *Lot[S]) IsDrained() bool {
	select {
	case <-l.drained:
		return true
	default:
		return false
	}
}

func (l *Lot[S]) listLocked(r *Resource[S]) {
	r.listed = true
	l.resources[r.key] = r
	path := trim(r.Name.Path)
	l.byPath[path] = append(l.byPath[path], r)
}

// evictLocked makes room by forgetting the resource that has been idle longest.
func (l *Lot[S]) evictLocked() bool {
	e := l.idle.Front()
	if e == nil {
		return false
	}
	l.forgetLocked(e.Value.(*Resource[S]))
	return true
}

// forgetLocked takes a resource without members out of the lot. Twice is once: it
// may be evicted in the instant in which its linger ends.
func (l *Lot[S]) forgetLocked(r *Resource[S]) {
	if r.idle != nil {
		l.idle.Remove(r.idle)
		r.idle = nil
		r.linger.Stop()
	}
	if r.listed {
		r.listed = false
		if l.resources[r.key] == r {
			delete(l.resources, r.key)
		}
		path := trim(r.Name.Path)
		rest := l.byPath[path]
		for i, other := range rest {
			if other == r {
				rest[i] = rest[len(rest)-1]
				rest[len(rest)-1] = nil
				rest = rest[:len(rest)-1]
				break
			}
		}
		if len(rest) == 0 {
			delete(l.byPath, path)
		} else {
			l.byPath[path] = rest
		}
	}
	r.forgotten = true
	l.farewells = append(l.farewells, r.onForget...)
	r.onForget = nil
}

// leave ends a membership, and with the last one starts the linger.
func (l *Lot[S]) leave(r *Resource[S]) {
	l.mu.Lock()
	defer l.unlock()
	r.members--
	if r.members > 0 {
		return
	}
	if l.resources[r.key] != r || l.draining || l.limits.Linger <= 0 {
		l.forgetLocked(r)
		return
	}
	r.idle = l.idle.PushBack(r)
	if r.linger != nil {
		r.linger.Reset(l.limits.Linger)
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(l.limits.Linger, func() {
		l.mu.Lock()
		defer l.unlock()
		if r.linger == timer {
			l.forgetLocked(r)
		}
	})
	r.linger = timer
}

// park counts a request in, or says which bound forbids it.
func (l *Lot[S]) park(r *Resource[S], client string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.draining:
		return ErrDrained
	case !r.listed:
		return ErrResources
	case l.limits.Parked > 0 && l.Parked() >= l.limits.Parked:
		return ErrParked
	case l.limits.PerClient > 0 && l.clients[client] >= l.limits.PerClient:
		return ErrClient
	}
	l.parked.Add(1)
	if l.limits.PerClient > 0 {
		l.clients[client]++
	}
	return nil
}

// unpark counts a request out.
func (l *Lot[S]) unpark(client string) {
	l.parked.Add(-1)
	if l.limits.PerClient == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients[client]--; l.clients[client] <= 0 {
		delete(l.clients, client)
	}
}

// trim makes /orders and /orders/ one path.
func trim(path string) string {
	return strings.TrimRight(path, "/")
}
