package cluster

import (
	"math/rand/v2"
	"time"
)

// Whose is who makes the check that a poller was called for.
type Whose int

const (
	Elsewhere Whose = iota // somebody else, or there is none to be made: all has been seen to
	Here                   // the poller
	Begun                  // the poller, and the check has begun already
)

// Turn is called by the poller whenever it is called: what was handed on is published, and
// then it is said whose the check is that is due or wanted, if there is one. It may wait
// for somebody else's check, as for one's own.
func (m *Member) Turn() Whose {
	shared := m.find()
	if shared {
		m.take(0)
	}
	due, woken, needed := m.resource.Needs()
	m.mu.Lock()
	r, free, rejoin, left := m.role, m.free, m.rejoin, m.left
	m.free, m.rejoin = false, false
	m.mu.Unlock()
	if left {
		r, shared = apart, false
	}
	wanted := due || woken || needed
	if free && m.failing {
		time.Sleep(holdBack) // somebody else may be able to reach the backend
	}
	switch {
	case !shared, r == apart && !rejoin && time.Now().Before(m.retry):
		return here(wanted)
	case r == apart && (wanted || rejoin || free):
		if !m.join() {
			return here(wanted)
		}
		if free || !wanted {
			m.succeed(free)
		}
	case r == follows && (due || free || rejoin):
		if !m.claim() {
			return here(wanted)
		}
		if free {
			m.succeed(true)
		}
	case r == holds && wanted:
		if mine, reached := m.renew(); !reached || !mine && !m.claim() {
			return here(wanted)
		}
	}
	if !wanted {
		return Elsewhere
	}
	if m.roleNow() == holds {
		m.keep()
		if woken {
			m.mu.Lock()
			m.ackSoonLocked() // who was woken too waits for a sign
			m.mu.Unlock()
		}
		return Here
	}
	if m.deaf() {
		m.resource.Unwake()
	}
	if _, woken, needed = m.resource.Needs(); !woken && !needed {
		return Elsewhere
	}
	if woken {
		return m.ask(look)
	}
	return m.ask(ask)
}

func here(wanted bool) Whose {
	if wanted {
		return Here
	}
	return Elsewhere
}

// common is the name by which all Caddys know the resource, and with it the salt.
func (m *Member) common() (name string, personal, shared bool) {
	key, personal, told, shared := m.poller.CommonKey()
	if shared {
		m.salt = m.set.key(key)
		name, shared = m.set.board.Name(m.salt, told)
	}
	return name, personal, shared
}

// find finds out the name of the resource, which may have become another one. It reports
// whether it has any.
func (m *Member) find() bool {
	name, personal, shared := m.common()
	m.mu.Lock()
	same := m.name == name
	m.mu.Unlock()
	if !same {
		m.forsake()
		m.retry, m.proved = time.Time{}, 0
		m.mu.Lock()
		m.name, m.personal, m.rejoin = name, personal, true
		m.mu.Unlock()
	}
	return shared
}

// succeed has the lease last until the next check, if it is this member's now. With free that
// check is taken over from who has given the lease up, who has said when it is.
func (m *Member) succeed(free bool) {
	m.mu.Lock()
	due, mine, until := m.due, m.role == holds, m.until
	lease := report{name: m.name, token: m.token}
	m.mu.Unlock()
	if !mine {
		return
	}
	// The backend may have asked for longer than it is until the board is looked at.
	latest := m.resource.Due()
	switch s := m.resource.Snapshot(); {
	case s.Failed():
		latest = s.Fault.Due
	case s.Known():
		if until := s.State.Spared(); until.After(latest) {
			latest = until
		}
	}
	if !free || due.After(latest) {
		due = latest
	}
	m.resource.Postpone(due)
	if next := time.Until(due); time.Until(until) < next+m.pause*3/10 {
		m.extend(&lease, next)
	}
}

// join begins to listen, and claims the lease. It reports whether the board could be
// reached.
func (m *Member) join() bool {
	if !m.set.board.Up() {
		m.lose()
		return false
	}
	m.mu.Lock()
	name, listening := m.name, m.stop != nil
	m.awaiting = true
	m.mu.Unlock()
	defer m.await()
	if !listening {
		stop := m.set.board.Follow(name, func(message []byte) { m.hear(name, message) }, m.listened)
		m.mu.Lock()
		if m.left || m.name != name {
			m.mu.Unlock()
			stop()
			return false
		}
		m.stop = stop
		m.mu.Unlock()
	}
	if !m.awaitReady() {
		m.lose()
		return false
	}
	return m.claim()
}

// awaitReady waits until messages are heard.
func (m *Member) awaitReady() bool {
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for began := time.Now(); ; <-look.C {
		m.mu.Lock()
		ready, left := m.ready, m.left
		m.mu.Unlock()
		switch {
		case ready:
			return true
		case left, !m.set.board.Up(), time.Since(began) > readyTime:
			return false
		}
	}
}

func (m *Member) await() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.awaiting = false
}

