package longpoll

import (
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"go.uber.org/zap"
)

type (
	resource = lot.Resource[*state]
	waiter   = lot.Waiter[*state]
	snapshot = lot.Snapshot[*state]
)

// maxFaultPause bounds the growing pauses between checks of a backend that fails:
// shorter than the default hold, so that who is parked sees it recover.
const maxFaultPause = 10 * time.Second

// poll checks a resource once: the lot has it do so again and again, while somebody
// waits.
func (h *Handler) poll(r *resource, t *template) {
	h.watch(r, t)
	if t.slot = h.slots.acquire(h.lot.Drained()); !t.slot {
		return
	}
	if !r.Begin() {
		t.release()
		return
	}
	snap := r.Snapshot()
	began := time.Now()
	now := t.check(snap.State)
	h.conclude(r, snap, now, t, time.Since(began))
}

// conclude publishes what a check has read.
func (h *Handler) conclude(r *resource, snap *snapshot, now *state, t *template, took time.Duration) {
	old := snap.State
	last := old // what the last check read or failed with
	if snap.Failed() {
		last = snap.Fault
	}
	if now.fault() && !now.held {
		now.fails = 1
		if last != nil {
			now.fails += last.fails
		}
		now.result = resultFailed
		now.pause = h.faultPause(now)
		h.checked(r, now, took)
		h.outage.begin(h, r, now)
		r.Fail(now, h.OnError == "release", due(now))
		return
	}
	h.outage.end(h, r)
	if v := now.variation; v != nil {
		if v = h.variations.learn(t.name, v); !v.equal(t.variation) {
			// Before it is published: who comes from now on finds it by what it
			// turned out to depend on.
			t.variation = v
			h.lot.Rename(r, v.key(t.base, t.r.Header, t.id))
		}
	}
	changed := old == nil || now.news
	now.result, now.since = resultChanged, now.ended
	if !changed {
		now.result, now.since = resultUnchanged, old.since
	}
	now.pause = h.nextPause(old, changed)
	h.checked(r, now, took)
	r.Publish(now, changed, due(now))
}

// fault reports whether s is an outage rather than an answer.
func (s *state) fault() bool { return !s.through && fails(s.code()) }

// differ reports whether anybody who is parked could be released by now.
func (t *template) differ(old, now *state) bool {
	if old.version != now.version || old.through != now.through || !old.variation.equal(now.variation) {
		return true
	}
	// A hold_while may look at what is no part of the version. What it takes from the
	// request is the same for both.
	for i := range t.h.HoldWhile {
		if text := t.h.HoldWhile[i].Value; t.value(text, old) != t.value(text, now) {
			return true
		}
	}
	return false
}

// nextPause is the pause after a good check: it grows by half while nothing changes,
// and falls back on a change.
func (h *Handler) nextPause(old *state, changed bool) time.Duration {
	pause := time.Duration(*h.Interval)
	if !changed && old.pause > 0 {
		pause = min(old.pause+old.pause/2, time.Duration(*h.MaxInterval))
	}
	return max(pause, time.Duration(*h.Interval))
}

// faultPause is the pause after as many failures in a row.
func (h *Handler) faultPause(s *state) time.Duration {
	pause := time.Duration(*h.Interval)
	limit := max(maxFaultPause, pause)
	for range s.fails - 1 {
		if pause += pause / 2; pause >= limit {
			return limit
		}
	}
	return pause
}

// due is when the next check begins: after the pause, which what the backend asks
// for is a lower bound of, and up to a tenth later, so that resources drift apart.
func due(s *state) time.Time {
	pause := s.pause
	if s.seen != nil {
		pause = max(pause, retryAfter(s.seen.header, s.ended))
	}
	return s.ended.Add(pause + time.Duration(rand.Float64()*float64(pause)/10))
}

// pauseFields are those by which a backend asks to be left alone: Retry-After is from
// RFC 9110, section 10.2.3.
var pauseFields = []string{"Retry-After", "X-Poll-Interval"}

// maxPause is what ParseUint below allows too. With its tenth it is still a Duration,
// which the years until a date need not be.
const maxPause = 1 << 31 * time.Second

// retryAfter is how long the backend asks to be left alone.
func retryAfter(header http.Header, now time.Time) (pause time.Duration) {
	for _, name := range pauseFields {
		text := strings.TrimSpace(header.Get(name))
		if n, err := strconv.ParseUint(text, 10, 31); err == nil {
			pause = max(pause, time.Duration(n)*time.Second)
		} else if at, err := http.ParseTime(text); err == nil && name == "Retry-After" {
			pause = max(pause, min(at.Sub(now), maxPause))
		}
	}
	return pause
}

// slots bounds how many checks are in flight.
type slots chan struct{}

// acquire waits for a slot; it returns false if done is closed before.
func (s slots) acquire(done <-chan struct{}) bool {
	select {
	case s <- struct{}{}:
		return true
	case <-done:
		return false
	}
}

func (s slots) release() { <-s }

// watch has the wakers watch a resource, until it is forgotten. It runs on the
// poller's goroutine, since a waker may take its time.
func (h *Handler) watch(r *resource, t *template) {
	if len(h.wakers) == 0 || !r.Once() {
		return
	}
	defer func() { // nobody else would: what panics is a waker, or a placeholder in its name
		if p := recover(); p != nil {
			h.logger.Error("a waker panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
		}
	}()
	for _, w := range h.wakers {
		woken := h.metrics.wakes.WithLabelValues(w.source)
		r.OnForget(w.Watch(t.replacer(nil), func() {
			woken.Inc()
			r.Wake()
		}))
	}
}

// logFields describe a resource in a log: never its query, which may hold secrets.
func logFields(r *resource) []zap.Field {
	return []zap.Field{
		zap.String("method", r.Name.Method),
		zap.String("host", r.Name.Host),
		zap.String("path", r.Name.Path),
	}
}
