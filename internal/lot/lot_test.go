package lot

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestMain fails if a goroutine is left when all tests have passed.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	for deadline := time.Now().Add(time.Minute); code == 0 && runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "%d goroutines before the tests, and now:\n", before)
			pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			code = 1
		}
	}
	os.Exit(code)
}

var orders = Name{Method: "GET", Host: "example.com", Path: "/orders"}

// at is the name of another path of the same host.
func at(path string) Name { return Name{Method: "GET", Host: "example.com", Path: path} }

// closed reports whether c is closed.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// find is the resource with that key, or nil. It leaves no trace.
func find(l *Lot[int], key Key) *Resource[int] {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.resources[key]
}

// polling reports whether there is a poller.
func polling(r *Resource[int]) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.polling
}

// empty fails the test where anything is left in the lot.
func empty(t *testing.T, l *Lot[int]) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	left := []int{l.Parked(), len(l.resources), len(l.byPath), len(l.unlisted), l.idle.Len(), len(l.clients), len(l.forgotten), int(l.Memory())}
	if !slices.Equal(left, make([]int, len(left))) {
		t.Errorf("parked, resources, paths, unlisted, idle, clients, callbacks and bytes: %v are left", left)
	}
}

// conclude makes a check by hand, for somebody who watches.
func conclude(t *testing.T, r *Resource[int], end func()) {
	t.Helper()
	if !r.Begin() {
		t.Fatal("Begin refused")
	}
	end()
}

func TestJoinByKey(t *testing.T) {
	l := New[int](Limits{Linger: time.Hour})
	a, b, c := l.Join(Key{1}, orders), l.Join(Key{1}, orders), l.Join(Key{2}, orders)
	if a.Resource != b.Resource || a.Resource == c.Resource {
		t.Error("resources are not told apart by key alone")
	}
	if n := l.Len(); n != 2 || len(l.Resources()) != 2 {
		t.Errorf("%d resources, %d listed; want 2", n, len(l.Resources()))
	}
	for _, w := range []*Waiter[int]{&a, &b, &c} {
		w.Leave()
		w.Leave() // is safe
	}
	if n := l.Len(); n != 2 {
		t.Errorf("%d resources linger; want 2", n)
	}
	l.Drain()
	empty(t, l)
}

func all(Name) bool { return true }

func TestWakeByPath(t *testing.T) {
	l := New[int](Limits{Linger: time.Hour})
	names := []Name{at("/orders"), at("/orders/"), at("/orders//"), at("/orders/1"), at("/"), {Method: "POST", Host: "example.org", Path: "/orders"}}
	var rs []*Resource[int]
	for i, n := range names {
		w := l.Join(Key{byte(i)}, n)
		rs = append(rs, w.Resource)
		w.Leave()
	}
	host := func(n Name) bool { return n.Host == "example.com" }
	for _, c := range []struct {
		path string
		wake func(string, func(Name) bool) int
		want []int // of names
	}{
		{"/orders", l.Wake, []int{0, 1, 2}},
		{"/orders/", l.Wake, []int{0, 1, 2}},
		{"/orders/1/", l.Wake, []int{3}},
		{"/order", l.Wake, nil},
		{"", l.Wake, []int{4}},
		{"/", l.Wake, []int{4}},
		{"/orders/", l.WakePrefix, []int{1, 2, 3}},
		{"/ord", l.WakePrefix, []int{0, 1, 2, 3}},
		{"", l.WakePrefix, []int{0, 1, 2, 3, 4}},
		{"/x", l.WakePrefix, nil},
	} {
		n := c.wake(c.path, host)
		var marked []int
		for i, r := range rs {
			if r.wanted {
				marked = append(marked, i)
			}
			r.wanted = false
		}
		if n != len(c.want) || !slices.Equal(marked, c.want) {
			t.Errorf("%q: %d marked, %v; want %v", c.path, n, marked, c.want)
		}
	}
	l.Drain()
	if n := l.Wake("/orders", all); n != 0 {
		t.Errorf("%d forgotten resources are marked", n)
	}
	empty(t, l)
}

