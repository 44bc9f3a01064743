package shadow

import (
	"sync"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// tally works out how many checks the resources would have had that the polls
// would have been parked on. It remembers those of max_resources at most, in two
// generations, so that it need not look for what to forget.
type tally struct {
	mu          sync.Mutex // protects what follows
	max         int
	young, aged map[lot.Key]watched
}

// watched is a resource that somebody would be parked on.
type watched struct {
	due   time.Time // when the next check would begin
	until time.Time // when the last of those parked would go
}

// checks is how many checks there would have been since the last poll for the same
// resource that would have been parked, and because of this one: the first look,
// one per interval while somebody was parked, and one at once if its pause was
// over when nobody was.
func (s *tally) checks(key lot.Key, now time.Time, limit, interval time.Duration) (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, known := s.young[key]
	if !known {
		w, known = s.aged[key]
	}
	end := now
	if w.until.Before(now) {
		end = w.until
	}
	if known && !w.due.After(end) {
		n = 1 + int64(end.Sub(w.due)/interval)
		w.due = w.due.Add(time.Duration(n) * interval)
	}
	if !w.due.After(now) {
		n++
		w.due = now.Add(interval)
	}
	if until := now.Add(limit); until.After(w.until) {
		w.until = until
	}
	if _, young := s.young[key]; s.young == nil || !young && len(s.young) >= max(s.max/2, 1) {
		s.aged, s.young = s.young, make(map[lot.Key]watched)
	}
	s.young[key] = w
	return n
}
