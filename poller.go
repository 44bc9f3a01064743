package longpoll

import (
	"math/rand/v2"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/check"
	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// poller is the way of a check: when it is made, and what its end does to those who
// wait.
type poller struct {
	h        *Handler
	resource *poll.Resource
	backend  *check.Backend
}

// turn is one check: the lot has it made again and again, while somebody waits.
func (p *poller) turn() {
	p.h.wakes.Watch(p.resource, p.backend.Replacer)
	if !p.backend.Acquire() {
		return
	}
	if !p.resource.Begin() {
		p.backend.Release()
		return
	}
	last, began := p.resource.Snapshot(), time.Now()
	now := p.backend.Check(last.State.Known())
	took := time.Since(began)
	if now.Fault() && !now.Held {
		p.fail(last, now, took)
	} else {
		p.publish(last, now, took)
	}
}

// fail has everybody wait on, or see what the check has failed with.
func (p *poller) fail(last *poll.Snapshot, now *state.State, took time.Duration) {
	before := last.State
	if last.Failed() {
		before = last.Fault
	}
	r := &state.Reading{State: now, Result: state.Failed, Fails: 1}
	if before != nil {
		r.Fails += before.Fails
	}
	r.Pause = p.h.faultPause(r.Fails)
	p.h.site.Checked(p.resource, r, took)
	p.h.site.Fails(p.resource, r)
	p.resource.Fail(r, p.h.polls.Release, due(r))
}

// publish has everybody see what the check has read.
func (p *poller) publish(last *poll.Snapshot, now *state.State, took time.Duration) {
	p.h.site.FailsNoMore(p.resource)
	if v := now.Variation; v != nil {
		if v = p.h.polls.Share.Memory.Learn(p.backend.Name, v); !v.Equal(p.backend.Variation) {
			// Before it is published: who comes from now on finds it by what it
			// turned out to depend on.
			p.backend.Variation = v
			p.h.site.Lot.Rename(p.resource, p.backend.Key())
		}
	}
	old := last.State
	changed := old == nil || now.News
	r := &state.Reading{State: now, Result: state.Changed, Since: now.Ended, Pause: p.h.nextPause(old, changed)}
	if !changed {
		r.Result, r.Since = state.Unchanged, old.Since
	}
	p.h.site.Checked(p.resource, r, took)
	p.resource.Publish(r, changed, due(r))
}

// nextPause is the pause after a good check: it grows by half while nothing changes,
// and falls back on a change.
func (h *Handler) nextPause(old *state.Reading, changed bool) time.Duration {
	pause := time.Duration(*h.Interval)
	if !changed && old.Pause > 0 {
		pause = min(old.Pause+old.Pause/2, time.Duration(*h.MaxInterval))
	}
	return max(pause, time.Duration(*h.Interval))
}

// maxFaultPause bounds the growing pauses between checks of a backend that fails:
// shorter than the default hold, so that who is parked sees it recover.
const maxFaultPause = 10 * time.Second

// faultPause is the pause after as many failures in a row.
func (h *Handler) faultPause(fails int) time.Duration {
	pause := time.Duration(*h.Interval)
	limit := max(maxFaultPause, pause)
	for range fails - 1 {
		if pause += pause / 2; pause >= limit {
			return limit
		}
	}
	return pause
}

// due is when the next check begins: after the pause, which what the backend asks
// for is a lower bound of, and up to a tenth later, so that resources drift apart.
func due(r *state.Reading) time.Time {
	pause := r.Pause
	if r.Source != nil {
		pause = max(pause, httphdr.RetryAfter(r.Source.Header, r.Ended))
	}
	return r.Ended.Add(pause + time.Duration(rand.Float64()*float64(pause)/10))
}
