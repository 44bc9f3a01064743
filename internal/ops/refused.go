package ops

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// refusedPause is between two logs of one bound that is hit.
const refusedPause = time.Minute

// refusals are the bounds that were hit.
type refusals struct {
	mu     sync.Mutex // protects bounds
	bounds map[error]*refusal
}

// refusal is what is to be said of a bound.
type refusal struct {
	at    time.Time // when it was last said
	count int       // requests refused since then
}

// Refused logs that a bound was hit, and how often since it was last logged.
func (s *Site) Refused(bound error) {
	theHistory.refuse(bound)
	now := time.Now()
	if count, due := s.refusals.add(bound, now); due {
		s.Log.Warn("refusing requests", zap.Error(bound), zap.Int("refused", count),
			zap.Int("parked", s.Lot.Parked()), zap.Int("resources", s.Lot.Len()))
	}
}

// add counts a refusal, and reports whether it is time to say how many there were.
func (rs *refusals) add(bound error, now time.Time) (count int, due bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	b := rs.bounds[bound]
	if b == nil {
		if rs.bounds == nil {
			rs.bounds = make(map[error]*refusal)
		}
		b = new(refusal)
		rs.bounds[bound] = b
	}
	b.count++
	count = b.count
	if due = b.at.IsZero() || now.Sub(b.at) >= refusedPause; due {
		b.at, b.count = now, 0
	}
	return count, due
}
