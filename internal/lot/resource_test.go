package lot

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestAskedAndTried makes all checks in one instant: what is told apart here is
// not told apart by time.
func TestAskedAndTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{})
		type view struct{ asked, tried, known, failed bool }
		var waiters []*Waiter[int]
		join := func() *Waiter[int] {
			w := l.Join(Key{1}, orders)
			w.Watch()
			waiters = append(waiters, &w)
			return &w
		}
		expect := func(w *Waiter[int], want view) {
			t.Helper()
			s := w.Snapshot()
			if got := (view{w.Asked(s), w.Tried(s), s.Known(), s.Failed()}); got != want {
				t.Errorf("got %+v; want %+v", got, want)
			}
		}
		var first, during, after, latest *Waiter[int]
		first = join()
		r := first.Resource
		expect(first, view{})

		conclude(t, r, func() { during = join(); r.Fail(-1, false, time.Now()) })
		expect(first, view{tried: true, failed: true})
		expect(during, view{failed: true})

		after = join()
		expect(after, view{failed: true})
		conclude(t, r, func() { latest = join(); r.Publish(1, true, time.Now()) })
		for _, w := range []*Waiter[int]{first, during, after} {
			expect(w, view{asked: true, tried: true, known: true})
		}
		expect(latest, view{known: true})

		// A failure takes nothing away from who has asked before.
		conclude(t, r, func() { r.Fail(-1, false, time.Now()) })
		expect(first, view{asked: true, tried: true, known: true, failed: true})
		expect(latest, view{tried: true, known: true, failed: true})
		for _, w := range waiters {
			w.Leave()
		}
		empty(t, l)
	})
}

// TestWhoIsWoken: by a check that finds nothing new only those who wait for a
// check to end, by one that does everybody.
func TestWhoIsWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{})
		w := l.Join(Key{1}, orders)
		w.Watch()
		r := w.Resource
		began := time.Now()
		for _, step := range []struct {
			name    string
			end     func()
			changed bool
			want    Snapshot[int]
		}{
			{"first", func() { r.Publish(1, true, time.Now()) }, true, Snapshot[int]{State: 1, Began: began}},
			{"unchanged", func() { r.Publish(1, false, time.Now()) }, false, Snapshot[int]{State: 1, Began: began.Add(time.Second)}},
			{"failed, hold", func() { r.Fail(7, false, time.Now()) }, false, Snapshot[int]{State: 1, Began: began.Add(time.Second), Fault: 7}},
			{"failed, release", func() { r.Fail(8, true, time.Now()) }, true, Snapshot[int]{State: 1, Began: began.Add(time.Second), Fault: 8}},
			{"unchanged after that", func() { r.Publish(1, false, time.Now()) }, false, Snapshot[int]{State: 1, Began: began.Add(4 * time.Second)}},
			{"changed", func() { r.Publish(2, true, time.Now()) }, true, Snapshot[int]{State: 2, Began: began.Add(5 * time.Second)}},
		} {
			old := w.Snapshot()
			conclude(t, r, func() {
				if closed(old.Next()) || closed(old.Changed()) || w.Snapshot() != old {
					t.Errorf("%s: announced before its end", step.name)
				}
				step.end()
			})
			s := w.Snapshot()
			if due := w.Due(); !due.Equal(time.Now()) {
				t.Errorf("%s: the next check is due %v later", step.name, time.Until(due))
			}
			if s.State != step.want.State || s.Fault != step.want.Fault || !s.Began.Equal(step.want.Began) || s.Failed() != (s.Fault != 0) || !s.Known() {
				t.Errorf("%s: got state %d of %v and fault %d", step.name, s.State, s.Began.Sub(began), s.Fault)
			}
			if !closed(old.Next()) || closed(old.Changed()) != step.changed || (s.Changed() == old.Changed()) == step.changed {
				t.Errorf("%s: wrong ones are woken", step.name)
			}
			if closed(s.Next()) || closed(s.Changed()) {
				t.Errorf("%s: those who come after it are woken", step.name)
			}
			time.Sleep(time.Second)
		}
		w.Leave()
		empty(t, l)
	})
}

