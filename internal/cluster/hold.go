package cluster

import (
	"slices"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// keep has the lease renewed while a check is made, however long that takes, and those
// told who wait for it.
func (m *Member) keep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checking, m.delays, m.delayed = true, 0, true
	m.stopKeepingLocked()
	m.keeper = time.AfterFunc(m.pause*4/10, m.keepOn)
}

func (m *Member) stopKeepingLocked() {
	if m.keeper != nil {
		m.keeper.Stop()
		m.keeper = nil
	}
}

// keepOn is called again and again while a check takes its time.
func (m *Member) keepOn() {
	m.mu.Lock()
	if m.role != holds || !m.checking || m.keeper == nil {
		m.mu.Unlock()
		return
	}
	pause := m.pause
	again := pause * 8 / 10
	if m.delays++; m.delayed && m.delays > maxDelays {
		m.giveUpLocked()
		return
	}
	r := m.busyLocked(again)
	name, token := m.name, m.token
	renew := time.Until(m.until) < again+leaseTime(pause)/4
	m.keeper.Reset(again)
	m.mu.Unlock()
	ctx, cancel := call()
	defer cancel()
	if renew {
		ttl, began := leaseTime(pause), time.Now()
		mine, err := m.set.board.Renew(ctx, name, m.who(), token, ttl)
		m.mu.Lock()
		switch {
		case err == nil && mine:
			m.until = began.Add(ttl)
		case m.role == holds && m.token == token:
			m.becomeLocked(apart)
		}
		m.mu.Unlock()
		if err != nil || !mine {
			return
		}
	}
	_ = m.set.board.Tell(ctx, name, r.append(nil)) // who misses it asks for itself
}

// maxDelays is how often a check is said to take its time before it has begun: for two pauses,
// in which its Caddy had no place for one (max_checks). Another one may have.
const maxDelays = 2

// giveUpLocked gives the lease up to somebody who can check now, and unlocks mu. The check
// that waits here is made all the same, when there is a place, for who waits here.
func (m *Member) giveUpLocked() {
	name, token, gone := m.name, m.token, m.reportLocked(bye)
	m.becomeLocked(apart)
	m.mu.Unlock()
	ctx, cancel := call()
	defer cancel()
	_ = m.set.board.Yield(ctx, name, m.who(), token, gone.append(nil)) // else it runs out
}

// passOn gives the lease up to whoever else there is, for the check that is due next: it may be
// this Caddy that can not reach the backend, and not the backend that fails. Where there is
// nobody else, it is claimed again.
func (m *Member) passOn(next time.Duration) {
	m.mu.Lock()
	if m.role != holds {
		m.mu.Unlock()
		return
	}
	name, token, gone := m.name, m.token, m.reportLocked(bye)
	gone.next = next
	m.becomeLocked(apart)
	m.rejoin = true
	m.mu.Unlock()
	ctx, cancel := call()
	defer cancel()
	_ = m.set.board.Yield(ctx, name, m.who(), token, gone.append(nil)) // else it runs out
	time.AfterFunc(4*holdBack, m.poke)
}

// busyLocked is the report that a check takes its time.
func (m *Member) busyLocked(next time.Duration) *report {
	r := m.reportLocked(busy)
	r.next, r.pause, r.heard = next, m.pause, m.tickets()
	m.acking = false
	return r
}

// acknowledge tells those who have asked for a check that they were heard, if that check
// has not ended yet.
func (m *Member) acknowledge() {
	m.mu.Lock()
	if m.role != holds || !m.acking {
		m.acking = false
		m.mu.Unlock()
		return
	}
	r := m.busyLocked(m.pause * 8 / 10)
	m.mu.Unlock()
	ctx, cancel := call()
	defer cancel()
	_ = m.set.board.Tell(ctx, r.name, r.append(nil))
}

// Begins is called when a check is about to begin here: who was heard until now has what
// it reads.
func (m *Member) Begins() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begun, m.delayed = m.tickets(), false
}

// Drop is called where a check that was this member's is not made, or comes to nothing.
func (m *Member) Drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checking = false
	m.stopKeepingLocked()
}

