package redis

import (
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"
)

// A watch is what wakes one resource.
type watch struct {
	wake  func()
	names []name
	soon  atomic.Bool // wake is going to be called
}

func (s *watch) heard(_, _ string) {
	s.wake()
}

func (s *watch) acknowledged(within time.Duration) {
	if within == 0 {
		s.wake()
		return
	}
	if s.soon.CompareAndSwap(false, true) { // else one check will do for several channels
		time.AfterFunc(rand.N(within), func() {
			s.soon.Store(false)
			s.wake()
		})
	}
}

// paths hears a pattern on behalf of one waker.
type paths struct {
	waker   *Waker
	pattern string
}

func (p paths) heard(channel, payload string) {
	if p.waker.onPath == nil {
		return
	}
	if strings.HasPrefix(payload, "/") {
		p.waker.onPath(payload)
		return
	}
	if path, ok := matched(p.pattern, channel); ok {
		p.waker.onPath("/" + strings.TrimPrefix(path, "/"))
	}
}

func (p paths) acknowledged(within time.Duration) {
	p.waker.mu.Lock()
	watches := make([]*watch, 0, len(p.waker.watches))
	for s := range p.waker.watches {
		watches = append(watches, s)
	}
	p.waker.mu.Unlock()

	for _, s := range watches {
		s.acknowledged(within)
	}
}

// matched returns what the `*` of a pattern stands for in a channel that Redis
// says it matches. Everything else in a pattern stands for exactly one byte, so
// that what is before the first and behind the last `*` has a known length.
func matched(pattern, channel string) (string, bool) {
	before, after, found := 0, 0, false
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '*':
			found, after = true, 0
			continue
		case '\\':
			i++
		case '[':
			for i++; i < len(pattern) && pattern[i] != ']'; i++ {
				if pattern[i] == '\\' {
					i++
				}
			}
		}
		if found {
			after++
		} else {
			before++
		}
	}
	if !found || before+after > len(channel) {
		return "", false
	}
	return channel[before : len(channel)-after], true
}
