package ops

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// aHistory is one whose time is set.
func aHistory() (*history, *atomic.Int64) {
	now := new(atomic.Int64)
	return newHistory(func() time.Duration { return time.Duration(now.Load()) }), now
}

func TestHistory(t *testing.T) {
	h, now := aHistory()
	at := func(d time.Duration) { now.Store(int64(d)) }
	at(2 * time.Second)
	if r := h.recent(); r.Requests != 0 || r.Seconds != 2 {
		t.Errorf("at first: got %+v", r)
	}
	for range 3 {
		h.done(poll.Changed)
	}
	h.done(poll.Failed)
	h.done(poll.Refused)
	h.refuse(lot.ErrParked)
	h.refuse(lot.ErrDrained) // is none of the bounds
	h.step().asked.Add(2)
	at(12 * time.Second)
	h.done(poll.Changed)
	r := h.recent()
	if r.Seconds != 12 || r.Requests != 6 || r.Asked != 2 || r.Failed != 1 || r.Refused != 1 || r.refusedBy != [4]uint64{1} {
		t.Errorf("got %+v", r)
	}
	rates := h.rates()
	n := len(rates.Requests)
	if n != historySteps || len(rates.Asked) != n || rates.Step != 5 || rates.Part != 2 {
		t.Fatalf("got %d steps of %v, %v", n, rates.Step, rates.Part)
	}
	if got := rates.Requests[n-4:]; got[0] != 0 || got[1] != 5 || got[2] != 0 || got[3] != 1 {
		t.Errorf("got the last steps %v", got)
	}
	if rates.Asked[n-3] != 2 {
		t.Errorf("got of the backend %v", rates.Asked[n-4:])
	}
	at(64 * time.Second) // the first step is no part of the last minute any more
	if r := h.recent(); r.Requests != 1 || r.Refused != 0 || r.Seconds != 59 {
		t.Errorf("a minute later: got %+v", r)
	}
	at(historySteps*historyStep - 1)
	if first := h.rates().Requests[0]; first != 5 {
		t.Errorf("in the last instant of a quarter of an hour: got %d; want 5", first)
	}
	at(historySteps * historyStep)
	for i, n := range h.rates().Requests {
		if i != 1 && n != 0 || i == 1 && n != 1 {
			t.Errorf("after a quarter of an hour: got %d in step %d", n, i)
		}
	}
	// What takes the place of an old step knows nothing of it.
	at((historySteps + 1) * historyStep)
	h.done(poll.Changed)
	if got := h.rates().Requests[historySteps-1]; got != 1 {
		t.Errorf("in the place of the first step: got %d; want 1", got)
	}
}

func TestHistoryOfReleases(t *testing.T) {
	h, now := aHistory()
	if r := h.releases(); r.Count != 0 || r.Half != nil || r.Most != nil || r.Seconds != 900 {
		t.Errorf("of none: got %+v", r)
	}
	for range 98 {
		h.released(2 * time.Millisecond)
	}
	h.released(30 * time.Millisecond)
	now.Store(int64(time.Minute))
	h.released(time.Minute)
	if r := h.releases(); r.Count != 100 || *r.Half != .0025 || *r.Most != .05 {
		t.Errorf("got %d, half within %v, most within %v", r.Count, *r.Half, *r.Most)
	}
	h.released(time.Minute)
	if r := h.releases(); r.Most != nil {
		t.Errorf("got most within %v; want more than any bucket", *r.Most)
	}
	if len(releaseBuckets)+1 != len(h.steps[0].releases) || len(bounds) != len(h.steps[0].refused) {
		t.Error("a step has not as many places as there are buckets and bounds")
	}
}

// Many count at once, while the time passes: nothing is lost, but for what is old.
func TestHistoryOfMany(t *testing.T) {
	h, now := aHistory()
	const each, those = 2000, 8
	var all sync.WaitGroup
	for range those {
		all.Go(func() {
			for i := range each {
				h.done(poll.Changed)
				if i%100 == 0 {
					now.Add(int64(historyStep / 20)) // 8 s in all
				}
				h.recent()
			}
		})
	}
	all.Wait()
	if r := h.recent(); r.Requests != each*those {
		t.Errorf("got %d requests; want %d", r.Requests, each*those)
	}
}
