package lot

import "time"

// Waiter is the membership of one request in one resource.
type Waiter[S any] struct {
	*Resource[S]
	joined   uint64 // checks that had begun by then
	watching bool
	first    bool // nobody else waited when it began to
	parked   bool
	client   string
}

// Asked reports whether the state of s was read by a check that began after the
// request had joined.
func (w *Waiter[S]) Asked(s *Snapshot[S]) bool { return s.good > w.joined }

// Told has the request be as one that has joined when the state of s had just been read: it
// was told that, and what was read before is not to be told it any more.
func (w *Waiter[S]) Told(s *Snapshot[S]) {
	w.joined = max(w.joined, s.read)
	r := w.Resource
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newcomerLocked()
}

// Tried reports whether the last check before s began after the request had
// joined.
func (w *Waiter[S]) Tried(s *Snapshot[S]) bool { return s.last > w.joined }

// Watch counts the request among those who wait, before it looks at the state:
// what happens from now on it will be told of. It returns true where the caller
// must make a poller.
func (w *Waiter[S]) Watch() (start bool) {
	if w.watching {
		return false
	}
	w.watching = true
	r := w.Resource
	r.mu.Lock()
	defer r.mu.Unlock()
	w.first = r.waiters == 0
	r.waiters++
	start = !r.polling
	r.polling = true
	r.newcomerLocked()
	return start
}

// newcomerLocked notes that somebody begins to wait.
func (r *Resource[S]) newcomerLocked() {
	if !r.unmarked {
		r.unmarked = true
		if r.ally != nil {
			r.ally.Newcomer()
		}
	}
}

// First reports whether nobody else waited when the request began to.
func (w *Waiter[S]) First() bool { return w.first }

// Want asks for a check that begins after s was superseded or now: where one is in
// flight its end is to be awaited first, for it may say enough, unless it was abandoned.
// Either way s.Next() is closed by the end of a check. It reports whether that check is due to
// this call, and would not begin yet without it.
func (w *Waiter[S]) Want(s *Snapshot[S]) (first bool) { return w.WantAt(s, time.Now()) }

// WantAt is Want for a check that begins no sooner than t because of it. It begins
// sooner if it is due or somebody else needs it, or by a wake-up, and is the same
// check for all who want it. It reports whether it would begin later without this
// call.
func (w *Waiter[S]) WantAt(s *Snapshot[S], t time.Time) (first bool) {
	r := w.Resource
	r.mu.Lock()
	if r.snapshot.Load() != s || r.checking && !r.deserted {
		r.mu.Unlock()
		return false
	}
	if now := time.Now(); t.Before(now) {
		t = now
	}
	// The due time of a check in flight has passed, and will be another.
	first = !r.wanted && (r.checking || r.due.After(t)) && r.needLocked(t)
	r.mu.Unlock()
	if first {
		r.poke()
	}
	return first
}

// NeedBy asks for a check that begins at t at the latest: one for all who say so,
// however many they are.
func (w *Waiter[S]) NeedBy(t time.Time) {
	r := w.Resource
	r.mu.Lock()
	sooner := r.needLocked(t)
	r.mu.Unlock()
	if sooner {
		r.poke()
	}
}

// needLocked has a check begin at t at the latest, and reports whether it was needed
// later or not at all.
func (r *Resource[S]) needLocked(t time.Time) (sooner bool) {
	sooner = r.needBy.IsZero() || t.Before(r.needBy)
	if sooner {
		r.needBy = t
	}
	return sooner
}

// Park counts the request in for good, or says which bound forbids it. client is
// who is counted for the bound on one client; reserved says that [Lot.Reserve] has kept
// a place, which is taken unless there is an error.
func (w *Waiter[S]) Park(client string, reserved bool) error {
	if w.parked {
		return nil
	}
	if err := w.lot.park(w.Resource, client, reserved); err != nil {
		return err
	}
	w.parked, w.client = true, client
	return nil
}

// Reserve has the place of a parked request kept for it until it parks elsewhere, as if by
// [Lot.Reserve]. It reports whether there was one.
func (w *Waiter[S]) Reserve() bool {
	if !w.parked {
		return false
	}
	w.parked = false
	w.lot.unparkReserved()
	return true
}

// Leave ends the membership. It is safe to call twice.
func (w *Waiter[S]) Leave() {
	r := w.Resource
	if r == nil {
		return
	}
	w.Resource = nil
	if w.parked {
		w.parked = false
		r.lot.unpark(w.client)
	}
	if w.watching {
		w.watching = false
		r.mu.Lock()
		r.waiters--
		last := r.waiters == 0
		if last {
			r.needBy = time.Time{} // nobody minds any more; a wake-up stays one
			r.desertLocked()
		}
		r.mu.Unlock()
		if last {
			r.poke() // the poller ends
		}
	}
	r.lot.leave(r)
}

// Parked reports whether the request is parked.
func (w *Waiter[S]) Parked() bool { return w.parked }
