package ops

import (
	"cmp"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// outage tells operators that a backend fails and that it recovers, once each,
// however many resources it has. It lasts from the first check that fails to the
// first good one after which no resource is known to fail. That nobody asks for a
// resource any more ends nothing: it says nothing of the backend.
type outage struct {
	open atomic.Bool // so that good checks need no lock while all is well

	mu      sync.Mutex              // protects what follows
	failing map[*poll.Resource]bool // false: not now, but it has failed before
	count   int                     // of those that fail now
	since   time.Time               // zero if there is no outage
	last    *state.Reading          // what the latest check has failed with
	where   *poll.Resource          // and whose it was
}

// Fails notes that a check of r has failed.
func (site *Site) Fails(r *poll.Resource, s *state.Reading) {
	if site.Lot.IsDrained() {
		return // what is behind a retired configuration says nothing of the backend
	}
	o := &site.outage
	o.mu.Lock()
	failing, known := o.failing[r]
	if o.failing == nil {
		o.failing = make(map[*poll.Resource]bool)
	}
	o.failing[r] = true
	if !failing {
		o.count++
	}
	o.last, o.where = s, r
	first := o.since.IsZero()
	if first {
		o.since = s.Ended
		o.open.Store(true)
	}
	o.mu.Unlock()
	if first {
		site.Log.Warn("backend fails", append(logFields(r),
			zap.Int("status", s.Code()), zap.Error(s.Err), zap.Int("parked", site.Lot.Parked()), zap.String("on_error", cmp.Or(site.OnError, "hold")))...)
	}
	if !known {
		r.OnForget(func() { o.forget(r) }) // it may call back at once
	}
}

// FailsNoMore notes that a check of r was good.
func (site *Site) FailsNoMore(r *poll.Resource) {
	o := &site.outage
	if !o.open.Load() {
		return
	}
	o.mu.Lock()
	if o.failing[r] {
		o.failing[r] = false
		o.count--
	}
	since := o.since
	over := o.count == 0 && !since.IsZero()
	if over {
		o.since, o.last, o.where = time.Time{}, nil, nil
		o.open.Store(false)
	}
	o.mu.Unlock()
	if over {
		site.Log.Info("backend fails no more", append(logFields(r),
			zap.Duration("duration", time.Since(since)), zap.Int("parked", site.Lot.Parked()))...)
	}
}

// forget lets go of a resource that the lot has forgotten.
func (o *outage) forget(r *poll.Resource) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failing[r] {
		o.count--
	}
	delete(o.failing, r)
}

// now is the outage as it stands, how many resources it affects, and the failing
// resource that most wait for, with what its check has failed with; nil if there is
// none.
func (o *outage) now() (since time.Time, count int, where *poll.Resource, last *state.Reading) {
	o.mu.Lock()
	defer o.mu.Unlock()
	where, last = o.where, o.last
	most := -1
	for r, failing := range o.failing {
		if !failing {
			continue
		}
		if n := r.Waiters(); n > most {
			if snap := r.Snapshot(); snap.Failed() {
				most, where, last = n, r, snap.Fault
			}
		}
	}
	return o.since, o.count, where, last
}