// Read is called when a check has ended here, once r is published: with changed, or where
// it has failed, it says something else than the one before. It is handed on if that is
// for this member to do. next is how long it is to the next check.
func (m *Member) Read(r *state.Reading, changed bool, next time.Duration) {
	m.proved = m.resource.Begun().Number
	m.failing = r.Result == state.Failed
	tells := m.tells(r.State)
	m.mu.Lock()
	m.pause = max(r.Pause, time.Millisecond)
	m.checking = false
	m.stopKeepingLocked()
	if m.role != holds {
		if changed || !m.said.same(r.State) {
			m.state, m.said = stateID{}, said{} // what is known here is on no board
		}
		m.mu.Unlock()
		return
	}
	k := beat
	switch {
	case tells, r.State.Personal(m.personal):
		k = alone
	case r.Result == state.Failed:
		k = fault
	case changed || !m.state.known() || m.faulted || !m.said.same(r.State):
		k = news
	}
	m.faulted = k == fault
	m.acking = m.acking && slices.ContainsFunc(m.tickets(), func(h heard) bool { return !slices.Contains(m.begun, h) })
	report := m.reportLocked(k)
	switch k {
	case news:
		m.state = stateID{m.token, report.seq}
		report.state = m.state
		m.said.is(r.State)
	case fault:
		m.fault = stateID{m.token, report.seq}
	}
	report.next, report.pause, report.heard = next, r.Pause, m.begun
	short := time.Until(m.until) < next+m.pause*3/10
	keep := keepTime(m.pause)
	stale := time.Until(m.kept) < keep/2
	m.mu.Unlock()

	if k == beat {
		m.confirm(report, short, stale, next, keep)
		return
	}
	m.post(report, r.State, next, keep, short)
}

// confirm tells that a check has found nothing else, and has what is on the board last.
func (m *Member) confirm(r *report, short, stale bool, next, keep time.Duration) {
	ctx, cancel := call()
	defer cancel()
	board := m.set.board
	if err := board.Tell(ctx, r.name, r.append(nil)); err != nil {
		m.lose()
		return
	}
	if short && !m.extend(r, next) {
		return
	}
	if !stale {
		return
	}
	there, err := board.Keep(ctx, r.name, keep)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err != nil:
	case there:
		m.kept = time.Now().Add(keep)
	default:
		m.state = stateID{} // it is posted anew
	}
}

// extend has the lease last until the next check, where that takes longer to come than was
// known when this one began.
func (m *Member) extend(r *report, next time.Duration) bool {
	ctx, cancel := call()
	defer cancel()
	ttl, began := max(next+leaseTime(m.pause)*4/10, minLease), time.Now()
	mine, err := m.set.board.Renew(ctx, r.name, m.who(), r.token, ttl)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil || !mine {
		m.becomeLocked(apart)
		return false
	}
	m.until = began.Add(ttl)
	return true
}

// inline is up to which size a state comes along with its message: beyond it, those who
// have it already need not get it again.
const inline = 16 << 10

// post puts what was read on the board, and tells all.
func (m *Member) post(r *report, s *state.State, next, keep time.Duration, short bool) {
	if r.kind != alone {
		r.blob = pack(m.salted(s).Append(nil))
	} else {
		keep = aloneTime
	}
	kept := r.append(nil)
	message := kept
	if len(kept) > inline {
		bare := *r
		bare.blob = nil
		message = bare.append(nil)
	}
	var st, ft []byte
	if r.kind == fault {
		ft = kept
	} else {
		st = kept
	}
	ctx, cancel := call()
	defer cancel()
	mine, err := m.set.board.Post(ctx, r.name, m.who(), r.token, st, ft, keep, message)
	if err != nil {
		m.lose()
		return
	}
	m.mu.Lock()
	if !mine {
		m.becomeLocked(apart) // it was replaced; the next turn finds out by whom
		m.state = stateID{}
		m.mu.Unlock()
		m.resource.Call()
		return
	}
	m.kept = time.Now().Add(keep)
	m.mu.Unlock()
	switch {
	case r.kind == alone:
		m.beAlone()
		m.yield(r.name, r.token)
	case r.kind == fault:
		m.passOn(next)
	case short:
		m.extend(r, next)
	}
}
