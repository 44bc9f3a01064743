package lot

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestAbandoned: what is closed when the last who waits leaves is the check's, before it
// has begun and in flight, and not that of those who come after (contract 7.5).
func TestAbandoned(t *testing.T) {
	watch := func(l *Lot[int]) *Waiter[int] {
		w := l.Join(Key{1}, orders)
		w.Watch()
		return &w
	}
	for _, c := range []struct {
		name string
		do   func(l *Lot[int], a *Waiter[int]) (leave []*Waiter[int])
		want bool
	}{
		{"nobody leaves", func(l *Lot[int], a *Waiter[int]) []*Waiter[int] { return []*Waiter[int]{a} }, false},
		{"the last leaves", func(l *Lot[int], a *Waiter[int]) []*Waiter[int] { a.Leave(); return nil }, true},
		{"the last of two leaves", func(l *Lot[int], a *Waiter[int]) []*Waiter[int] {
			b := watch(l)
			a.Leave()
			b.Leave()
			return nil
		}, true},
		{"another stays", func(l *Lot[int], a *Waiter[int]) []*Waiter[int] {
			b := watch(l)
			a.Leave()
			return []*Waiter[int]{b}
		}, false},
		{"another stays who does not watch", func(l *Lot[int], a *Waiter[int]) []*Waiter[int] {
			b := l.Join(Key{1}, orders)
			a.Leave()
			return []*Waiter[int]{&b}
		}, true},
		{"one who does not watch leaves", func(l *Lot[int], a *Waiter[int]) []*Waiter[int] {
			b := l.Join(Key{1}, orders)
			b.Leave()
			return []*Waiter[int]{a}
		}, false},
		{"another comes too late", func(l *Lot[int], a *Waiter[int]) []*Waiter[int] {
			a.Leave()
			return []*Waiter[int]{watch(l)}
		}, true},
		{"and leaves too", func(l *Lot[int], a *Waiter[int]) []*Waiter[int] {
			a.Leave()
			watch(l).Leave()
			return nil
		}, true},
		{"drain", func(l *Lot[int], a *Waiter[int]) []*Waiter[int] { l.Drain(); return []*Waiter[int]{a} }, true},
		{"drain, and the last leaves", func(l *Lot[int], a *Waiter[int]) []*Waiter[int] {
			l.Drain()
			a.Leave()
			return nil
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New[int](Limits{Linger: time.Hour})
				for _, begin := range []bool{false, true} {
					for _, early := range []bool{true, false} { // it is asked for before that
						if l.IsDrained() {
							break
						}
						a := watch(l)
						r := a.Resource
						var leave []*Waiter[int]
						r.Schedule(func() {
							if begin && !r.Begin() {
								t.Error("Begin refused")
							}
							var before <-chan struct{}
							if early {
								before = r.Abandoned()
							}
							if early && closed(before) {
								t.Error("abandoned while somebody waits")
							}
							leave = c.do(l, a)
							after := r.Abandoned()
							if early && after != before {
								t.Error("not that of the same check")
							}
							if closed(after) != c.want {
								t.Errorf("begun %v: abandoned %v", begin, !c.want)
							}
							if begin {
								r.Abandon(time.Now().Add(time.Hour))
								return
							}
							if !r.Begin() {
								return
							}
							if closed(r.Abandoned()) {
								t.Error("the check of those who wait now is abandoned")
							}
							r.Publish(1, true, time.Now().Add(time.Hour))
						})
						synctest.Wait()
						for _, w := range leave {
							w.Leave()
						}
						r.mu.Lock()
						if r.abandoned != nil {
							t.Error("the channel outlives the check")
						}
						r.mu.Unlock()
						time.Sleep(2 * time.Hour) // it is forgotten
					}
				}
				l.Drain()
				synctest.Wait()
				empty(t, l)
			})
		})
	}
}

// TestAbandonedUnlisted: a drain reaches the checks that there was no room to list too.
func TestAbandonedUnlisted(t *testing.T) {
	l := New[int](Limits{Resources: 1})
	full, w := l.Join(Key{1}, at("/full")), l.Join(Key{2}, orders)
	w.Watch()
	conclude(t, w.Resource, func() {
		abandoned := w.Abandoned()
		if closed(abandoned) {
			t.Error("abandoned before the drain")
		}
		l.Drain()
		if !closed(abandoned) {
			t.Error("not abandoned by the drain")
		}
		w.Abandon(time.Now())
	})
	w.Leave()
	full.Leave()
	empty(t, l)
}

// TestNoPlaceIsHeldForNobody: a poller that waits to begin stops where nobody waits any
// more, and waits anew for those who come (contract 7.5).
func TestNoPlaceIsHeldForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{Linger: time.Hour})
		b := newBackend()
		slots := make(chan struct{}, 1)
		slots <- struct{}{} // somebody else's
		queued := 0
		start := func(r *Resource[int]) {
			r.Schedule(func() {
				queued++
				defer func() { queued-- }()
				select {
				case slots <- struct{}{}:
				case <-r.Abandoned():
					return
				}
				defer func() { <-slots }()
				if r.Begin() {
					r.Publish(b.check(r.Abandoned()), true, time.Now().Add(time.Hour))
				}
			})
		}
		come := func() Waiter[int] {
			w := l.Join(Key{1}, orders)
			if w.Watch() {
				start(w.Resource)
			}
			w.Want(w.Snapshot())
			synctest.Wait()
			return w
		}
		for range 3 {
			w := come()
			other := come()
			w.Leave()
			if synctest.Wait(); queued != 1 {
				t.Errorf("%d wait for a place; want 1", queued)
			}
			other.Leave()
			if synctest.Wait(); queued != 0 || polling(find(l, Key{1})) {
				t.Errorf("%d wait for a place, and nobody for a check", queued)
			}
		}
		w := come()
		b.at(500)
		<-slots
		b.at(700)
		if got := b.begins(); !slices.Equal(got, []int{500}) || w.Snapshot().State != 1 {
			t.Errorf("checks began at %v", got)
		}
		w.Leave()
		l.Drain()
		synctest.Wait()
		empty(t, l)
	})
}

