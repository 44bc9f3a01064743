package cluster

import (
	"slices"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// ask asks who has the lease for a check that begins from now on, and waits for what it
// says. Where nothing is said in time, the check is made here.
func (m *Member) ask(k kind) Whose {
	if !m.resource.Begin() {
		return Elsewhere
	}
	mark := m.resource.Begun()
	m.mu.Lock()
	m.markLocked(mark)
	m.mu.Unlock()
	if !m.say(k, mark) {
		m.lose()
		return Begun
	}
	abandoned := m.resource.Abandoned()
	patience := time.NewTimer(askPatience)
	defer patience.Stop()
	end := time.NewTimer(2*m.set.CheckTimeout + askPatience)
	defer end.Stop()
	for {
		select {
		case <-m.arrived:
			answered, next := m.take(mark.Number)
			m.mu.Lock()
			free, r := m.free, m.role
			if !answered {
				m.free = false // else the next turn sees to that
			}
			m.mu.Unlock()
			switch {
			case answered:
				return Elsewhere
			case r != follows:
				return Begun
			case free:
				if !m.claim() || m.begunAsHolder() || !m.say(k, mark) {
					return Begun
				}
			case next > 0:
				patience.Reset(next + askPatience)
			}
		case <-abandoned:
			m.resource.Abandon(m.resource.Due())
			return Elsewhere
		case <-patience.C:
			if m.claim() {
				m.begunAsHolder()
			}
			return Begun
		case <-end.C:
			return Begun
		}
	}
}

// begunAsHolder reports whether the lease has become this member's.
func (m *Member) begunAsHolder() bool {
	if m.roleNow() != holds {
		return false
	}
	m.keep()
	return true
}

// maxMarks bounds the marks that are kept: of those before, nothing can be proven any more.
const maxMarks = 64

func (m *Member) markLocked(mark lot.Proof) {
	if len(m.marks) >= maxMarks {
		m.marks = slices.Delete(m.marks, 0, 1)
	}
	m.marks = append(m.marks, mark)
	m.noted = mark.Made
}

// say tells who has the lease of a mark.
func (m *Member) say(k kind, mark lot.Proof) bool {
	m.mu.Lock()
	r := m.reportLocked(k)
	m.mu.Unlock()
	r.seq = mark.Number
	ctx, cancel := call()
	defer cancel()
	return m.set.board.Tell(ctx, r.name, r.append(nil)) == nil
}

// note tells who has the lease that somebody waits since now: what it reads from then on
// is certainly new enough for them. One for all who come together, and the longer it takes
// until it is known that the last one was heard, the fewer follow it.
func (m *Member) note() {
	m.mu.Lock()
	m.noting = false
	if m.role != follows {
		m.mu.Unlock()
		return
	}
	waits := len(m.marks) > 0 && m.marks[len(m.marks)-1].Number > m.covered
	if wait := m.gap - time.Since(m.noted); waits && wait > 0 {
		m.noting = true
		m.mu.Unlock()
		time.AfterFunc(wait, m.note)
		return
	}
	again := m.remark
	m.remark = false
	m.mu.Unlock()
	mark, made := m.resource.Mark(again)
	if !made {
		return
	}
	m.mu.Lock()
	m.markLocked(mark)
	if waits {
		m.gap = min(2*m.gap, maxGap)
	} else {
		m.gap = noteGap
	}
	m.mu.Unlock()
	m.say(note, mark)
}

// Newcomer is called when somebody begins to wait.
func (m *Member) Newcomer() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteSoonLocked()
}

// markAgainLocked has whoever has the lease now told that somebody waits: it may not know, or
// a change that it finds would have all of them ask once more.
func (m *Member) markAgainLocked() {
	m.remark = true
	m.noteSoonLocked()
}

func (m *Member) noteSoonLocked() {
	if !m.noting {
		m.noting = true
		time.AfterFunc(noteDelay, m.note)
	}
}
