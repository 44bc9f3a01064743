package cluster

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// spread is a random part of d.
func spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

// hear is told what is said of the resource while its name is that. It does not block.
func (m *Member) hear(name string, message []byte) {
	r, err := m.set.parse(message, name)
	if err != nil {
		return
	}
	m.mu.Lock()
	if m.name != name || m.left || r.from == m.id || r.from == m.term {
		m.mu.Unlock()
		return
	}
	var call, need, wake bool
	switch {
	case r.kind.ofHolder():
		call = m.hearHolderLocked(r)
	case m.role == holds && (r.kind == note || r.kind == ask || r.kind == look):
		m.hearTicketLocked(r)
		need, wake = r.kind == ask, r.kind == look
		if m.ending != nil && (need || wake) {
			m.wanted = true
			m.ending.Reset(0) // it is for others to make
		}
	}
	m.mu.Unlock()
	switch {
	case call:
		m.poke()
	case need:
		m.resource.Need()
	case wake:
		m.resource.Wake()
	}
}

// poke has the poller look, whether it waits for an answer or for its turn.
func (m *Member) poke() {
	select {
	case m.arrived <- struct{}{}:
	default:
	}
	m.resource.Call()
}

// hearHolderLocked notes a report of who has the lease, if it is not one of before. It
// reports whether the poller has to look at it.
func (m *Member) hearHolderLocked(r *report) bool {
	switch {
	case r.token < m.token, r.token == m.token && (m.role == holds || m.holder != 0 && m.holder != r.from || r.seq <= m.seq):
		return false
	case m.role == holds:
		m.becomeLocked(follows) // it was replaced
		m.markAgainLocked()
	case m.holder != 0 && m.holder != r.from:
		m.markAgainLocked()
	}
	m.token, m.seq, m.holder, m.wakes, m.by = r.token, r.seq, r.from, r.wakes, r.by
	m.spoke, m.mute = time.Now(), false
	switch r.kind {
	case busy:
		m.busy = r
	case bye:
		m.free, m.due = true, time.Now().Add(r.next)
	default:
		if last := m.inbox; r.kind == beat && last != nil && last.kind == news && last.state == r.state {
			r.kind, r.blob = news, last.blob // which has not been looked at yet
		}
		m.inbox, m.busy = r, nil
	}
	return true
}

// hearTicketLocked notes of whom the check that begins next certainly begins later than
// what they say.
func (m *Member) hearTicketLocked(r *report) {
	now := time.Now()
	if _, known := m.heard[r.from]; !known {
		for member, h := range m.heard { // each report names all of them
			if now.Sub(h.at) > 10*m.set.CheckTimeout {
				delete(m.heard, member)
			}
		}
	}
	if last, known := m.heard[r.from]; known && last.ticket >= r.seq || !known && len(m.heard) >= maxHeard {
		return
	}
	m.heard[r.from] = heardOf{r.seq, now}
	if r.kind != note {
		m.ackSoonLocked()
	}
}

// ackSoonLocked has the others told that a check was asked for, unless it has ended by then.
func (m *Member) ackSoonLocked() {
	if !m.acking {
		m.acking = true
		time.AfterFunc(ackDelay, m.acknowledge)
	}
}

func (m *Member) tickets() []heard {
	list := make([]heard, 0, len(m.heard))
	for member, h := range m.heard {
		list = append(list, heard{member, h.ticket})
	}
	return list
}

// take publishes what has arrived. It reports whether that answers the mark, and else, in
// how long more is said, if it was said that the mark was heard.
func (m *Member) take(mark uint64) (answered bool, next time.Duration) {
	m.mu.Lock()
	r, b := m.inbox, m.busy
	m.inbox, m.busy = nil, nil
	m.mu.Unlock()
	if b != nil {
		if at := time.Now().Add(b.next + slackTime(m.pause)); at.After(m.resource.Due()) {
			m.resource.Postpone(at)
		}
		if i := slices.IndexFunc(b.heard, func(h heard) bool { return h.member == m.id }); i >= 0 && b.heard[i].ticket >= mark {
			next = b.next
		}
	}
	if r == nil {
		return false, next
	}
	if r.kind == alone {
		m.beAlone()
		return false, 0
	}
	h := m.hand(r, mark)
	return m.publish(r, h) && h.Ends, next
}

// publish publishes what a report says. It reports whether that could be done.
func (m *Member) publish(r *report, h Hand) bool {
	m.mu.Lock()
	same := r.state == m.state && m.state.known()
	m.mu.Unlock()
	if r.kind == beat {
		switch snapshot := m.resource.Snapshot(); {
		case !same:
			return m.fetch(r, h)
		case !h.Ends && h.Proof.Number <= m.proved && !snapshot.Failed():
			m.resource.Postpone(h.Due)
			return true
		}
		m.proved = h.Proof.Number
		return m.poller.Adopt(nil, h)
	}
	if len(r.blob) == 0 {
		return m.fetch(r, h)
	}
	return m.adopts(r, h)
}

// adopts is adopt; what can not be read here each Caddy reads for itself.
func (m *Member) adopts(r *report, h Hand) bool {
	if m.adopt(r, h) {
		return true
	}
	m.lose()
	return false
}

// fetch publishes what a report speaks of and does not bring along.
func (m *Member) fetch(of *report, h Hand) bool {
	m.resource.Postpone(h.Due)
	ctx, cancel := call()
	defer cancel()
	st, ft, err := m.set.board.Fetch(ctx, of.name)
	if err != nil {
		return false
	}
	if of.kind == fault {
		st = ft
	}
	r, err := m.set.parse(st, of.name)
	switch {
	case err == nil && r.kind == alone:
		return false // which is said, too
	case err != nil || (r.kind == fault) != (of.kind == fault):
		m.lose() // it is there no more
		return false
	}
	if r.state != of.state || r.kind == fault && r.seq != of.seq {
		h.Proof, h.Ends = lot.Proof{}, false // it is another one, which may be older
	}
	return m.adopts(r, h)
}

// adopt publishes the state or the fault that a report has.
func (m *Member) adopt(r *report, h Hand) bool {
	limit := 2*m.set.MaxBody + 4<<20
	b, err := unpack(r.blob, limit)
	if err != nil {
		return false
	}
	s, err := state.Read(b, m.set.MaxBody)
	if err != nil || s.Personal(m.isPersonal()) {
		return false
	}
	m.unsalt(s)
	if !m.poller.Adopt(s, h) {
		return false
	}
	m.proved = h.Proof.Number
	m.mu.Lock()
	defer m.mu.Unlock()
	switch r.kind {
	case news:
		m.state = r.state
		m.said.is(s)
	case fault:
		m.fault = stateID{r.token, r.seq}
	}
	return true
}

func (m *Member) isPersonal() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.personal
}

// hand is how what a report says is published.
func (m *Member) hand(r *report, mark uint64) Hand {
	h := Hand{Next: r.next, Pause: r.pause, Due: time.Now().Add(min(r.next, m.set.longest()) + slackTime(r.pause))}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pause = max(r.pause, time.Millisecond)
	i := slices.IndexFunc(r.heard, func(h heard) bool { return h.member == m.id })
	if i < 0 {
		return h
	}
	// The latest mark of which was heard: those before it say less.
	at := -1
	for n, mark := range m.marks {
		if mark.Number <= r.heard[i].ticket {
			at = n
		}
	}
	if at >= 0 {
		h.Proof = m.marks[at]
		m.marks = slices.Delete(m.marks, 0, at)
		m.covered = h.Proof.Number
		h.Ends = mark > 0 && h.Proof.Number >= mark
	}
	return h
}