// TestPollerLifetime: one poller while somebody waits, none while nobody does, and
// the pause goes on between two of them.
func TestPollerLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{Linger: time.Hour})
		w := l.Join(Key{1}, orders) // joining alone asks nothing
		r := w.Resource
		time.Sleep(time.Minute)
		w.Leave()
		b := newBackend()
		b.interval = 2300 * time.Millisecond
		// A hundred are there in every other second.
		for range 60 {
			var clients sync.WaitGroup
			gone := make(chan struct{})
			for range 100 {
				clients.Go(func() { b.client(l, 1).wait(gone) })
			}
			synctest.Wait()
			if !polling(r) {
				t.Fatal("no poller while somebody waits")
			}
			time.Sleep(time.Second)
			close(gone)
			clients.Wait()
			time.Sleep(time.Second)
			if polling(r) || b.turns.Load() != 0 {
				t.Fatal("a poller while nobody waits")
			}
		}
		var want []int
		for next := 0; next < 117_000; next += 2400 {
			if next%2000 >= 1000 { // over while nobody is there
				next += 2000 - next%2000
			}
			want = append(want, next)
		}
		if got := b.begins(); !slices.Equal(got, want) {
			t.Errorf("checks began at %v; want %v", got, want)
		}
		l.Drain()
		empty(t, l)
	})
}

// TestBeginWhereNobodyWaits: who has left while the poller waited for its turn needs
// no check.
func TestBeginWhereNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{})
		w := l.Join(Key{1}, orders)
		r := w.Resource
		if !w.Watch() {
			t.Fatal("there is a poller")
		}
		free := make(chan struct{})
		var turns, begun atomic.Int32
		r.Schedule(func() {
			turns.Add(1)
			<-free
			if r.Begin() {
				begun.Add(1)
			}
		})
		synctest.Wait()
		w.Leave()
		close(free)
		synctest.Wait()
		if turns.Load() != 1 || begun.Load() != 0 || polling(r) {
			t.Errorf("%d turns, %d checks, polling %v", turns.Load(), begun.Load(), polling(r))
		}
		empty(t, l)
	})
}

// TestPollerThatIsNeverMade: who was to make it could not. The next one is asked.
func TestPollerThatIsNeverMade(t *testing.T) {
	l := New[int](Limits{Linger: time.Hour})
	for range 2 {
		w := l.Join(Key{1}, orders)
		if !w.Watch() {
			t.Error("nobody is asked to make a poller")
		}
		w.Leave()
	}
	l.Drain()
	empty(t, l)
}

// TestWantIsShared: however many want a check, one is made.
func TestWantIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{Linger: time.Hour})
		b := newBackend()
		ask := func(n int) {
			var all sync.WaitGroup
			for range n {
				all.Go(func() {
					if v := b.client(l, 0).wait(nil); v != changed {
						t.Errorf("got %s", v)
					}
				})
			}
			all.Wait()
		}
		ask(1)
		b.at(10_000)
		b.reset()
		// A hundred in the instant in which a check begins, and a hundred during it:
		// the latter, and who of the former came too late, share the one after it.
		var both sync.WaitGroup
		both.Go(func() { ask(100) })
		both.Go(func() { b.at(50); ask(100) })
		both.Wait()
		if got, want := b.begins(), []int{0, 100}; !slices.Equal(got, want) {
			t.Errorf("checks began at %v; want %v", got, want)
		}
		// One who asks because of a snapshot that is not the latest gets none.
		w := l.Join(Key{1}, orders)
		old := w.Snapshot()
		if w.Watch() {
			b.start(w.Resource)
		}
		if !w.Want(old) || w.Want(old) {
			t.Error("a check is due to none of those who want it, or to several")
		}
		<-old.Next()
		if w.Want(old) {
			t.Error("a check is due to one who wants none")
		}
		synctest.Wait()
		if got, want := b.begins(), []int{0, 100, 200}; !slices.Equal(got, want) {
			t.Errorf("checks began at %v; want %v", got, want)
		}
		w.Leave()
		l.Drain()
		empty(t, l)
	})
}

// TestNeedBy: one check for all who need one by some time, at the earliest of
// these times.
func TestNeedBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{})
		b := newBackend()
		b.interval = time.Hour
		stay := l.Join(Key{1}, orders)
		stay.Watch()
		b.start(stay.Resource)
		needBy := func(ms int) func() {
			w := l.Join(Key{1}, orders)
			w.Watch()
			w.NeedBy(b.epoch.Add(millis(ms)))
			return w.Leave
		}
		b.at(500)
		for _, ms := range []int{3000, 2000, 2500} {
			defer needBy(ms)()
		}
		// 2500 and 3000 are served by 2000: they were there before it began.
		b.at(2050)
		defer needBy(5000)() // during that check: not lost
		b.at(5050)
		defer needBy(2)() // long past, during a check: one more at once
		b.at(10_000)
		if got, want := b.begins(), []int{0, 2000, 5000, 5100}; !slices.Equal(got, want) {
			t.Errorf("checks began at %v; want %v", got, want)
		}
		stay.Leave()
	})
}