// TestEmpty: a resource without a key can be woken too.
func TestEmpty(t *testing.T) {
	l := New[int](Limits{})
	if !l.Empty() {
		t.Error("a new lot is not empty")
	}
	a, b := l.Join(Key{1}, orders), l.Join(Key{2}, orders)
	l.Rekey(a.Resource, Key{2})
	b.Leave()
	if l.Empty() || l.Len() != 0 || l.Wake(orders.Path, all) != 1 {
		t.Error("empty, although somebody can be woken")
	}
	a.Leave()
	if !l.Empty() {
		t.Error("not empty")
	}
	empty(t, l)
}

// TestLinger: a resource is forgotten that long after its last member left.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const linger = 30 * time.Second
		l := New[int](Limits{Linger: linger})
		w := l.Join(Key{1}, orders)
		r := w.Resource
		forgotten := 0
		r.OnForget(func() {
			if forgotten++; l.Len() != 0 { // it is called without the lot's lock
				t.Error("not forgotten when OnForget says so")
			}
		})
		time.Sleep(2 * linger)
		// Each who comes and goes in time makes it last anew.
		for range 3 {
			w.Leave()
			time.Sleep(linger - time.Nanosecond)
			if w = l.Join(Key{1}, orders); w.Resource != r {
				t.Fatal("forgotten too early")
			}
		}
		other := l.Join(Key{1}, orders)
		w.Leave()
		time.Sleep(2 * linger)
		other.Leave()
		time.Sleep(linger - time.Nanosecond)
		synctest.Wait()
		if forgotten != 0 || l.Len() != 1 {
			t.Fatal("forgotten too early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if forgotten != 1 {
			t.Errorf("OnForget was called %d times", forgotten)
		}
		empty(t, l)
		late := 0
		r.OnForget(func() { late++ })
		time.Sleep(2 * linger)
		if forgotten != 1 || late != 1 {
			t.Errorf("OnForget was called %d times, and %d times where it came too late", forgotten, late)
		}
	})
}

// TestLingerLastsAnew: who comes in the very instant in which the resource would
// have been forgotten, and leaves at once, makes it last anew.
func TestLingerLastsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const linger = time.Second
		l := New[int](Limits{Linger: linger})
		for range 500 {
			w := l.Join(Key{1}, orders)
			w.Leave()
			time.Sleep(linger)
			w = l.Join(Key{1}, orders) // the old one or a new one
			r := w.Resource
			w.Leave()
			time.Sleep(linger - time.Nanosecond)
			synctest.Wait()
			if find(l, Key{1}) != r {
				t.Fatal("forgotten too early")
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			empty(t, l)
		}
	})
}

// TestEvictionWhereALingerEnds: whichever comes first, it is forgotten once.
func TestEvictionWhereALingerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{Resources: 1, Linger: time.Second})
		for i := range 500 {
			var forgotten atomic.Int32
			w := l.Join(Key{byte(i)}, orders)
			w.OnForget(func() { forgotten.Add(1) })
			w.Leave()
			time.Sleep(time.Second)
			w = l.Join(Key{byte(i + 1)}, orders)
			synctest.Wait()
			if n := forgotten.Load(); n != 1 || !w.listed {
				t.Fatalf("OnForget was called %d times, listed %v", n, w.listed)
			}
			w.Leave()
			time.Sleep(time.Second)
			synctest.Wait()
			empty(t, l)
		}
	})
}

func TestNoLinger(t *testing.T) {
	l := New[int](Limits{})
	w := l.Join(Key{1}, orders)
	forgotten := 0
	w.OnForget(func() { forgotten++ })
	w.OnForget(func() { forgotten++ })
	w.Leave()
	if forgotten != 2 {
		t.Errorf("OnForget called %d of 2", forgotten)
	}
	empty(t, l)
}

