// Package ops is what operators see: metrics, the log of outages, of refusals and of
// a handler's end, the admin API and its page, and the live handlers that all of these
// speak of. It reads the lot and the states, and answers no client.
package ops

import (
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-longpoll/caddy-longpoll/internal/line"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// Site is a handler as operators see it.
type Site struct {
	Server   string // the name of the server that it is part of; empty outside of Caddy's HTTP app
	Shadow   bool   // it only looks on
	OnError  string // hold or release
	Interval time.Duration
	Lot      *poll.Lot
	Line     *line.Line // see Hear
	Log      *zap.Logger
	Wakers   []Source
	Cluster  Cluster // nil without one

	// Warnings that are given once, by the method of the same name.
	restless    sync.Once
	blind       sync.Once
	unversioned sync.Once
	split       sync.Once
	cut         sync.Once

	place    place
	streams  atomic.Int64 // open now
	detached atomic.Int64 // that wait now without a goroutine
	outage   outage
	refusals refusals
	ending   ending
}

// Cluster is the part of a cluster that a handler is.
type Cluster interface {
	// Leases is how many resources it checks on behalf of all.
	Leases() int
	// By says which Caddy checks a resource, and whether it is this one; it is empty if
	// each checks for itself.
	By(r *poll.Resource) (by string, here bool)
	// Tell has the resources of a path on a host, or on all where that is empty, and where
	// it is deep of all paths that begin so, be woken elsewhere too.
	Tell(host, path string, deep bool)
	// Leave hands on what is checked here. It does not wait.
	Leave()
}

// WakersUp reports whether all wakers can be heard now.
func (s *Site) WakersUp() bool {
	return !slices.ContainsFunc(s.Wakers, func(w Source) bool { return !w.Up() })
}

// Wake wakes what another Caddy says: see [Cluster.Tell].
func (s *Site) Wake(host, path string, deep bool) {
	match := func(n lot.Name) bool { return host == "" || n.Host == host }
	wake := s.Lot.Wake
	if deep {
		wake = s.Lot.WakePrefix
	}
	if wake(path, match) > 0 {
		Woken(sourceCluster)
	}
}

// Source is a waker by its name, and whether it can be heard now.
type Source struct {
	Name string
	Up   func() bool
}

// Live is every handler that can have requests, those of a retired configuration
// included until the last of them has left. The admin API and the metrics read it, for
// they are provisioned before any handler.
var Live registry

type registry struct {
	mu  sync.Mutex // protects all
	all []*Site
}

// Streams counts n more streams that are open, or with -1 one less.
func (s *Site) Streams(n int) { s.streams.Add(int64(n)) }

// Detached counts n more polls that wait without a goroutine, or with -1 one less.
func (s *Site) Detached(n int) { s.detached.Add(int64(n)) }

// Begin puts the site in sight.
func (s *Site) Begin() {
	Live.mu.Lock()
	defer Live.mu.Unlock()
	Live.all = append(Live.all, s)
}

func (l *registry) remove(s *Site) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = slices.DeleteFunc(l.all, func(o *Site) bool { return o == s })
}