// TestWantAt: a check that is wanted at some time is one for all who want it, at the
// earliest of these times, or when one begins anyway (contract 3.9).
func TestWantAt(t *testing.T) {
	type want struct {
		at, t int // who asks at, and for when
		first bool
	}
	for _, c := range []struct {
		name  string
		wants []want
		woken int           // when there is a wake-up, if it is not 0
		due   time.Duration // after the first check
		want  []int
	}{
		{"later", []want{{500, 2000, true}}, 0, time.Hour, []int{0, 2000}},
		{"now", []want{{500, 500, true}}, 0, time.Hour, []int{0, 500}},
		{"long ago", []want{{500, 3, true}}, 0, time.Hour, []int{0, 500}},
		{"by several", []want{{500, 2000, true}, {600, 2500, false}, {700, 2000, false}}, 0, time.Hour, []int{0, 2000}},
		{"sooner by another", []want{{500, 2000, true}, {600, 1500, true}, {700, 800, true}}, 0, time.Hour, []int{0, 800}},
		{"again after that", []want{{500, 2000, true}, {2300, 2400, true}}, 0, time.Hour, []int{0, 2000, 2400}},
		{"of one in flight", []want{{500, 2000, true}, {2050, 2060, false}}, 0, time.Hour, []int{0, 2000}},
		{"due before", []want{{500, 2000, false}}, 0, time.Second, []int{0, 1100, 2200}},
		{"due then", []want{{500, 1100, false}}, 0, time.Second, []int{0, 1100, 2200}},
		{"due after", []want{{500, 1099, true}}, 0, time.Second, []int{0, 1099, 2199}},
		{"woken before", []want{{500, 2000, true}}, 700, time.Hour, []int{0, 700}},
		{"woken during it", []want{{500, 2000, true}}, 2050, time.Hour, []int{0, 2000, 2100}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New[int](Limits{Linger: time.Hour})
				b := newBackend()
				b.interval = c.due
				stay := l.Join(Key{1}, orders)
				stay.Watch()
				b.start(stay.Resource)
				if c.woken > 0 {
					time.AfterFunc(millis(c.woken), stay.Wake)
				}
				for i, want := range c.wants {
					b.at(want.at)
					w := l.Join(Key{1}, orders)
					w.Watch()
					if first := w.WantAt(w.Snapshot(), b.epoch.Add(millis(want.t))); first != want.first {
						t.Errorf("%d: got %v", i, first)
					}
					w.Leave() // is not the last: it stays wanted
				}
				b.at(3000)
				if got := b.begins(); !slices.Equal(got, c.want) {
					t.Errorf("checks began at %v; want %v", got, c.want)
				}
				stay.Leave()
				time.Sleep(time.Second)
				l.Drain()
				empty(t, l)
			})
		})
	}
}

// TestNeedsEndWithTheLast: what those who have left needed is nothing to those who
// come (contract 7.5), but a wake-up is (contract 7.2).
func TestNeedsEndWithTheLast(t *testing.T) {
	for _, c := range []struct {
		name string
		need func(w *Waiter[int])
		want []int
	}{
		{"want", func(w *Waiter[int]) { w.Want(w.Snapshot()) }, []int{0, 1100}},
		{"want at", func(w *Waiter[int]) { w.WantAt(w.Snapshot(), time.Now().Add(300*time.Millisecond)) }, []int{0, 1100}},
		{"need by", func(w *Waiter[int]) { w.NeedBy(time.Now().Add(300 * time.Millisecond)) }, []int{0, 1100}},
		{"wake", func(w *Waiter[int]) { w.Wake() }, []int{0, 400}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New[int](Limits{Linger: time.Hour})
				b := newBackend()
				b.client(l, 0).wait(nil)
				b.at(200)
				w := l.Join(Key{1}, orders)
				start := w.Watch()
				c.need(&w)
				w.Leave() // before the poller has seen any of it
				if start {
					b.start(find(l, Key{1}))
				}
				b.at(400)
				gone := make(chan struct{})
				var stay sync.WaitGroup
				stay.Go(func() { b.client(l, 1).wait(gone) })
				b.at(1500)
				if got := b.begins(); !slices.Equal(got, c.want) {
					t.Errorf("checks began at %v; want %v", got, c.want)
				}
				close(gone)
				stay.Wait()
				b.at(5000)
				l.Drain()
				empty(t, l)
			})
		})
	}
}

