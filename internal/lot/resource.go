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

	good    uint64        // the number of the check that read State; 0 if it began who knows when
	last    uint64        // the number of the last check, good or not; 0 if it began who knows when
	read    uint64        // the last number when it was put here: State was read before any later one
	known   bool          // a check was ever good
	failed  bool          // the last check was not
	next    atomic.Value  // see Next; nil where nobody has asked for it
	changed chan struct{} // closed when a check has found something else, or by a drain; all snapshots until then share it
}

// Next is closed when another check has ended.
func (s *Snapshot[S]) Next() <-chan struct{} {
	next := s.next.Load()
	if next == nil {
		// Those who are parked until something changes have no need of it.
		if next = any(make(chan struct{})); !s.next.CompareAndSwap(nil, next) {
			next = s.next.Load()
		}
	}
	return next.(chan struct{})
}

// supersede closes Next.
func (s *Snapshot[S]) supersede() {
	if next := s.next.Swap(past); next != nil {
		close(next.(chan struct{}))
	}
}

// past is closed.
var past = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Changed is closed when a check has found something else, or, where somebody is
// parked, when the lot is drained.
func (s *Snapshot[S]) Changed() <-chan struct{} { return s.changed }

// Known reports whether a check was ever good.
func (s *Snapshot[S]) Known() bool { return s.known }

// Failed reports whether the last check failed.
func (s *Snapshot[S]) Failed() bool { return s.failed }

// Resource is what several requests wait for together.
type Resource[S any] struct {
	Name Name

	lot      *Lot[S]
	number   uint64 // see Number
	snapshot atomic.Pointer[Snapshot[S]]
	begun    atomic.Uint64 // checks that have begun: a clock that is exact where time is not

	// protected by lot.mu
	key       Key
	members   int           // requests that have joined
	idle      *list.Element // in lot.idle, while there are no members
	linger    *time.Timer   // forgets it
	onForget  []func()
	weight    int64 // in bytes; 0 from when it is forgotten
	forgotten bool  // onForget was called
	listed    bool  // it can be found, by path at least

	mu       sync.Mutex  // protects what follows
	waiters  int         // members who wait for a check or a change
	polling  bool        // there is a poller, or somebody is about to make one
	check    func()      // the poller's; nil where there is none
	timer    *time.Timer // the poller's; stopped where there is none
	turning  bool        // check is being called
	checking bool        // a check is in flight
	wanted   bool        // a wake-up came: a check is to begin at once
	due      time.Time   // when the next check begins otherwise
	needBy   time.Time   // when those who wait need it at the latest; zero if they do not mind
	called   bool        // the poller is to be called, whether a check is due or not
	ally     Ally        // nil where there is none
	unmarked bool        // somebody has begun to wait since the last check or mark began
	once     bool        // Once was called
	owed     bool        // the check in flight, or the last one, began by a wake-up
	deserted bool        // the last waiter has left since the turn or its check began, or the lot is drained

	// abandoned is closed once deserted is true. It is there for as long as the turn
	// in which somebody has asked for it.
	abandoned chan struct{}

	// only the poller's
	current uint64    // of the check in flight or the last
	began   time.Time // when it began
	hurried bool      // it began before it was due, since somebody needed it
}

func newResource[S any](l *Lot[S], key Key, name Name) *Resource[S] {
	r := &Resource[S]{lot: l, key: key, Name: name}
	r.snapshot.Store(&Snapshot[S]{changed: make(chan struct{})})
	return r
}

// Number is in what order the resources of a lot have come: the first has 1.
func (r *Resource[S]) Number() uint64 { return r.number }

// Snapshot is what is known now.
func (r *Resource[S]) Snapshot() *Snapshot[S] { return r.snapshot.Load() }

// Wake marks the resource for a check: at once if somebody waits, after the one
// that is in flight if there is one, or else when somebody waits again.
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

// OnForget has f called when the resource is forgotten, or at once if it is.
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

// Pause is what is left until the next check is due: 0 if it is, if it is in flight, or
// if a wake-up has ended the pause. Who needs a check sooner does not end the pause of
// the others.
func (r *Resource[S]) Pause() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wanted || r.checking {
		return 0
	}
	return max(time.Until(r.due), 0)
}

// The poller's side: Schedule, and then Begin, and Publish, Fail or Abandon, again and
// again.

