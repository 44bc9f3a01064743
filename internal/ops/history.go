package ops

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// The history is of a quarter of an hour, in steps that are short enough to show a change
// and long enough to tell a rate.
const (
	historyStep  = 5 * time.Second
	historySteps = 180
)

// releaseBuckets are the upper bounds of the histogram of releases, in seconds.
// 10,000 clients are released within some 150 ms on two cores.
var releaseBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// bounds are those at which requests are refused, by what the lot says.
var bounds = []struct {
	name  string
	err   error
	share func(lot.Limits) int64
}{
	{"max_parked", lot.ErrParked, func(l lot.Limits) int64 { return int64(l.Parked) }},
	{"max_parked_per_client", lot.ErrClient, func(l lot.Limits) int64 { return int64(l.PerClient) }},
	{"max_resources", lot.ErrResources, func(l lot.Limits) int64 { return int64(l.Resources) }},
	{"max_memory", lot.ErrMemory, func(l lot.Limits) int64 { return l.Memory }},
}

// history is what has happened of late, over all handlers: in memory that does not grow,
// without a timer or a goroutine, since whoever counts turns the page.
type history struct {
	now   func() time.Duration // since a moment that is always the same
	mu    sync.Mutex           // held to begin a step
	steps [historySteps + 1]step
}

// step is what has happened in one historyStep. The last of the array is being written
// while the others are whole.
type step struct {
	number   atomic.Int64 // of the step, whose remainder is its place
	requests atomic.Uint32
	asked    atomic.Uint32
	failed   atomic.Uint32
	refused  [4]atomic.Uint32  // by bound
	releases [14]atomic.Uint32 // by bucket; the last is of what took longer
}

var theHistory = newHistory(func() time.Duration { return time.Since(processBegan) })

func newHistory(now func() time.Duration) *history {
	h := &history{now: now}
	for i := range h.steps {
		h.steps[i].number.Store(never)
	}
	return h
}

// never is the number of no step.
const never = -1 << 62

// number is that of the present step.
func (h *history) number() int64 { return int64(h.now() / historyStep) }

// at is the step of a number.
func (h *history) at(n int64) *step {
	return &h.steps[(n%int64(len(h.steps))+int64(len(h.steps)))%int64(len(h.steps))]
}

// step is the present one, begun if it is new.
func (h *history) step() *step {
	n := h.number()
	s := h.at(n)
	if s.number.Load() != n {
		h.begin(s, n)
	}
	return s
}

// begin forgets what happened a quarter of an hour ago.
func (h *history) begin(s *step, n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.number.Load() == n {
		return
	}
	s.requests.Store(0)
	s.asked.Store(0)
	s.failed.Store(0)
	for i := range s.refused {
		s.refused[i].Store(0)
	}
	for i := range s.releases {
		s.releases[i].Store(0)
	}
	s.number.Store(n)
}

// done counts a request of a client that has its outcome.
func (h *history) done(outcome poll.Outcome) {
	s := h.step()
	s.requests.Add(1)
	if outcome == poll.Failed {
		s.failed.Add(1)
	}
}

// refuse counts a request that a bound forbade to park.
func (h *history) refuse(bound error) {
	for i := range bounds {
		if errors.Is(bound, bounds[i].err) {
			h.step().refused[i].Add(1)
		}
	}
}

// released counts a release.
func (h *history) released(took time.Duration) {
	i := 0
	for i < len(releaseBuckets) && took.Seconds() > releaseBuckets[i] {
		i++
	}
	h.step().releases[i].Add(1)
}

// each calls f for each of the last n steps, the oldest first and the present one last;
// s is nil where nothing has happened.
func (h *history) each(n int, f func(s *step)) {
	now := h.number()
	for i := now - int64(n) + 1; i <= now; i++ {
		if s := h.at(i); s.number.Load() == i {
			f(s)
		} else {
			f(nil)
		}
	}
}

// recentStats is the last minute. Refused are those that hit a bound, and Failed those
// that got the backend's error.
type recentStats struct {
	Seconds  float64 `json:"seconds"`
	Requests uint64  `json:"requests"`
	Asked    uint64  `json:"backend_requests"`
	Refused  uint64  `json:"refused"`
	Failed   uint64  `json:"failed"`

	refusedBy [4]uint64
}

// recently is how many steps are a minute.
const recently = int(time.Minute / historyStep)

// recent is the last minute, or what there is of it.
func (h *history) recent() (r recentStats) {
	h.each(recently, func(s *step) {
		if s == nil {
			return
		}
		r.Requests += uint64(s.requests.Load())
		r.Asked += uint64(s.asked.Load())
		r.Failed += uint64(s.failed.Load())
		for i := range s.refused {
			n := uint64(s.refused[i].Load())
			r.refusedBy[i] += n
			r.Refused += n
		}
	})
	now := h.now()
	r.Seconds = roundSeconds(min(now, now%historyStep+(time.Duration(recently)-1)*historyStep))
	return r
}

// ratesStats is the last quarter of an hour, in steps of so many seconds, the oldest
// first. The last one is not over: Part is how many seconds of it have passed.
type ratesStats struct {
	Step     float64  `json:"step"`
	Part     float64  `json:"part"`
	Requests []uint32 `json:"requests"`
	Asked    []uint32 `json:"backend_requests"`
}

func (h *history) rates() ratesStats {
	r := ratesStats{Step: historyStep.Seconds(), Part: roundSeconds(h.now() % historyStep)}
	h.each(historySteps, func(s *step) {
		var requests, asked uint32
		if s != nil {
			requests, asked = s.requests.Load(), s.asked.Load()
		}
		r.Requests, r.Asked = append(r.Requests, requests), append(r.Asked, asked)
	})
	return r
}

// releasesStats is how long releases took in the last quarter of an hour: half of them,
// and 99 of a hundred, took no longer. It is null where that is more than any bucket.
type releasesStats struct {
	Seconds float64  `json:"seconds"`
	Count   uint64   `json:"count"`
	Half    *float64 `json:"half"`
	Most    *float64 `json:"most"`
}

func (h *history) releases() releasesStats {
	r := releasesStats{Seconds: historyStep.Seconds() * historySteps}
	var took [14]uint64
	h.each(historySteps, func(s *step) {
		for i := range took {
			if s != nil {
				took[i] += uint64(s.releases[i].Load())
			}
		}
	})
	for _, n := range took {
		r.Count += n
	}
	within := func(share uint64) *float64 { // of a hundred
		var sum uint64
		for i, n := range took[:len(releaseBuckets)] {
			if sum += n; sum*100 >= r.Count*share {
				return &releaseBuckets[i]
			}
		}
		return nil
	}
	if r.Count > 0 {
		r.Half, r.Most = within(50), within(99)
	}
	return r
}

// Asked counts a request to the handlers behind us, on whosever behalf.
func Asked() {
	theMetrics.asked.Inc()
	theHistory.step().asked.Add(1)
}
