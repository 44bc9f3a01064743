package longpoll

import (
	"cmp"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// outage tells operators that a backend fails and that it recovers, once each,
// however many resources it has. It lasts from the first check that fails to the
// first good one after which no resource is known to fail. That nobody asks for a
// resource any more ends nothing: it says nothing of the backend.
type outage struct {
	open atomic.Bool // so that good checks need no lock while all is well

	mu      sync.Mutex            // protects what follows
	failing map[*resource]bool    // false: not now, but it has failed before
	count   int                   // of those that fail now
	since   time.Time             // zero if there is no outage
	last    *state                // what the latest check has failed with
	where   *resource             // and whose it was
	bounds  map[error]*refusedLog // that were hit
}

// begin notes that a check of r has failed.
func (o *outage) begin(h *Handler, r *resource, s *state) {
	select {
	case <-h.lot.Drained():
		return // what is behind a retired configuration says nothing of the backend
	default:
	}
	o.mu.Lock()
	failing, known := o.failing[r]
	if o.failing == nil {
		o.failing = make(map[*resource]bool)
	}
	o.failing[r] = true
	if !failing {
		o.count++
	}
	o.last, o.where = s, r
	first := o.since.IsZero()
	if first {
		o.since = s.ended
		o.open.Store(true)
	}
	o.mu.Unlock()
	if first {
		h.logger.Warn("backend fails", append(logFields(r),
			zap.Int("status", s.code()), zap.Error(s.err), zap.Int("parked", h.lot.Parked()), zap.String("on_error", cmp.Or(h.OnError, "hold")))...)
	}
	if !known {
		r.OnForget(func() { o.forget(r) }) // it may call back at once
	}
}

// end notes that a check of r was good.
func (o *outage) end(h *Handler, r *resource) {
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
		h.logger.Info("backend fails no more", append(logFields(r),
			zap.Duration("duration", time.Since(since)), zap.Int("parked", h.lot.Parked()))...)
	}
}

// forget lets go of a resource that the lot has forgotten.
func (o *outage) forget(r *resource) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failing[r] {
		o.count--
	}
	delete(o.failing, r)
}

// now is the outage as it stands, how many resources it affects, and that of them
// which most wait for, with what its check has failed with; nil if there is none.
func (o *outage) now() (since time.Time, count int, where *resource, last *state) {
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

// reason says in a few words why a check failed. It is shown to whoever can reach
// the admin endpoint, and the text of an error may bear anything, so that only what
// is known to be harmless is taken from it.
func (s *state) reason() string {
	if s.err != nil {
		text := s.err.Error()
		for _, r := range reasons {
			if strings.HasSuffix(text, r) {
				return r
			}
		}
		if strings.Contains(text, "x509: ") {
			return "certificate not trusted"
		}
	}
	return http.StatusText(s.code())
}

// reasons is how errors end that handlers commonly return: ours, those of
// connections, and those of reverse_proxy.
var reasons = []string{
	errTimeout.Error(), errAborted.Error(), errNothing.Error(), errUnasked.Error(),
	"connection refused", "connection reset by peer", "broken pipe", "no such host", "no route to host",
	"network is unreachable", "i/o timeout", "timeout awaiting response headers", "context deadline exceeded", "EOF",
	"no such file or directory", "permission denied", "server misbehaving", "no upstreams available",
}

// refusedPause is between two logs of one bound that is hit.
const refusedPause = time.Minute

// refusedLog is what is to be said of a bound.
type refusedLog struct {
	at    time.Time // when it was last said
	count int       // requests refused since then
}

// refused logs that a bound was hit, and how often since it was last logged.
func (h *Handler) refused(err error) {
	o := &h.outage
	o.mu.Lock()
	b := o.bounds[err]
	if b == nil {
		if o.bounds == nil {
			o.bounds = make(map[error]*refusedLog)
		}
		b = new(refusedLog)
		o.bounds[err] = b
	}
	b.count++
	now, count := time.Now(), b.count
	due := b.at.IsZero() || now.Sub(b.at) >= refusedPause
	if due {
		b.at, b.count = now, 0
	}
	o.mu.Unlock()
	if due {
		h.logger.Warn("refusing requests", zap.Error(err), zap.Int("refused", count),
			zap.Int("parked", h.lot.Parked()), zap.Int("resources", h.lot.Len()))
	}
}