// listened is called whenever no message is missed from now on.
func (m *Member) listened(within time.Duration) {
	m.mu.Lock()
	again := !m.awaiting && (m.ready || m.stop != nil)
	m.ready = true
	m.mu.Unlock()
	if again {
		time.AfterFunc(spread(within), func() {
			m.mu.Lock()
			m.rejoin = true
			m.mu.Unlock()
			m.poke()
		})
	}
}

// claim takes the lease, or follows who has it: what that has read last is published. It
// reports whether the board could be reached.
func (m *Member) claim() bool {
	m.mu.Lock()
	name, known := m.name, m.token
	m.mu.Unlock()
	ctx, cancel := call()
	defer cancel()
	ttl := leaseTime(m.pause)
	began := time.Now()
	mine, token, left, st, ft, err := m.set.board.Claim(ctx, name, m.who(), known, ttl)
	if err != nil || token > maxToken {
		m.lose()
		return false
	}
	m.pauses = 0
	kept, _ := m.set.parse(st, name)
	failed, _ := m.set.parse(ft, name)
	if kept != nil && kept.kind == alone {
		m.beAlone()
		if mine {
			m.yield(name, token)
		}
		return false
	}
	m.mu.Lock()
	if m.left {
		m.mu.Unlock()
		if mine {
			m.yield(name, token)
		}
		return false
	}
	other := m.token != token
	another := other || m.holder != 0
	if other {
		// Whatever was heard before: the board says whose it is.
		m.token, m.seq, m.holder, m.by = token, 0, 0, ""
		m.inbox, m.busy, m.mute = nil, nil, false
	}
	if mine {
		if another {
			m.term, m.seq = newTerm()
			m.holder = 0
		}
		m.becomeLocked(holds)
		m.faulted = failed != nil
		m.until, m.kept, m.heard = began.Add(ttl), time.Time{}, make(map[uint64]heardOf)
		if kept == nil || kept.state != m.state {
			m.state = stateID{} // it is posted anew
		}
		m.mu.Unlock()
		return true
	}
	if other || m.role != follows {
		m.markAgainLocked()
	}
	m.becomeLocked(follows)
	for _, r := range []*report{kept, failed} {
		if r != nil && r.token == token && (r.from != m.holder || r.seq > m.seq) { // it is from who has the lease now
			m.seq, m.holder, m.wakes, m.by = r.seq, r.from, r.wakes, r.by
		}
	}
	m.mu.Unlock()
	m.resource.Postpone(time.Now().Add(max(left, 0) + spread(m.pause/20) + 5*time.Millisecond))
	if !m.adoptKept(kept, failed) {
		m.lose()
		return false
	}
	m.Newcomer()
	return true
}

// newTerm is what a lease is known by beside its token, and the number that its reports are
// counted from: a board that has forgotten everything gives out the same token once more,
// and then neither a holder nor a state is to be taken for one of before.
func newTerm() (term, seq uint64) { return rand.Uint64() | 1, rand.Uint64N(1<<40) + 1 }

// adoptKept publishes what is on the board. How long ago that was read nobody knows. It
// reports whether that could be done.
func (m *Member) adoptKept(kept, failed *report) bool {
	for _, r := range []*report{kept, failed} {
		if r == nil {
			continue
		}
		m.mu.Lock()
		older := !r.state.after(m.state) || !m.state.known() && m.resource.Snapshot().Known()
		m.mu.Unlock()
		if older && r.kind == news {
			continue // what was read here is left to the next report
		}
		if r.kind == fault && m.isFault(r) {
			continue // it is known for how long
		}
		h := m.hand(r, 0)
		h.Due = m.resource.Due()
		h.Next = max(time.Until(h.Due), 0) // that much is left of the lease
		if !m.adopt(r, h) {
			return false
		}
	}
	return true
}

// isFault reports whether r is the fault that is known here.
func (m *Member) isFault(r *report) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fault == stateID{r.token, r.seq} && m.resource.Snapshot().Failed()
}

// yield gives up a lease that was claimed in vain.
func (m *Member) yield(name string, token uint64) {
	m.mu.Lock()
	gone := report{kind: alone, name: name, from: m.id, token: token, seq: m.seq + 1}
	m.mu.Unlock()
	ctx, cancel := call()
	defer cancel()
	_ = m.set.board.Yield(ctx, name, m.who(), token, gone.append(nil))
}

// beAlone has this Caddy check for itself for a while, since what is read is for one.
func (m *Member) beAlone() {
	m.mu.Lock()
	m.becomeLocked(apart)
	m.mu.Unlock()
	m.retry = time.Now().Add(aloneTime)
}

// renew has the lease last until after the check that is to begin. It reports whether it
// is still this member's, and whether the board could be reached.
func (m *Member) renew() (mine, reached bool) {
	m.mu.Lock()
	name, token := m.name, m.token
	m.mu.Unlock()
	ctx, cancel := call()
	defer cancel()
	ttl, began := leaseTime(m.pause), time.Now()
	mine, err := m.set.board.Renew(ctx, name, m.who(), token, ttl)
	if err != nil {
		m.lose()
		return false, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if mine {
		m.until = began.Add(ttl)
	} else if m.role == holds && m.token == token {
		m.becomeLocked(apart)
	}
	return mine && m.role == holds, true
}