// Schedule has check called whenever a check should begin: somebody waits, and it is due
// or wanted. check makes it, or finds that there is no need any more. It is called
// on a goroutine that is there for that long: during a pause a poller is a timer and
// nothing else. The poller ends when nobody waits any more or the lot is drained, and
// another one is made when needed. Between two pollers the due time stays.
func (r *Resource[S]) Schedule(check func()) {
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
		r.turning, r.abandoned = false, nil
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
		r.polling, r.check, r.called = false, nil, false
		if r.timer != nil {
			r.timer.Stop()
		}
		if r.ally != nil {
			r.ally.Ended()
			r.ally = nil
		}
		return false
	case r.check == nil:
		return false
	}
	pause := time.Until(r.due)
	if r.neededLocked() {
		pause = min(pause, time.Until(r.needBy))
	}
	switch {
	case r.wanted || r.called || pause <= 0:
		r.turning, r.deserted, r.called = true, false, false
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
	if r.deserted {
		// Somebody else has come before the poller saw it: this check is theirs.
		r.deserted, r.abandoned = false, nil
	}
	r.hurried = !r.wanted && r.due.After(time.Now())
	r.owed, r.wanted = r.wanted, false
	r.checking, r.needBy, r.unmarked = true, time.Time{}, false
	r.began = time.Now()
	r.current = r.begun.Add(1)
	return true
}

// Hurried reports whether the check in flight began before it was due because somebody
// who waits needed it, and not because of a wake-up. Only the poller calls it.
func (r *Resource[S]) Hurried() bool { return r.hurried }

// Publish ends a check that was good. With changed, everybody who is parked is
// woken; otherwise only those are who wait for a check to end. The next check
// begins at due.
func (r *Resource[S]) Publish(state S, changed bool, due time.Time) {
	r.end(&Snapshot[S]{State: state, Began: r.began, good: r.current, last: r.current, known: true}, changed, due)
}

// Fail ends a check that was not good. The state stays what it was. With release,
// everybody who is parked is woken to look at the fault.
func (r *Resource[S]) Fail(fault S, release bool, due time.Time) {
	old := r.snapshot.Load()
	r.end(&Snapshot[S]{State: old.State, Began: old.Began, Fault: fault, good: old.good, last: r.current, known: old.known, failed: true}, release, due)
}

// Abandoned is closed when nobody waits any more for the check that is to begin or is
// in flight, or when the lot is drained. Who comes after that is no reason to go on: the
// poller gives the check up, and makes another one for them. It is to be asked for again
// after Begin, for what was closed before that has no meaning any more.
func (r *Resource[S]) Abandoned() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.abandoned == nil {
		r.abandoned = make(chan struct{})
		if r.deserted {
			close(r.abandoned)
		}
	}
	return r.abandoned
}

// Abandon ends a check that was given up: it says nothing. The snapshot stays, and so do
// the wake-up by which the check began and what those need who have come meanwhile. The
// next check begins at due, or at once because of these. Where a check has an answer in
// the instant in which nobody waits any more, it may be published as well.
func (r *Resource[S]) Abandon(due time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checking, r.due = false, due
	r.wanted = r.wanted || r.owed
}

// desertLocked has the poller give up what nobody waits for.
func (r *Resource[S]) desertLocked() {
	if r.deserted {
		return
	}
	r.deserted = true
	if r.abandoned != nil {
		close(r.abandoned)
	}
}

// end puts s in the place of the current snapshot, at the end of a check.
func (r *Resource[S]) end(s *Snapshot[S], changed bool, due time.Time) {
	r.mu.Lock()
	r.checking = false
	r.putLocked(s, changed, due)
}

// putLocked puts s in the place of the current snapshot, and unlocks mu.
func (r *Resource[S]) putLocked(s *Snapshot[S], changed bool, due time.Time) {
	r.due = due
	if r.lot.IsDrained() {
		r.mu.Unlock()
		return
	}
	old := r.snapshot.Load()
	s.changed, s.read = old.changed, r.begun.Load()
	if changed {
		s.changed = make(chan struct{})
	}
	// Stored before it is announced: who is woken finds it.
	r.snapshot.Store(s)
	r.mu.Unlock()
	old.supersede()
	if changed {
		close(old.changed)
	}
}

// drain wakes those who are parked, once the lot is drained, and has the check in
// flight given up: from then on end publishes nothing.
func (r *Resource[S]) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.snapshot.Load().changed)
	r.desertLocked()
}