// Sites are the live handlers, in the order in which they began.
func (l *registry) Sites() []*Site {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// parked is how many requests are parked in all live handlers.
func (l *registry) parked() (n int) {
	for _, s := range l.Sites() {
		n += s.Lot.Parked()
	}
	return n
}

// streams is how many streams are open in all live handlers.
func (l *registry) streams() (n int64) {
	for _, s := range l.Sites() {
		n += s.streams.Load()
	}
	return n
}

// detached is how many requests wait without a goroutine in all live handlers.
func (l *registry) detached() (n int64) {
	for _, s := range l.Sites() {
		n += s.detached.Load()
	}
	return n
}

// resources is how many resources are known in all live handlers.
func (l *registry) resources() (n int) {
	for _, s := range l.Sites() {
		n += s.Lot.Len()
	}
	return n
}

// leases is how many resources all live handlers check on behalf of their clusters.
func (l *registry) leases() (n int) {
	for _, s := range l.Sites() {
		if s.Cluster != nil {
			n += s.Cluster.Leases()
		}
	}
	return n
}

// wakersUp says of each source whether it can be heard. Of several that bear one
// name an operator wants to know of the one that can not.
func (l *registry) wakersUp() map[string]bool {
	up := make(map[string]bool)
	for _, s := range l.Sites() {
		if s.ending.retired.Load() {
			continue // its wakers have been closed
		}
		for _, w := range s.Wakers {
			others, known := up[w.Name]
			up[w.Name] = w.Up() && (others || !known)
		}
	}
	return up
}

// ending is how a handler ends: it is drained, then Cleanup retires it, and the last
// of its requests takes it out of sight. Until then its parked are counted.
type ending struct {
	drained atomic.Bool // the log may be told of its end
	retired atomic.Bool // by Cleanup

	mu     sync.Mutex // protects what follows
	parked int        // when the drain began; 0 once the log has it
	began  time.Time
	end    func() // called when it goes out of sight
}

// Drain releases everybody who is parked, as at a timeout, and parks nobody from now
// on. over is how long it takes to release so many.
func (s *Site) Drain(over func(parked int) time.Duration) {
	began := time.Now()
	parked, first := s.Lot.Drain()
	if !first {
		return
	}
	if s.Cluster != nil {
		s.Cluster.Leave()
	}
	if parked > 0 {
		s.Log.Info("draining", zap.Int("parked", parked), zap.Duration("over", over(parked)))
	}
	e := &s.ending
	e.mu.Lock()
	e.parked, e.began = parked, began
	e.mu.Unlock()
	e.drained.Store(true)
	s.Departed() // who has left meanwhile could not know
}

// Retire takes the site out of sight as soon as nobody is parked, and calls end then.
func (s *Site) Retire(end func()) {
	s.ending.mu.Lock()
	s.ending.end = end
	s.ending.mu.Unlock()
	s.ending.retired.Store(true)
	s.Departed()
}

// Departed is called whenever a request has left the lot. The last one of a drain
// tells how long that took.
func (s *Site) Departed() {
	e := &s.ending
	if !e.drained.Load() || s.Lot.Parked() > 0 {
		return
	}
	e.mu.Lock()
	parked, began := e.parked, e.began
	e.parked = 0
	var end func()
	if e.retired.Load() {
		end, e.end = e.end, nil
	}
	e.mu.Unlock()
	if parked > 0 {
		s.Log.Info("drained", zap.Int("parked", parked), zap.Duration("duration", time.Since(began)))
	}
	if end != nil {
		Live.remove(s)
		end()
	}
}

// Panicked tells of a panic that would have ended the process. It is called where the
// panic was recovered, so that the stack shows where it came from.
func (s *Site) Panicked(message string, p any) {
	s.Log.Error(message, zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
}

// Unversioned warns of a configured version that is empty for an answer.
func (s *Site) Unversioned(name lot.Name, status int) {
	s.unversioned.Do(func() {
		s.Log.Warn("version is empty: the ETag or a hash takes its place", zap.String("path", name.Path), zap.Int("status", status))
	})
}

// Looked warns of what looks at the client's address behind the handler, so that nobody
// shares who does not have the same, if nobody has said that this is meant.
func (s *Site) Looked(looks []string, unsaid bool) {
	if !unsaid {
		return
	}
	s.Log.Warn("the client's address is taken as key, since it is looked at behind long_poll: "+
		"to share again, let the matcher stand on long_poll or in front of it, or say vary -client_ip", zap.Strings("looks", looks))
}

// Reached warns of what stands in front of the handler and lets nothing through, if there
// is such a thing.
func (s *Site) Reached(unless string) {
	if unless == "" {
		return
	}
	s.Log.Warn("long_poll is never reached: what stands in front of it lets nothing through", zap.String("in_front", unless))
}

// Split warns of a request field by which many resources of one path differ, and by
// nothing else.
func (s *Site) Split(name lot.Name, field string) {
	s.split.Do(func() {
		s.Log.Warn("many resources of one path differ in one request field only: if their answers do not, vary with a minus and the field lets their clients share",
			zap.String("field", field), zap.String("path", name.Path))
	})
}

// Restless warns of a resource that each check finds to be another: what its body says
// of the time, or of who asks, is taken for a change.
func (s *Site) Restless(r *poll.Resource) {
	s.restless.Do(func() {
		s.Log.Warn("each check finds another version: is there a time, a nonce or a token in the body? See ignore, ignore_match and version", logFields(r)...)
	})
}

// Blind warns of a resource whose ETag changes while an ignore_match, which may match all
// of the body, leaves nothing of the change.
func (s *Site) Blind(r *poll.Resource) {
	s.blind.Do(func() {
		s.Log.Warn("the backend's ETag changes, and the hash does not: does ignore_match match more than it should?", logFields(r)...)
	})
}

// logFields describe a resource in a log: never its query, which may hold secrets.
func logFields(r *poll.Resource) []zap.Field {
	return []zap.Field{
		zap.String("method", r.Name.Method),
		zap.String("host", r.Name.Host),
		zap.String("path", r.Name.Path),
	}
}
