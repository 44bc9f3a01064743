package lot

import "time"

// Ally is whoever reads the state of a resource elsewhere, for this lot too, as long as
// there is a poller here. Its methods are called with a lock held: they must not block,
// and not call the resource.
type Ally interface {
	// Newcomer is called when somebody begins to wait, unless one has since the last
	// check or mark began.
	Newcomer()
	// Ended is called once, when the poller ends.
	Ended()
}

// Proof is what is certain of when a state was read that somebody else has read: no
// earlier than a mark was made here. The zero value proves nothing.
type Proof struct {
	Number uint64    // of the mark
	Made   time.Time // when it was made
}

// Befriend has the poller accompanied by a, until it ends, and called first of all.
func (r *Resource[S]) Befriend(a Ally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ally, r.called = a, true
	if r.unmarked {
		a.Newcomer()
	}
}

// Call has the poller called, whether a check is due or not.
func (r *Resource[S]) Call() {
	r.mu.Lock()
	r.called = true
	r.mu.Unlock()
	r.poke()
}

// Need has a check begin at once, as if somebody who waits needed it.
func (r *Resource[S]) Need() {
	r.mu.Lock()
	sooner := r.needLocked(time.Now())
	r.mu.Unlock()
	if sooner {
		r.poke()
	}
}

// neededLocked reports whether somebody who waits needs a check by needBy.
func (r *Resource[S]) neededLocked() bool {
	return !r.needBy.IsZero() && !r.snapshot.Load().Failed() // an outage is waited out
}

// Needs reports why the poller was called: a check is due, a wake-up came, or somebody
// who waits needs one now.
func (r *Resource[S]) Needs() (due, woken, needed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	return !r.due.After(now), r.wanted, r.neededLocked() && !r.needBy.After(now)
}

// Postpone has the next check begin at due, if nothing asks for it before. Only the
// poller calls it.
func (r *Resource[S]) Postpone(due time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due = due
}

// Unwake takes a wake-up back that somebody else has seen to. Only the poller calls it.
func (r *Resource[S]) Unwake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted = false
}

// Mark makes a mark, if somebody waits, and with again or where somebody has begun to since
// the last one or the last check began: what is read by a check that certainly began after
// it satisfies all who have come before.
func (r *Resource[S]) Mark(again bool) (p Proof, made bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.unmarked && !again || r.waiters == 0 {
		return p, false
	}
	r.unmarked = false
	return Proof{r.begun.Add(1), time.Now()}, true
}

// Begun is the mark that the check in flight is. Only the poller calls it.
func (r *Resource[S]) Begun() Proof { return Proof{r.current, r.began} }

// Offer publishes what somebody else has read: with changed everybody who is parked is
// woken, but only those are told who need nothing newer than p proves. A check that is in
// flight goes on. The next one begins at due. Only the poller calls it.
func (r *Resource[S]) Offer(state S, p Proof, changed bool, due time.Time) {
	r.mu.Lock()
	r.putLocked(&Snapshot[S]{State: state, Began: p.Made, good: p.Number, last: p.Number, known: true}, changed, due)
}

// OfferFault is Offer for a check that somebody else has made, and that was not good.
func (r *Resource[S]) OfferFault(fault S, p Proof, release bool, due time.Time) {
	r.mu.Lock()
	old := r.snapshot.Load()
	r.putLocked(&Snapshot[S]{State: old.State, Began: old.Began, Fault: fault, good: old.good, last: p.Number, known: old.known, failed: true}, release, due)
}