// TestRoomIsMade: a resource without members makes room for one that is asked for,
// the one that has been without them longest first (contract 7.9).
func TestRoomIsMade(t *testing.T) {
	l := New[int](Limits{Resources: 3, Linger: time.Hour})
	var forgotten []int
	ws := make([]Waiter[int], 5)
	rs := make([]*Resource[int], 5)
	join := func(i int) {
		ws[i] = l.Join(Key{byte(i)}, orders)
		rs[i] = ws[i].Resource
		ws[i].OnForget(func() { forgotten = append(forgotten, i) })
	}
	for i := range 3 {
		join(i)
	}
	ws[1].Leave()
	ws[0].Leave()
	ws[2].Leave()
	ws[1] = l.Join(Key{1}, orders) // leaves again as the last: idle are now 0, 2, 1
	ws[1].Leave()
	join(3)
	join(4)
	if !slices.Equal(forgotten, []int{0, 2}) || l.Len() != 3 || l.idle.Len() != 1 {
		t.Errorf("%v are forgotten, %d known, %d idle", forgotten, l.Len(), l.idle.Len())
	}
	ws[3].Leave()
	ws[4].Leave()
	l.Drain()
	if !slices.Equal(forgotten, []int{0, 2, 1, 3, 4}) {
		t.Errorf("%v are forgotten", forgotten)
	}
	for i, r := range rs {
		if r.linger.Stop() {
			t.Errorf("a timer of %d is left", i)
		}
	}
	empty(t, l)
}

// TestUnlisted: where there is no room, a state can be read, but nobody shares it
// and nobody is parked on it (contract 7.9).
func TestUnlisted(t *testing.T) {
	l := New[int](Limits{Resources: 1, Linger: time.Hour})
	held := l.Join(Key{1}, at("/held"))
	if err := held.Park("", false); err != nil {
		t.Fatal(err)
	}
	a, b := l.Join(Key{2}, orders), l.Join(Key{2}, orders)
	if a.Resource == b.Resource || l.Len() != 1 || len(l.Resources()) != 1 || l.Wake(orders.Path, all) != 0 {
		t.Error("listed, where there is no room")
	}
	if !a.Watch() {
		t.Error("no poller is wanted")
	}
	old := a.Snapshot()
	conclude(t, a.Resource, func() { a.Publish(1, true, time.Now()) })
	if !closed(old.Next()) || !a.Asked(a.Snapshot()) {
		t.Error("its state can not be read")
	}
	if err := a.Park("", false); !errors.Is(err, ErrResources) || a.Parked() || l.Parked() != 1 {
		t.Errorf("parked, or the wrong error: %v", err)
	}
	l.Rekey(a.Resource, Key{3})
	if find(l, Key{2}) != nil || find(l, Key{3}) != nil {
		t.Error("listed by its new key")
	}
	forgotten := 0
	a.OnForget(func() { forgotten++ })
	a.Leave()
	b.Leave()
	if forgotten != 1 {
		t.Errorf("OnForget was called %d times", forgotten)
	}
	// Everything parked has stayed parked, and gives room when it leaves.
	if l.Len() != 1 || !held.Parked() {
		t.Error("what is parked was disturbed")
	}
	held.Leave()
	c := l.Join(Key{2}, orders)
	if err := c.Park("", false); err != nil {
		t.Error(err)
	}
	c.Leave()
	l.Drain()
	empty(t, l)
}

func TestBounds(t *testing.T) {
	l := New[int](Limits{Parked: 3, PerClient: 2, Linger: time.Hour})
	ws := make([]Waiter[int], 6)
	for i, step := range []struct {
		client string
		want   error
	}{
		{"a", nil}, {"a", nil}, {"a", ErrClient}, {"b", nil}, {"b", ErrParked}, {"c", ErrParked},
	} {
		ws[i] = l.Join(Key{byte(i % 2)}, orders)
		if err := ws[i].Park(step.client, false); err != step.want || ws[i].Parked() != (err == nil) {
			t.Errorf("%d: got %v; want %v", i, err, step.want)
		}
	}
	if err := ws[0].Park("a", false); err != nil || l.Parked() != 3 {
		t.Errorf("parked twice: %v, %d are parked", err, l.Parked())
	}
	// Whoever leaves makes room, for the client too.
	ws[2].Leave()
	ws[0].Leave()
	if ws[0].Parked() || l.Parked() != 2 {
		t.Errorf("%d are parked", l.Parked())
	}
	for _, i := range []int{4, 5} {
		if err, want := ws[i].Park("b", false), []error{nil, ErrParked}[i-4]; err != want {
			t.Errorf("%d: got %v; want %v", i, err, want)
		}
	}
	l.Drain()
	w := l.Join(Key{7}, orders)
	if err := w.Park("d", false); err != ErrDrained {
		t.Errorf("got %v; want %v", err, ErrDrained)
	}
	w.Leave()
	for i := range ws {
		ws[i].Leave()
	}
	empty(t, l)
}

