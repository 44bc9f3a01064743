package tap

import "sync/atomic"

// Slots bounds how many answers are kept in memory at once, while they come.
type Slots chan struct{}

// Acquire waits for a slot; it returns nil if done is closed before.
func (s Slots) Acquire(done <-chan struct{}) *Slot {
	select {
	case s <- struct{}{}:
		return &Slot{of: s}
	case <-done:
		return nil
	}
}

// Try takes a slot if there is one; else it returns nil.
func (s Slots) Try() *Slot {
	select {
	case s <- struct{}{}:
		return &Slot{of: s}
	default:
		return nil
	}
}

// Slot is one of them, taken. It is given back by whoever holds it last; twice is
// once, and none needs not be given back.
type Slot struct {
	of       Slots
	released atomic.Bool
}

// Release gives the slot back.
func (s *Slot) Release() {
	if s != nil && !s.released.Swap(true) {
		<-s.of
	}
}
