package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// judge knows what the backend has said, and says what should not have happened.
type judge struct {
	*record
	tally tally
	rough []*[]span // times in which, and shortly after, deliveries may take longer
}

// got judges a delivery to a client that had another version before.
func (s *judge) got(resource, had, v int) {
	now := time.Now()
	s.record.mu.Lock()
	known := v > 0 && v <= len(s.versions[resource])
	var written time.Time
	if known && v > had {
		written = s.versions[resource][had] // of the first version that it did not have
	}
	s.record.mu.Unlock()
	switch {
	case !known || v <= had:
		s.tally.fault("/r/%d: a client that had version %d got %d", resource, had, v)
		return
	case had == 0:
		return // it has just come
	}
	s.tally.count(&s.tally.deliveries)
	for _, spans := range s.rough {
		if s.overlap(spans, written.Add(-aftermath), now) {
			return
		}
	}
	lag := now.Sub(written)
	if lag > longest {
		s.tally.fault("/r/%d: version %d came %v after it was written", resource, v, lag)
	}
	s.tally.mu.Lock()
	s.tally.lags = append(s.tally.lags, lag)
	s.tally.mu.Unlock()
}

// missing is how many clients have not got the last version.
func (s *judge) missing(have []int) (n int) {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	for i, v := range have {
		if v != len(s.versions[i%soakResources]) {
			n++
		}
	}
	return n
}

// judgement is what there is to complain of: have are the versions that clients have, and the
// last ones are given so much time yet.
func (s *judge) judgement(have []int, patience time.Duration) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && s.missing(have) > 0; {
		time.Sleep(50 * time.Millisecond)
	}
	if n := s.missing(have); n > 0 {
		s.tally.fault("%d of %d clients have never got the last version", n, len(have))
	}
	s.tally.mu.Lock()
	defer s.tally.mu.Unlock()
	if len(s.tally.wrong) > 0 {
		return errors.New(strings.Join(s.tally.wrong, "\n"))
	}
	return nil
}

// tally is what has happened.
type tally struct {
	mu         sync.Mutex // protects all
	writes     int
	deliveries int
	released   int // without news
	ordinary   int // requests that were told what their client has
	away       int // errors while the backend was
	cut        int // new connections, by a reload
	reloads    int
	restarts   int
	kills      int
	lags       []time.Duration // from writes to deliveries, but for those around restarts
	wrong      []string
}

// fault notes what should not have happened.
func (t *tally) fault(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.wrong) < 20 {
		t.wrong = append(t.wrong, fmt.Sprintf(format, args...))
	}
}

func (t *tally) count(n *int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*n++
}

func (t *tally) String() string {
	slices.Sort(t.lags)
	at := func(percent int) time.Duration {
		if len(t.lags) == 0 {
			return 0
		}
		return t.lags[(len(t.lags)-1)*percent/100].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%d writes, %d deliveries, %d releases without news, %d ordinary requests without news, %d errors of a backend that was away, "+
		"%d new connections cut by a reload, %d reloads, %d restarts of the backend, %d of Redis; from write to delivery p50 %v, p99 %v, last %v",
		t.writes, t.deliveries, t.released, t.ordinary, t.away, t.cut, t.reloads, t.restarts, t.kills, at(50), at(99), at(100))
}