func TestRekey(t *testing.T) {
	join := func(l *Lot[int], key byte) *Waiter[int] {
		w := l.Join(Key{key}, orders)
		return &w
	}
	// leave ends all memberships and expects that nothing is left.
	leave := func(t *testing.T, l *Lot[int], ws ...*Waiter[int]) {
		t.Helper()
		for _, w := range ws {
			forgotten := 0
			w.OnForget(func() { forgotten++ })
			defer func() {
				if forgotten != 1 {
					t.Errorf("OnForget was called %d times", forgotten)
				}
			}()
			w.Leave()
		}
		l.Drain()
		empty(t, l)
	}

	t.Run("free key", func(t *testing.T) {
		l := New[int](Limits{Linger: time.Hour})
		a := join(l, 1)
		l.Rekey(a.Resource, Key{2})
		b, c := join(l, 2), join(l, 1)
		if a.Resource != b.Resource || a.Resource == c.Resource || l.Len() != 2 || l.Wake(orders.Path, all) != 2 {
			t.Error("not found by its new key alone")
		}
		leave(t, l, a, b, c)
	})
	t.Run("same key", func(t *testing.T) {
		l := New[int](Limits{Linger: time.Hour})
		a := join(l, 1)
		l.Rekey(a.Resource, Key{1})
		b := join(l, 1)
		if a.Resource != b.Resource || l.Len() != 1 {
			t.Error("not found by its key")
		}
		leave(t, l, a, b)
	})
	t.Run("taken key", func(t *testing.T) {
		l := New[int](Limits{Linger: time.Hour})
		a, b := join(l, 1), join(l, 2)
		l.Rekey(a.Resource, Key{2})
		c, d := join(l, 1), join(l, 2)
		if d.Resource != b.Resource || c.Resource == a.Resource || c.Resource == b.Resource || l.Len() != 2 {
			t.Error("those who come do not join the other")
		}
		// Those who have joined stay, and are told of everything.
		if n := l.Wake(orders.Path, all); n != 3 || !a.wanted || len(l.Resources()) != 3 {
			t.Errorf("%d are marked by path", n)
		}
		if err := a.Park("", false); err != nil {
			t.Error(err)
		}
		forgotten := false
		a.OnForget(func() { forgotten = true })
		old := a.Resource
		a.Leave()
		if !forgotten || len(l.Resources()) != 2 {
			t.Error("lingers, and nobody can find it")
		}
		if find(l, Key{1}) != c.Resource {
			t.Error("another resource was forgotten with it")
		}
		a.Resource = old // for OnForget, which now comes too late
		a.OnForget(func() { forgotten = false })
		if forgotten {
			t.Error("OnForget is not called where it comes too late")
		}
		leave(t, l, b, c, d)
	})
	t.Run("taken key, then another", func(t *testing.T) {
		l := New[int](Limits{Linger: time.Hour})
		a, b := join(l, 1), join(l, 2)
		l.Rekey(a.Resource, Key{2})
		c := join(l, 1)
		l.Rekey(a.Resource, Key{3})
		if find(l, Key{1}) != c.Resource || find(l, Key{2}) != b.Resource || find(l, Key{3}) != nil {
			t.Error("another resource has lost its key, or it has got one")
		}
		leave(t, l, a, b, c)
	})
	t.Run("taken key, without members", func(t *testing.T) {
		l := New[int](Limits{Linger: time.Hour, Resources: 2})
		a, b := join(l, 1), join(l, 2)
		r := a.Resource
		forgotten := 0
		r.OnForget(func() { forgotten++ })
		a.Leave()
		l.Rekey(r, Key{2})
		if forgotten != 1 {
			t.Errorf("OnForget was called %d times", forgotten)
		}
		c, d := join(l, 3), join(l, 4)
		if n := l.Len(); n != 2 || d.listed {
			t.Errorf("%d resources; want 2", n)
		}
		leave(t, l, b, c, d)
	})
	t.Run("without members", func(t *testing.T) {
		l := New[int](Limits{Linger: time.Hour})
		a := join(l, 1)
		r := a.Resource
		a.Leave()
		l.Rekey(r, Key{2})
		if b := join(l, 2); b.Resource != r || l.Len() != 1 {
			t.Error("not found by its new key")
		} else {
			leave(t, l, b)
		}
	})
	t.Run("forgotten", func(t *testing.T) {
		l := New[int](Limits{})
		a := join(l, 1)
		r := a.Resource
		a.Leave()
		l.Rekey(r, Key{2})
		empty(t, l)
	})
}

