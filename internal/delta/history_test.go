package delta

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// body is a state that is longer than what makes another one of it.
func body(n int) []byte { return fmt.Appendf(nil, `{"n":%d,%s`, n, padding) }

// named is a state whose version names it.
func named(version string, n int) State { return State{Version: version, Body: body(n), Named: true} }

func TestHistory(t *testing.T) {
	h := NewHistory(MergePatch, named("v0", 0))
	told := []*History{h}
	for n := 1; n <= 6; n++ {
		h = h.Next(named(fmt.Sprint("v", n), n))
		told = append(told, h)
	}
	for n, earlier := range told {
		d, from := patchOf(h, fmt.Sprint("v", n)), h.PatchFrom(earlier.Present())
		if d != from {
			t.Errorf("v%d: by its name got %v; by its history %v", n, d, from)
		}
		if want := n >= 3 && n < 6; (d != nil) != want {
			t.Errorf("v%d: got %v; want one: %v", n, d, want)
		}
		if d != nil && string(d.Patch) != `{"n":6}` {
			t.Errorf("v%d: got %s", n, d.Patch)
		}
	}
	if d := patchOf(told[4], "v3"); d == nil || string(d.Patch) != `{"n":4}` {
		t.Errorf("an earlier history leads to %v; want its own state", d)
	}
	if d := told[4].PatchFrom(h.Present()); d != nil {
		t.Errorf("a history leads back: %s", d.Patch)
	}
	if got, want := h.Kept(), 3*len(body(0))+3*len(`{"n":6}`); got != want {
		t.Errorf("keeps %d bytes; want %d", got, want)
	}
	if d := patchOf(h, "unknown"); d != nil {
		t.Errorf("an unknown version: got %s", d.Patch)
	}
}

// A state that comes back is one, and who was told it first has it still.
func TestHistoryBack(t *testing.T) {
	first := NewHistory(JSONPatch, named("a", 1))
	other := first.Next(named("b", 2))
	back := other.Next(named("a", 1))
	if patchOf(back, "a") != nil || back.PatchFrom(first.Present()) != nil {
		t.Error("the present state has a patch that leads to it")
	}
	if d := patchOf(back, "b"); d == nil || d != back.PatchFrom(other.Present()) {
		t.Errorf("got %v", d)
	}
	last := back.Next(named("c", 3))
	if d := patchOf(last, "a"); d == nil || d != last.PatchFrom(first.Present()) || d != last.PatchFrom(back.Present()) {
		t.Errorf("got %v; want one for all who have it", d)
	}
}

// A version that two bodies have names none of them; who was told either can be told.
func TestHistoryAmbiguous(t *testing.T) {
	one := NewHistory(JSONPatch, named("a", 1))
	two := one.Next(named("a", 2))
	h := two.Next(named("b", 3))
	if d := patchOf(h, "a"); d != nil {
		t.Errorf("got %s; want none: there are two of that version", d.Patch)
	}
	if h.PatchFrom(one.Present()) == nil || h.PatchFrom(two.Present()) == nil || h.PatchFrom(one.Present()) == h.PatchFrom(two.Present()) {
		t.Error("who was told one of them has no patch of his own")
	}
	if d := two.PatchFrom(one.Present()); d == nil || patchOf(two, "a") != nil {
		t.Error("from one to the other of them there is a patch, for those who were told it")
	}
	h = h.Next(named("c", 4)).Next(named("d", 5)) // the first one is forgotten
	if d := patchOf(h, "a"); d != nil {
		t.Errorf("got %s; want none: there were two of that version", d.Patch)
	}
	weak := NewHistory(JSONPatch, State{Version: "a", Body: body(1)})
	h = weak.Next(named("b", 2))
	if d := patchOf(h, "a"); d != nil || h.PatchFrom(weak.Present()) == nil {
		t.Errorf("a version that names no body: got %v", d)
	}
}

// What no patch can be made of is not kept.
func TestHistoryLarge(t *testing.T) {
	large := State{Version: "a", Body: []byte(`{"a":"` + strings.Repeat("x", maxSize) + `"}`), Named: true}
	one := NewHistory(JSONPatch, large)
	h := one.Next(named("b", 2))
	if h.Kept() != 0 || patchOf(h, "a") != nil || h.PatchFrom(one.Present()) != nil {
		t.Errorf("keeps %d bytes", h.Kept())
	}
	h = h.Next(large).Next(named("c", 3))
	if d := patchOf(h, "b"); d == nil || h.PatchFrom(one.Present()) != nil {
		t.Errorf("got %v", d)
	}
}

// A patch is made once, and so is each of its formats, however many ask at once.
func TestHistoryOnce(t *testing.T) {
	first := NewHistory(JSONPatch, named("a", 1))
	h := first.Next(named("b", 2))
	var made atomic.Int32
	var all sync.WaitGroup
	deltas := make([]*Delta, 100)
	texts := make([][]byte, len(deltas))
	for i := range deltas {
		all.Go(func() {
			if deltas[i] = patchOf(h, "a"); i%2 == 0 {
				deltas[i] = h.PatchFrom(first.Present())
			}
			texts[i] = deltas[i].Encoded(i%2, func(patch []byte) []byte {
				made.Add(1)
				return fmt.Appendf(nil, "%d %s", i%2, patch)
			})
		})
	}
	all.Wait()
	for i, d := range deltas {
		if d == nil || d != deltas[0] || &texts[i][0] != &texts[i%2][0] || texts[i][0] != byte('0'+i%2) {
			t.Fatalf("%d got another patch: %v, %s", i, d, texts[i])
		}
	}
	if made.Load() != 2 {
		t.Errorf("encoded %d times; want once for each format", made.Load())
	}
}

// patchOf is the patch from the version of that name.
func patchOf(h *History, name string) *Delta {
	d, _ := h.Patch(func(s *State) bool { return s.Version == name })
	return d
}

// Patches that were made are kept, and count.
func TestKeptOfPatches(t *testing.T) {
	text := strings.Repeat("x", 1000)
	h := NewHistory(JSONPatch, State{Version: "1", Body: []byte(`{"n":1,"text":"` + text + `"}`), Named: true})
	h = h.Next(State{Version: "2", Body: []byte(`{"n":1,"text":"` + text + `","more":"` + text[:500] + `"}`), Named: true})
	before := h.Kept()
	d := h.PatchFrom(h.states[0].State)
	if d == nil {
		t.Fatal("there is no patch")
	}
	for range 2 {
		d.Encoded(0, func(patch []byte) []byte { return append([]byte("data: "), patch...) })
	}
	if got, want := h.Kept()-before, 2*len(d.Patch)+len("data: "); got != want {
		t.Errorf("got %d bytes more; want %d", got, want)
	}
}
