package lot

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"
)

// Snapshot is what is known of a resource between the end of one check and the
// end of the next. It is immutable.
type Snapshot[S any] struct {
	State S         // what the last good check read; the zero value before the first
	Began time.Time // when that check began; zero before the first
	Fault S         // what the last check failed with; the zero value if it was good

	good    uint64        // the number of the last good check
	last    uint64        // the number of the last check, good or not
	next    chan struct{} // closed when another check has ended
	changed chan struct{} // closed when a check has found something else, or by a drain; all snapshots until then share it
}

// Next is closed when another check has ended.
func (s *Snapshot[S]) Next() <-chan struct{} { return s.next }

// Changed is closed when a check has found something else, or, where somebody is
// parked, when the lot is drained.
func (s *Snapshot[S]) Changed() <-chan struct{} { return s.changed }

// Known reports whether a check was ever good.
func (s *Snapshot[S]) Known() bool { return s.good > 0 }

// Failed reports whether the last check failed.
func (s *Snapshot[S]) Failed() bool { return s.last > s.good }

// Resource is what several requests wait for together.
type Resource[S any] struct {
	Name Name

	lot      *Lot[S]
	snapshot atomic.Pointer[Snapshot[S]]
	begun    atomic.Uint64 // checks that have begun: a clock that is exact where time is not

	// protected by lot.mu
	key       Key
	listed    bool          // it can be found, by path at least
	members   int           // requests that have joined
	idle      *list.Element // in lot.idle, while there are no members
	linger    *time.Timer   // forgets it
	onForget  []func()      // each never blocks
	forgotten bool          // onForget was called

	mu       sync.Mutex  // protects what follows; lot.mu is never taken under it
	waiters  int         // members who wait for a check or a change
	polling  bool        // there is a poller, or somebody is about to make one
	check    func()      // the poller's; nil where there is none
	timer    *time.Timer // the poller's; stopped where there is none
	turning  bool        // check is being called
	checking bool        // a check is in flight
	wanted   bool        // a wake-up came: a check is to begin at once
	due      time.Time   // when the next check begins otherwise
	needBy   time.Time   // when those who wait need it at the latest; zero if they do not mind
	once     bool        // Once was called

	began time.Time // of the check in flight or the last; only the poller's
}

func newResource[S any](l *Lot[S], key Key, name Name) *Resource[S] {
	r := &Resource[S]{lot: l, key: key, Name: name}
	r.snapshot.Store(&Snapshot[S]{next: make(chan struct{}), changed: make(chan struct{})})
	return r
}

// Snapshot is what is known now.
func (r *Resource[S]) Snapshot() *Snapshot[S] { return r.snapshot.Load() }

// Wake marks the resource for a check: at once if somebody waits, after the one
// that is in flight if there is one, or else when somebody waits again. It never
// blocks.
func (r *Resource[S]) Wake() {
	r.mu.Lock()
	r.wanted = true
	r.mu.Unlock()
	r.poke()
}

// Once is true for the first caller only, of all the pollers of the resource.
func (r *Resource[S]) Once() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := !r.once
	r.once = true
	return first
}

// OnForget has f called when the resource is forgotten, or at once if it is. f
// never blocks.
func (r *Resource[S]) OnForget(f func()) {
	r.lot.mu.Lock()
	if r.forgotten {
		r.lot.mu.Unlock()
		f()
		return
	}
	r.onForget = append(r.onForget, f)
	r.lot.mu.Unlock()
}

// Waiters is how many wait for a check or a change.
func (r *Resource[S]) Waiters() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiters
}

// Due is when the next check begins, if nothing wakes it before and somebody
// waits.
func (r *Resource[S]) Due() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.due
}

// The poller's side: Poll, and then Begin, and Publish or Fail, again and again.

// Poll has check called whenever a check should begin: somebody waits, and it is due
// or wanted. check makes it, or finds that there is no need any more. It is called
// on a goroutine that is there for that long: during a pause a poller is a timer and
// nothing else. The poller ends when nobody waits any more or the lot is drained, and
// another one is made when needed. Between two pollers the due time stays.
func (r *Resource[S]) Poll(check func()) {
	r.mu.Lock()
	r.check = check
	r.mu.Unlock()
	r.poke()
}

// poke makes the poller look at what mu protects.
func (r *Resource[S]) poke() {
	if r.turns() {
		go r.turn()
	}
}

