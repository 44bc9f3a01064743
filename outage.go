package longpoll

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// outage tells operators that a backend fails and that it recovers, once each,
// however many resources it has.
type outage struct {
	mu      sync.Mutex // protects what follows
	failing map[*resource]struct{}
	since   time.Time
	refused time.Time // when a bound was last logged
}

// begin notes that a check of r has failed.
func (o *outage) begin(h *Handler, r *resource, s *state) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.failing[r]; known {
		return
	}
	if o.failing == nil {
		o.failing = make(map[*resource]struct{})
	}
	o.failing[r] = struct{}{}
	r.OnForget(func() { o.end(h, r) })
	if len(o.failing) > 1 {
		return
	}
	o.since = time.Now()
	h.logger.Warn("backend fails", append(logFields(r),
		zap.Int("status", s.code()), zap.Error(s.err), zap.Int("parked", h.lot.Parked()), zap.String("on_error", h.OnError))...)
}

// end notes that r does not fail any more, or that nobody asks for it any more.
func (o *outage) end(h *Handler, r *resource) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.failing[r]; !known {
		return
	}
	delete(o.failing, r)
	if len(o.failing) == 0 {
		h.logger.Info("backend fails no more", append(logFields(r),
			zap.Duration("duration", time.Since(o.since)), zap.Int("parked", h.lot.Parked()))...)
	}
}

// refusedPause is between two logs of a bound that is hit.
const refusedPause = time.Minute

// refused logs that a bound was hit.
func (h *Handler) refused(err error) {
	o := &h.outage
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.refused.IsZero() && time.Since(o.refused) < refusedPause {
		return
	}
	o.refused = time.Now()
	h.logger.Warn("refusing requests", zap.Error(err), zap.Int("parked", h.lot.Parked()), zap.Int("resources", h.lot.Len()))
}
