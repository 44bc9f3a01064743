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
	failing map[*poll.Resource]part // of those that are known and have ever failed
	count   int                     // of those that fail now
	since   time.Time               // zero if there is no outage
	last    *state.Reading          // what the latest check has failed with
	where   *poll.Resource          // and whose it was
}

// part is what part a resource has in an outage.
type part int8

const (
	none  part = iota // it has failed in an earlier one
	ended             // it has failed in this one, and does so no more
	fails             // it fails now
)

// Fails notes that a check of r has failed.
func (site *Site) Fails(r *poll.Resource, s *state.Reading) {
	if site.Lot.IsDrained() {
		return // what is behind a retired configuration says nothing of the backend
	}
	o := &site.outage
	o.mu.Lock()
	before, known := o.failing[r]
	if o.failing == nil {
		o.failing = make(map[*poll.Resource]part)
	}
	o.failing[r] = fails
	if before != fails {
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
			zap.Int("status", s.Code()), zap.Error(s.Err), zap.Int("parked", r.Waiters()), zap.String("on_error", cmp.Or(site.OnError, "hold")))...)
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
	if o.failing[r] == fails {
		o.failing[r] = ended
		o.count--
	}
	since := o.since
	over := o.count == 0 && !since.IsZero()
	waiters := 0
	if over {
		for r, is := range o.failing {
			if is == ended {
				waiters += r.Waiters()
			}
			o.failing[r] = none
		}
		o.since, o.last, o.where = time.Time{}, nil, nil
		o.open.Store(false)
	}
	o.mu.Unlock()
	if over {
		site.Log.Info("backend fails no more", append(logFields(r),
			zap.Duration("duration", time.Since(since)), zap.Int("parked", waiters))...)
	}
}

// forget lets go of a resource that the lot has forgotten.
func (o *outage) forget(r *poll.Resource) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failing[r] == fails {
		o.count--
	}
	delete(o.failing, r)
}

// now is the outage as it stands, how many resources it affects and how many wait for
// these, and the failing resource that most wait for, with what its check has failed
// with; nil if there is none.
func (o *outage) now() (since time.Time, count, waiters int, where *poll.Resource, last *state.Reading) {
	o.mu.Lock()
	defer o.mu.Unlock()
	where, last = o.where, o.last
	most := -1
	for r, is := range o.failing {
		if is != fails {
			continue
		}
		n := r.Waiters()
		waiters += n
		if n > most {
			if snap := r.Snapshot(); snap.Failed() {
				most, where, last = n, r, snap.Fault
			}
		}
	}
	return o.since, o.count, waiters, where, last
}