// TestAbandon: a check that was given up is none. Who comes while it ends is not told by
// it, and gets another one after it, when it asks for one or when it is due.
func TestAbandon(t *testing.T) {
	for _, c := range []struct {
		name  string
		first func(w *Waiter[int]) // before the check
		then  func(w *Waiter[int]) // by who comes while it ends
		owed  bool                 // a check, to whoever comes next
		want  []int
	}{
		{"parks", nil, nil, false, []int{0, 1100, 2190}},
		{"wants", nil, func(w *Waiter[int]) {
			if !w.Want(w.Snapshot()) || w.Want(w.Snapshot()) {
				t.Error("the next check is due to none of those who want it, or to several")
			}
		}, false, []int{0, 1100, 1190, 2290}},
		{"wants later", nil, func(w *Waiter[int]) { w.WantAt(w.Snapshot(), time.Now().Add(300*time.Millisecond)) }, false, []int{0, 1100, 1450, 2550}},
		{"needs", nil, func(w *Waiter[int]) { w.NeedBy(time.Now().Add(300 * time.Millisecond)) }, false, []int{0, 1100, 1450, 2550}},
		{"is woken", nil, func(w *Waiter[int]) { w.Wake() }, true, []int{0, 1100, 1190, 2290}},
		{"had been woken", func(w *Waiter[int]) { w.Wake() }, nil, true, []int{0, 1100, 1190, 2290}},
		{"had been wanted", func(w *Waiter[int]) { w.NeedBy(time.Now()) }, nil, false, []int{0, 1100, 2190}},
	} {
		for _, back := range []bool{true, false} {
			t.Run(c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := New[int](Limits{Linger: time.Hour})
					b := newBackend()
					b.client(l, 0).wait(nil)
					b.interval = 1000 * time.Millisecond
					b.at(1100)
					w := l.Join(Key{1}, orders)
					r := w.Resource
					if c.first != nil {
						c.first(&w)
					}
					if !w.Watch() {
						t.Fatal("there is a poller")
					}
					old := r.Snapshot()
					inFlight := false
					r.Schedule(func() {
						if !r.Begin() {
							return
						}
						inFlight = true
						defer func() { inFlight = false }()
						if now := b.check(r.Abandoned()); now != 0 {
							r.Publish(now, false, time.Now().Add(time.Second))
							return
						}
						b.at(1190) // it takes its time to give up
						r.Abandon(time.Now().Add(time.Second))
					})
					b.at(1140)
					w.Leave()
					b.at(1150)
					if !inFlight || r.Pause() != 0 {
						t.Error("the check has ended, or is said to have")
					}
					if !back {
						b.at(1195)
						if due := r.Due(); inFlight || r.Snapshot() != old || polling(r) || due.Sub(b.epoch) != millis(2190) || (r.Pause() == 0) != (c.first != nil && c.owed) {
							t.Errorf("not given up, or due at %v, in %v", due.Sub(b.epoch), r.Pause())
						}
						l.Drain()
						synctest.Wait()
						empty(t, l)
						return
					}
					w = l.Join(Key{1}, orders)
					if w.Watch() {
						t.Error("another poller is wanted while there is one")
					}
					if c.then != nil {
						c.then(&w)
					}
					b.at(1189)
					if len(b.begins()) != 2 {
						t.Errorf("two checks at once: %v", b.begins())
					}
					b.at(1195)
					if closed(old.Next()) || r.Snapshot() != old {
						t.Error("its end counts as an answer")
					}
					b.at(2700)
					if got := b.begins(); !slices.Equal(got, c.want) {
						t.Errorf("checks began at %v; want %v", got, c.want)
					}
					if s := w.Snapshot(); !w.Asked(s) || !closed(old.Next()) {
						t.Error("it was not asked for who came back")
					}
					w.Leave()
					l.Drain()
					synctest.Wait()
					empty(t, l)
				})
			})
		}
	}
}

// TestAbandonedInTheInstantOfAnAnswer: it may be published as well.
func TestAbandonedInTheInstantOfAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{Linger: time.Hour})
		w := l.Join(Key{1}, orders)
		w.Watch()
		r, old := w.Resource, w.Snapshot()
		conclude(t, r, func() {
			w.Leave()
			w = l.Join(Key{1}, orders)
			w.Watch()
			w.Want(old)
			r.Publish(1, true, time.Now().Add(time.Hour))
		})
		if s := w.Snapshot(); !closed(old.Next()) || s.State != 1 || w.Asked(s) {
			t.Error("not published, or to one who came later as if it had been asked for them")
		}
		turns := 0
		r.Schedule(func() {
			turns++
			r.Begin()
			r.Publish(2, true, time.Now().Add(time.Hour))
		})
		synctest.Wait()
		if s := w.Snapshot(); turns != 1 || s.State != 2 || !w.Asked(s) {
			t.Errorf("%d checks follow; want 1", turns)
		}
		w.Leave()
		l.Drain()
		synctest.Wait()
		empty(t, l)
	})
}
