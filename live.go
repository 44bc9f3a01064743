package longpoll

import (
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// live is every handler that can have requests, those of a retired configuration
// included until the last of them has left. The admin API and the metrics read it, for they
// are provisioned before any handler; writes find by it whom to wake.
var live registry

type registry struct {
	mu  sync.Mutex // protects all
	all []*Handler // replaced and never changed, for each write reads it
}

func (l *registry) add(h *Handler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(slices.Clone(l.all), h)
}

func (l *registry) remove(h *Handler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = slices.DeleteFunc(slices.Clone(l.all), func(o *Handler) bool { return o == h })
}

// handlers are all of them. The caller does not change what it is given.
func (l *registry) handlers() []*Handler {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all
}

// on is the handlers of the server with that name, in the retired and in the
// current configuration.
func (l *registry) on(server string) iter.Seq[*Handler] {
	return func(yield func(*Handler) bool) {
		for _, h := range l.handlers() {
			if h.server == server && !yield(h) {
				return
			}
		}
	}
}

// parked is how many requests are parked in all of them.
func (l *registry) parked() (n int) {
	for _, h := range l.handlers() {
		n += h.lot.Parked()
	}
	return n
}

// resources is how many resources are known in all of them.
func (l *registry) resources() (n int) {
	for _, h := range l.handlers() {
		n += h.lot.Len()
	}
	return n
}

// wakersUp says of each source whether it can be heard. Of several that bear one
// name an operator wants to know of the one that can not.
func (l *registry) wakersUp() map[string]bool {
	up := make(map[string]bool)
	for _, h := range l.handlers() {
		if h.parting.retired.Load() {
			continue // its wakers have been closed
		}
		for _, w := range h.wakers {
			if s, ok := w.Waker.(StatusWaker); ok {
				others, known := up[w.source]
				up[w.source] = s.Up() && (others || !known)
			}
		}
	}
	return up
}

// parting is how a handler ends: it is drained, then Cleanup retires it, and the
// last of its requests takes it out of sight. Until then its parked are counted.
type parting struct {
	drained atomic.Bool // the log may be told of its end
	retired atomic.Bool // by Cleanup

	mu     sync.Mutex // protects what follows
	parked int        // when the drain began; 0 once the log has it
	began  time.Time
}

// drain releases everybody who is parked, as at a timeout, and parks nobody from
// now on.
func (h *Handler) drain() {
	if h.lot == nil {
		return // Caddy cleans up after a Provision that failed
	}
	began := time.Now()
	parked, first := h.lot.Drain()
	if !first {
		return
	}
	if parked > 0 {
		h.logger.Info("draining", zap.Int("parked", parked), zap.Duration("over", h.drainSpread(parked)))
	}
	p := &h.parting
	p.mu.Lock()
	p.parked, p.began = parked, began
	p.mu.Unlock()
	p.drained.Store(true)
	h.departed() // who has left meanwhile could not know
}

// retire takes the handler out of sight as soon as nobody is parked.
func (h *Handler) retire() {
	h.parting.retired.Store(true)
	h.departed()
}

// departed is called whenever a request has left the lot. The last one of a drain
// tells how long that took.
func (h *Handler) departed() {
	p := &h.parting
	if !p.drained.Load() || h.lot.Parked() > 0 {
		return
	}
	p.mu.Lock()
	parked, began := p.parked, p.began
	p.parked = 0
	p.mu.Unlock()
	if parked > 0 {
		h.logger.Info("drained", zap.Int("parked", parked), zap.Duration("duration", time.Since(began)))
	}
	if p.retired.Load() {
		live.remove(h)
	}
}
