package contract_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestSweep has every number of waiters, each of them leaving at each of several
// moments, wake-ups before, during and after a check or none, and a reload at each
// of these points or none. What holds in all of these is what the rules say.
//
// A check takes a second, and reads the state as it begins: the first from 0 to 1,
// while nobody is parked yet. At 2 the state becomes another.
func TestSweep(t *testing.T) {
	const never = time.Hour
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	wakes := map[string]struct {
		at []time.Duration
		by time.Duration // when everybody has the change
	}{
		"no wake-up":              {nil, ms(7500)},
		"wake-up before a check":  {[]time.Duration{ms(3000)}, ms(4000)},
		"wake-up during a check":  {[]time.Duration{ms(1500), ms(2200)}, ms(3500)},
		"wake-up after a check":   {[]time.Duration{ms(1500), ms(2600)}, ms(3600)},
		"wake-up before parking":  {[]time.Duration{ms(500)}, ms(8500)},
		"wake-up for each moment": {[]time.Duration{ms(500), ms(1500), ms(2000), ms(2200), ms(2500), ms(3000)}, ms(4000)},
	}
	leaves := []time.Duration{ms(300), ms(1200), ms(2300)}
	drains := []time.Duration{never, 0, ms(500), ms(1000), ms(1700), ms(2100), ms(2500), ms(3200), ms(6700)}

	for name, wake := range wakes {
		for waiters := range 4 {
			waiters++
			t.Run(fmt.Sprint(name, ", ", waiters, " waiters"), virtual(func(t *testing.T) {
				for leaver := range waiters + 1 { // one more: nobody leaves
					for _, leaveAt := range leaves {
						for _, drainAt := range drains {
							p := plan{waiters, leaver, leaveAt, wake.at, drainAt, wake.by}
							p.run(t)
						}
						if leaver == waiters {
							break
						}
					}
				}
			}))
		}
	}
}

// plan is one case of the sweep.
type plan struct {
	waiters int
	leaver  int
	leaveAt time.Duration
	wakes   []time.Duration
	drainAt time.Duration
	by      time.Duration
}

func (p plan) run(t *testing.T) {
	t.Helper()
	s := newSite(t, "hold 20s 0%\ninterval 5s\nlinger 30s")
	var state atomic.Value
	state.Store("1")
	s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
		return slowly(time.Second, tagged(state.Load().(string)))(w, r)
	})
	var all []*client
	for range p.waiters {
		all = append(all, s.get("/", has("1")))
	}
	time.AfterFunc(2*time.Second, func() { state.Store("2") })
	for _, at := range p.wakes {
		time.AfterFunc(at, func() { s.wake("/") })
	}
	time.AfterFunc(p.drainAt, s.drain)
	if p.leaver < p.waiters {
		time.AfterFunc(p.leaveAt, all[p.leaver].leave)
	}

	for i, c := range all {
		<-c.done
		got, drained := c.String(), p.drainAt <= c.took
		switch {
		case i == p.leaver && got == "499 left" && c.took == p.leaveAt:
		case got == "200 changed state 2" && c.took <= p.by && c.took > 2*time.Second:
		case drained && got == "304 drained" && c.took <= p.drainAt+time.Second:
		// It was not parked yet, and has asked for itself.
		case drained && strings.HasPrefix(got, "200 bypassed state ") && c.took <= p.drainAt+2*time.Second:
		case drained && got == "304 bypassed" && c.took <= p.drainAt+2*time.Second:
		default:
			t.Errorf("%+v: client %d got %q after %v", p, i, got, c.took)
		}
	}
	if _, most := s.backend.inFlight(); most > 1 && p.drainAt == time.Hour {
		t.Errorf("%+v: got %d checks at once", p, most)
	}
	if s.lot.Parked() != 0 {
		t.Errorf("%+v: got %d parked when all have gone", p, s.lot.Parked())
	}
	settle(10 * time.Second)
	n := s.backend.checks()
	settle(time.Minute)
	if more := s.backend.checks() - n; more != 0 || s.lot.Len() != 0 {
		t.Errorf("%+v: got %d checks and %d resources when all have gone", p, more, s.lot.Len())
	}
}