// TestPause: who comes during the pause after a failure finds what is left of it, though
// nobody has waited meanwhile, until it is over or a wake-up ends it (contract 7.7).
func TestPause(t *testing.T) {
	for _, c := range []struct {
		name string
		then func(w *Waiter[int]) // at 2s
		want [4]time.Duration     // at 1s, 2s, 3s and 11s
	}{
		{"nothing", func(w *Waiter[int]) {}, [4]time.Duration{9, 8, 7, 0}},
		{"woken", func(w *Waiter[int]) { w.Wake() }, [4]time.Duration{9, 0, 0, 0}},
		{"wanted", func(w *Waiter[int]) { w.Want(w.Snapshot()) }, [4]time.Duration{9, 8, 7, 0}},
		{"in flight", func(w *Waiter[int]) { w.Begin() }, [4]time.Duration{9, 0, 0, 0}},
		{"failed again", func(w *Waiter[int]) { w.Begin(); w.Fail(-1, false, time.Now().Add(time.Minute)) }, [4]time.Duration{9, 60, 59, 51}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New[int](Limits{Linger: time.Hour})
				w := l.Join(Key{1}, orders)
				if n := w.Pause(); n != 0 {
					t.Errorf("the first check is due in %v", n)
				}
				w.Watch()
				conclude(t, w.Resource, func() { w.Fail(-1, false, time.Now().Add(10*time.Second)) })
				w.Leave()
				var got [4]time.Duration
				pause := func(i int) {
					w := l.Join(Key{1}, orders)
					got[i] = w.Pause() / time.Second
					w.Leave()
				}
				time.Sleep(time.Second)
				pause(0)
				time.Sleep(time.Second)
				w = l.Join(Key{1}, orders)
				w.Watch()
				c.then(&w)
				pause(1)
				w.Leave() // and what it said by a wake-up stays said
				time.Sleep(time.Second)
				pause(2)
				time.Sleep(8 * time.Second)
				pause(3)
				if got != c.want {
					t.Errorf("got %d; want %d", got, c.want)
				}
				l.Drain()
				empty(t, l)
			})
		})
	}
}

// TestWakeUpsDuringACheck cause one more check, however many they are, and none
// where nobody waits.
func TestWakeUpsDuringACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{Linger: time.Hour})
		b := newBackend()
		gone := make(chan struct{})
		var stay sync.WaitGroup
		stay.Go(func() { b.client(l, 1).wait(gone) })
		for _, ms := range []int{10, 50, 90} {
			b.at(ms)
			for range 1000 {
				if n := l.Wake(orders.Path, all); n != 1 {
					t.Fatalf("%d marked", n)
				}
			}
		}
		b.at(500)
		close(gone)
		stay.Wait()
		for range 1000 {
			l.Wake(orders.Path, all)
		}
		b.at(5000)
		if got, want := b.begins(), []int{0, 100}; !slices.Equal(got, want) {
			t.Errorf("checks began at %v; want %v", got, want)
		}
		l.Drain()
		empty(t, l)
	})
}

// TestWantWhereACheckBeginsAnyway reports that it is not due to the call.
func TestWantWhereACheckBeginsAnyway(t *testing.T) {
	for name, before := range map[string]func(w *Waiter[int]){
		"due":     func(w *Waiter[int]) { time.Sleep(time.Hour) },
		"woken":   func(w *Waiter[int]) { w.Wake() },
		"needed":  func(w *Waiter[int]) { w.NeedBy(time.Now()) },
		"begun":   func(w *Waiter[int]) { w.Begin() },
		"nothing": func(w *Waiter[int]) {},
		"later":   func(w *Waiter[int]) { w.NeedBy(time.Now().Add(time.Minute)) },
	} {
		synctest.Test(t, func(t *testing.T) {
			l := New[int](Limits{})
			w := l.Join(Key{1}, orders)
			w.Watch()
			if w.Want(w.Snapshot()) {
				t.Error("the first check is due to more than the first waiter")
			}
			conclude(t, w.Resource, func() { w.Publish(1, true, time.Now().Add(time.Hour)) })
			before(&w)
			if got, want := w.Want(w.Snapshot()), name == "nothing" || name == "later"; got != want {
				t.Errorf("%s: got %v", name, got)
			}
			w.Leave()
		})
	}
}

func TestFirst(t *testing.T) {
	l := New[int](Limits{})
	ws := make([]Waiter[int], 4)
	for i, want := range []bool{true, false, true, true} {
		ws[i] = l.Join(Key{1}, orders)
		if ws[i].Watch(); ws[i].First() != want {
			t.Errorf("%d: got %v", i, !want)
		}
		if ws[i].Watch(); ws[i].First() != want {
			t.Errorf("%d: not any more, where it watches twice", i)
		}
		if i > 0 { // alone again
			ws[i-1].Leave()
			ws[i].Leave()
		}
	}
	empty(t, l)
}

func TestOnce(t *testing.T) {
	l := New[int](Limits{Linger: time.Hour})
	for i := range 3 {
		w := l.Join(Key{1}, orders)
		if w.Once() != (i == 0) {
			t.Errorf("wrong at call %d", i)
		}
		w.Leave()
	}
	l.Drain()
}
