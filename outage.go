package longpoll

import (
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
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
			zap.Int("status", s.code()), zap.Error(s.err), zap.Int("parked", h.lot.Parked()), zap.String("on_error", h.OnError))...)
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

// now is the outage as it stands, and how many resources it affects; where is nil
// if there is none.
func (o *outage) now() (since time.Time, count int, where *resource, last *state) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.since, o.count, o.where, o.last
}

// reason says in a few words why a check failed. It is shown to whoever can reach
// the admin endpoint, so it takes nothing from the text of errors, which may bear
// anything.
func (s *state) reason() string {
	var errno syscall.Errno
	var dns *net.DNSError
	var unverified x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var otherHost x509.HostnameError
	var timeout net.Error
	switch err := s.err; {
	case err == nil:
	case errors.Is(err, errTimeout):
		return "no answer within check_timeout"
	case errors.Is(err, errAborted):
		return "answer was broken off"
	case errors.Is(err, errNothing):
		return "no handler answered"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &dns):
		return "host name not resolved"
	case errors.As(err, &unverified), errors.As(err, &invalid), errors.As(err, &otherHost):
		return "certificate not trusted"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timed out"
	}
	return http.StatusText(s.code())
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