// TestDrain: nobody is parked any more, pollers end, a check in flight is not
// published, and what nobody waits for is forgotten at once.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{Resources: 3, Linger: time.Hour})
		forgotten := 0
		parked, slow, idle := l.Join(Key{1}, at("/parked")), l.Join(Key{2}, at("/slow")), l.Join(Key{3}, at("/idle"))
		idle.OnForget(func() { forgotten++ })
		unlisted := l.Join(Key{4}, at("/unlisted"))
		idle.Leave()
		b := newBackend()
		for _, w := range []*Waiter[int]{&parked, &unlisted, &slow} {
			if w == &slow {
				b = newBackend()
				b.takes = time.Minute
			}
			w.Watch()
			b.start(w.Resource)
		}
		if err := parked.Park("", false); err != nil {
			t.Fatal(err)
		}
		before := slow.Snapshot()
		time.Sleep(time.Second / 2)
		if closed(l.Drained()) {
			t.Error("drained too early")
		}
		if n, first := l.Drain(); n != 1 || !first || forgotten != 1 {
			t.Errorf("%d were parked, first %v, %d forgotten", n, first, forgotten)
		}
		if n, first := l.Drain(); n != 1 || first {
			t.Errorf("%d were parked, first %v", n, first)
		}
		if !closed(l.Drained()) || !closed(parked.Snapshot().Changed()) || closed(parked.Snapshot().Next()) {
			t.Error("not drained, or by the end of a check")
		}
		if parked.Begin() {
			t.Error("a check begins")
		}
		if err := slow.Park("", false); err != ErrDrained {
			t.Errorf("got %v; want %v", err, ErrDrained)
		}
		synctest.Wait()
		if !polling(slow.Resource) {
			t.Error("a poller ends before its check")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if slow.Snapshot() != before || closed(before.Next()) {
			t.Error("a check in flight is published")
		}
		for _, w := range []*Waiter[int]{&parked, &slow, &unlisted} {
			if polling(w.Resource) {
				t.Errorf("the poller of %s stays", w.Name.Path)
			}
		}
		if n := len(b.checks); n != 1 || b.checks[0].began != 0 {
			t.Errorf("checked after the drain: %v", b.checks)
		}
		// Who comes now gets a poller that ends at once.
		late := l.Join(Key{1}, at("/parked"))
		if late.Resource != parked.Resource || !late.Watch() {
			t.Error("nobody is to make a poller")
		}
		late.Schedule(func() { t.Error("a poller begins after the drain") })
		synctest.Wait()
		if polling(late.Resource) {
			t.Error("a poller outlives the drain")
		}
		for _, w := range []*Waiter[int]{&parked, &slow, &unlisted, &late} {
			w.Leave()
		}
		empty(t, l)
	})
}
