package delta

import (
	"bytes"
	"sync"
	"sync/atomic"
)

// State is what a resource was, as clients were told it: a success, since they are told no
// body of anything else.
type State struct {
	Version string
	Tag     string // the entity tag that clients know it by; empty if by none
	Body    []byte // never changed

	// Named is whether the version names this very body: it is a hash over all of it, or
	// a strong entity tag. Of any other version (a weak tag, one that is read from a
	// member, a hash that leaves out members) there can be several bodies, so that a
	// client that names it may have one that was never seen here, and a patch of another
	// would give it a value that the backend never had.
	Named bool
}

// remembered is how many states a History has: the present one and those that it makes
// patches of.
const remembered = 4

// History is a state and up to three others that came before it. It is never changed:
// each state has its own, so that a patch leads to the state of which it was asked,
// whatever has come since. All methods can be called at once.
type History struct {
	kind   Kind
	states []version // the present one is the last
	deltas [remembered - 1]Delta
}

// version is a state in a history.
type version struct {
	*State
	named bool // clients that name it have this body, as far as is known
}

// Delta is the patch from one state to another. It is made when it is first asked for,
// while others who ask for it wait.
type Delta struct {
	Patch []byte

	ok      bool
	size    atomic.Int64 // of the patch and what was encoded of it
	once    sync.Once
	encoded [2]struct {
		once sync.Once
		text []byte
	}
}

// NewHistory begins with a state.
func NewHistory(kind Kind, s State) *History {
	return &History{kind: kind, states: []version{of(s)}}
}

// of is a state as it is kept: without a body that no patch can be made of.
func of(s State) version {
	if len(s.Body) > maxSize {
		s.Body, s.Named = nil, false
	}
	return version{State: &s, named: s.Named}
}

// Next is the history when s has come. A state that comes back (the same version, the
// same body) is forgotten where it was. A version that comes back with another body
// names none of both from then on.
func (h *History) Next(s State) *History {
	next := &History{kind: h.kind, states: make([]version, 0, remembered)}
	latest := of(s)
	for _, v := range h.states {
		if v.Version == s.Version {
			if bytes.Equal(v.Body, latest.Body) {
				latest = version{State: v.State, named: v.named && latest.named}
				continue
			}
			v.named, latest.named = false, false
		}
		next.states = append(next.states, v)
	}
	if surplus := len(next.states) - (remembered - 1); surplus > 0 {
		next.states = append(next.states[:0], next.states[surplus:]...)
	}
	next.states = append(next.states, latest)
	return next
}

// Patch is what leads to the present state from base, an earlier one that has names, as
// a client has named it: the latest of several. It is nil where there is none: the present
// state is named, or none of the last four; or the name may be that of another body; or
// [Make] made none.
func (h *History) Patch(has func(*State) bool) (d *Delta, base *State) {
	before := len(h.states) - 1
	if has(h.states[before].State) {
		return nil, nil
	}
	for i := before - 1; i >= 0; i-- {
		if v := h.states[i]; has(v.State) {
			if !v.named {
				return nil, nil
			}
			return h.delta(i), v.State
		}
	}
	return nil, nil
}

// Present is the present state.
func (h *History) Present() *State { return h.states[len(h.states)-1].State }

// PatchFrom is what leads from told, which was the present state of an earlier history and
// which a client was told, to the present one of h. It is nil where there is none.
func (h *History) PatchFrom(told *State) *Delta {
	for i := range len(h.states) - 1 {
		if h.states[i].State == told {
			return h.delta(i)
		}
	}
	return nil
}

func (h *History) delta(i int) *Delta {
	d := &h.deltas[i]
	d.once.Do(func() {
		d.Patch, d.ok = Make(h.kind, h.states[i].Body, h.states[len(h.states)-1].Body)
		d.size.Add(int64(len(d.Patch)))
	})
	if !d.ok {
		return nil
	}
	return d
}

// Encoded is what encode makes of the patch, made once for each of the formats 0 and 1,
// and shared by all who ask.
func (d *Delta) Encoded(format int, encode func(patch []byte) []byte) []byte {
	e := &d.encoded[format]
	e.once.Do(func() {
		e.text = encode(d.Patch)
		d.size.Add(int64(len(e.text)))
	})
	return e.text
}

// Kept is how many bytes it keeps of earlier states, and of patches that were made so far:
// each is shorter than the present state, and kept with it in up to three forms.
func (h *History) Kept() int {
	var size int
	for _, v := range h.states[:len(h.states)-1] {
		size += len(v.Body)
	}
	for i := range h.deltas {
		size += int(h.deltas[i].size.Load())
	}
	return size
}
