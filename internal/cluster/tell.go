package cluster

import "sync"

// write is what all other Caddys are to be woken for: see Config.Wake.
type write struct {
	host, path string
	deep       bool
}

// writes are those of which the others are still to be told. They can come faster than the
// board takes them: of two that say the same one is told.
type writes struct {
	mu      sync.Mutex // protects what follows
	waiting []write
	known   map[write]struct{} // the same
	tellers int
}

const (
	maxPath    = 8 << 10 // bytes of a path or a host that is told of
	maxWaiting = 4096    // writes; beyond it the board is as good as away, and the interval finds what is lost
	maxTellers = 8       // calls of the board at once: those that keep leases need some too
)

// Tell has the resources of a path be woken at all other Caddys: see Config.Wake.
func (s *Set) Tell(host, path string, deep bool) {
	if len(path) > maxPath || len(host) > maxPath || !s.board.Up() {
		return
	}
	if s.writes.add(write{host, path, deep}) {
		go s.tell()
	}
}

// add has a write be told of. It reports whether that takes one more teller.
func (ws *writes) add(w write) (teller bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if _, known := ws.known[w]; known || len(ws.waiting) >= maxWaiting {
		return false
	}
	if ws.known == nil {
		ws.known = make(map[write]struct{})
	}
	ws.known[w] = struct{}{}
	ws.waiting = append(ws.waiting, w)
	if ws.tellers >= maxTellers {
		return false
	}
	ws.tellers++
	return true
}

// next is the next one to tell of. From then on the same, written once more, is another
// one. Where there is none the teller ends.
func (ws *writes) next() (w write, more bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if len(ws.waiting) == 0 {
		ws.tellers--
		ws.waiting, ws.known = nil, nil // as large as the last burst was
		return w, false
	}
	w = ws.waiting[0]
	ws.waiting = ws.waiting[1:]
	delete(ws.known, w)
	return w, true
}

// tell tells of one write after the other.
func (s *Set) tell() {
	for {
		w, more := s.writes.next()
		if !more {
			return
		}
		if !s.board.Up() {
			continue // it is lost, and each checks for itself
		}
		m := report{kind: written, from: s.id, host: w.host, path: w.path, deep: w.deep}
		ctx, cancel := call()
		_ = s.board.Tell(ctx, "", m.append(nil)) // a wake-up may be lost
		cancel()
	}
}