// turn calls check as often as one should begin at once.
func (r *Resource[S]) turn() {
	for again := true; again; again = r.turns() {
		r.check()
		r.mu.Lock()
		r.turning = false
		r.mu.Unlock()
	}
}

// turns reports whether a check should begin: the caller has it made by turn then.
// Else the timer is set to when it should, or the poller ended. In doubt, such as
// when the timer goes off in the instant in which it is set anew, it is asked once
// too often.
func (r *Resource[S]) turns() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.turning:
		return false
	case r.waiters == 0 || r.lot.IsDrained():
		r.polling, r.check = false, nil
		if r.timer != nil {
			r.timer.Stop()
		}
		return false
	case r.check == nil:
		return false
	}
	pause := time.Until(r.due)
	if !r.needBy.IsZero() {
		pause = min(pause, time.Until(r.needBy))
	}
	switch {
	case r.wanted || pause <= 0:
		r.turning = true
		return true
	case r.timer != nil:
		r.timer.Reset(pause)
	default:
		r.timer = time.AfterFunc(pause, func() {
			if r.turns() {
				r.turn()
			}
		})
	}
	return false
}

// Begin begins a check: a wake-up from here on causes one more. It returns false
// if there is no need for it any more.
func (r *Resource[S]) Begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiters == 0 || r.lot.IsDrained() {
		return false
	}
	r.wanted, r.checking, r.needBy = false, true, time.Time{}
	r.began = time.Now()
	r.begun.Add(1)
	return true
}

// Publish ends a check that was good. With changed, everybody who is parked is
// woken; otherwise only those are who wait for a check to end. The next check
// begins at due.
func (r *Resource[S]) Publish(state S, changed bool, due time.Time) {
	n := r.begun.Load()
	r.end(&Snapshot[S]{State: state, Began: r.began, good: n, last: n}, changed, due)
}

// Fail ends a check that was not good. The state stays what it was. With release,
// everybody who is parked is woken to look at the fault.
func (r *Resource[S]) Fail(fault S, release bool, due time.Time) {
	old := r.snapshot.Load()
	r.end(&Snapshot[S]{State: old.State, Began: old.Began, Fault: fault, good: old.good, last: r.begun.Load()}, release, due)
}

// end puts s in the place of the current snapshot. Only the poller calls it, and
// of pollers there is one.
func (r *Resource[S]) end(s *Snapshot[S], changed bool, due time.Time) {
	r.mu.Lock()
	r.checking = false
	r.due = due
	if r.lot.IsDrained() {
		r.mu.Unlock()
		return
	}
	old := r.snapshot.Load()
	s.next, s.changed = make(chan struct{}), old.changed
	if changed {
		s.changed = make(chan struct{})
	}
	// Stored before it is announced: who is woken finds it.
	r.snapshot.Store(s)
	r.mu.Unlock()
	close(old.next)
	if changed {
		close(old.changed)
	}
}

// drain wakes those who are parked, once the lot is drained: from then on end
// publishes nothing.
func (r *Resource[S]) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.snapshot.Load().changed)
}

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
	return start
}

// First reports whether nobody else waited when the request began to.
func (w *Waiter[S]) First() bool { return w.first }

// Want asks for a check that begins after s was superseded or now: where one is in
// flight its end is to be awaited first, for it may say enough. Either way
// s.Next() is closed by the end of a check. It reports whether that check is due to
// this call, and would not begin yet without it.
func (w *Waiter[S]) Want(s *Snapshot[S]) bool {
	r := w.Resource
	r.mu.Lock()
	if r.snapshot.Load() != s || r.checking {
		r.mu.Unlock()
		return false
	}
	now := time.Now()
	first := !r.wanted && r.due.After(now) && (r.needBy.IsZero() || r.needBy.After(now))
	r.needBy = now
	r.mu.Unlock()
	r.poke()
	return first
}

// NeedBy asks for a check that begins at t at the latest: one for all who say so,
// however many they are.
func (w *Waiter[S]) NeedBy(t time.Time) {
	r := w.Resource
	r.mu.Lock()
	sooner := r.needBy.IsZero() || t.Before(r.needBy)
	if sooner {
		r.needBy = t
	}
	r.mu.Unlock()
	if sooner {
		r.poke()
	}
}

// Park counts the request in for good, or says which bound forbids it. client is
// who is counted for the bound on one client.
func (w *Waiter[S]) Park(client string) error {
	if w.parked {
		return nil
	}
	if err := w.lot.park(w.Resource, client); err != nil {
		return err
	}
	w.parked, w.client = true, client
	return nil
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
