// Package lot is where requests are parked: resources, the snapshots of their
// state, those who wait for the next one, and the bounds on all of that. It knows
// neither how a waiter waits nor where a snapshot comes from, and imports nothing but
// the standard library.
//
// Everything is level-triggered. A wake-up says "look", a snapshot says what is,
// and a waiter compares that with what it has; nothing is counted on to arrive
// exactly once.
//
// # Concurrency
//
// Whoever has a [Lot] or a [Resource] may call its methods on any goroutine at any time,
// but for those of the poller. None of them blocks, but for locks that are never held
// while anything is waited for or any function of a caller runs.
//
//   - A [Snapshot] is immutable. Its channels are closed, and nothing is sent on them.
//   - A [Waiter] is one request's: one goroutine at a time calls its methods, and
//     [Waiter.Leave] last.
//   - [Resource.Schedule] is called by whom [Waiter.Watch] has told to. The function that
//     it is given is the poller: it is called on a goroutine of the resource, once at a
//     time, and may block.
//   - [Resource.Abandoned] and [Resource.Begin] are the poller's. A check that has begun
//     ends once: by [Resource.Publish], [Resource.Fail] or [Resource.Abandon].
//   - The functions given to [Resource.OnForget] are called by whatever makes the lot
//     forget: a timer, or a call of [Lot.Join], [Lot.Rekey], [Lot.Drain], [Waiter.Leave]
//     or [Resource.Weigh]. They must not block, but may call the lot.
//   - So may the functions that [Lot.Wake] and [Lot.WakePrefix] ask which resources are
//     meant.
package lot

import (
	"container/list"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Why [Waiter.Park] does not park a request.
var (
	ErrParked    = errors.New("max_parked is reached")            // as many are parked as [Limits.Parked] allows
	ErrClient    = errors.New("max_parked_per_client is reached") // as many of its client are as [Limits.PerClient] allows
	ErrResources = errors.New("max_resources is reached")         // it came when there was no room to list its resource
	ErrMemory    = errors.New("max_memory is reached")            // what is waited for keeps more bytes than [Limits.Memory]
	ErrDrained   = errors.New("the lot is drained")               // nobody is parked any more
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
	Memory    int64         // bytes kept of states; 0 is no bound
	Linger    time.Duration // how long a resource is known after its last waiter left
}

// Lot is a set of resources whose states are of type S.
type Lot[S any] struct {
	limits  Limits
	parked  atomic.Int64
	memory  atomic.Int64 // the sum of all weights; changed under mu
	drained chan struct{}

	mu        sync.Mutex                // protects what follows; taken after no other lock
	resources map[Key]*Resource[S]      //
	byPath    map[string][]*Resource[S] // the same, by path without trailing slashes
	unlisted  map[*Resource[S]]struct{} // those that there was no room for
	idle      list.List                 // of *Resource[S], those without members, longest idle first
	came      uint64                    // resources that there have ever been
	reserved  int                       // places that are kept for requests that may be parked
	clients   map[string]int            // parked and reserved by client, where that is bounded
	draining  bool                      // drained is closed
	forgotten []func()                  // callbacks of resources just forgotten; unlock calls them
}

// New makes an empty lot.
func New[S any](limits Limits) *Lot[S] {
	return &Lot[S]{
		limits:    limits,
		drained:   make(chan struct{}),
		resources: make(map[Key]*Resource[S]),
		byPath:    make(map[string][]*Resource[S]),
		unlisted:  make(map[*Resource[S]]struct{}),
		clients:   make(map[string]int),
	}
}

// Join makes the request of the caller a member of the resource with that key: as long as there
// is one, the resource is not forgotten. Where the lot is full of resources that
// have members, the resource is not listed: nobody shares it and nobody can park
// on it, but its state can be read.
func (l *Lot[S]) Join(key Key, name Name) Waiter[S] {
	l.mu.Lock()
	defer l.unlock()
	r, ok := l.resources[key]
	if !ok {
		r = newResource(l, key, name)
		l.came++
		r.number = l.came
		if l.limits.Resources == 0 || len(l.resources) < l.limits.Resources || l.evictLocked() {
			l.listLocked(r)
		} else {
			l.unlisted[r] = struct{}{}
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
	forgotten := l.forgotten
	l.forgotten = nil
	l.mu.Unlock()
	for _, f := range forgotten {
		f()
	}
}

// Rekey lists a resource under another key, for what is only known once it has
// been read. Where the key is taken the resource has none any more: those who have
// joined it stay, and those who come join the other.
func (l *Lot[S]) Rekey(r *Resource[S], key Key) {
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
	return l.resourcesLocked()
}

func (l *Lot[S]) resourcesLocked() []*Resource[S] {
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
// parked are woken, pollers end, and a check in flight is given up: what it reads is not
// published, since the handlers behind a retired configuration may say anything. It reports how
// many were parked, and whether this call was the first.
func (l *Lot[S]) Drain() (parked int, first bool) {
	l.mu.Lock()
	first = !l.draining
	var all []*Resource[S]
	if first {
		l.draining = true
		close(l.drained)
		for l.evictLocked() {
		}
		all = slices.AppendSeq(l.resourcesLocked(), maps.Keys(l.unlisted))
	}
	l.unlock()
	for _, r := range all {
		r.drain()
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
	delete(l.unlisted, r)
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
	l.memory.Add(-r.weight)
	r.weight = 0
	r.forgotten = true
	l.forgotten = append(l.forgotten, r.onForget...)
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
	} else {
		l.lingerLocked(r)
	}
	l.lightenLocked()
}

// lingerLocked makes the timer that forgets an idle resource.
func (l *Lot[S]) lingerLocked(r *Resource[S]) {
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

// trim makes /orders and /orders/ one path.
func trim(path string) string {
	return strings.TrimRight(path, "/")
}
