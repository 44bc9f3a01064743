package lot

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// heavy makes a lot of 100 bytes, with resources that weigh so much, and by whom they
// are forgotten. The keys are 0, 1, 2, ...
func heavy(weights ...int64) (l *Lot[int], ws []Waiter[int], forgotten *[]int) {
	l = New[int](Limits{Memory: 100, Linger: time.Hour})
	forgotten = new([]int)
	for i, bytes := range weights {
		w := l.Join(Key{byte(i)}, at(fmt.Sprint("/", i)))
		w.OnForget(func() { *forgotten = append(*forgotten, i) })
		w.Weigh(bytes)
		ws = append(ws, w)
	}
	return l, ws, forgotten
}

// TestMemory: who is idle makes room, longest first, whatever makes the sum exceed the
// bound (contract 7.9).
func TestMemory(t *testing.T) {
	again := func(l *Lot[int], i int) Waiter[int] { return l.Join(Key{byte(i)}, at(fmt.Sprint("/", i))) }
	for _, c := range []struct {
		name      string
		weights   []int64
		do        func(l *Lot[int], ws []Waiter[int])
		forgotten []int
		sum       int64
	}{
		{"exactly the bound", []int64{30, 30, 40}, func(l *Lot[int], ws []Waiter[int]) {
			for i := range ws {
				ws[i].Leave()
			}
		}, nil, 100},
		{"one who is idle gets heavier", []int64{30, 30, 40}, func(l *Lot[int], ws []Waiter[int]) {
			r := ws[2].Resource
			for _, i := range []int{1, 2, 0} {
				ws[i].Leave()
			}
			r.Weigh(41)
		}, []int{1}, 71},
		{"the longest idle gets heavier", []int64{30, 30, 40}, func(l *Lot[int], ws []Waiter[int]) {
			r := ws[0].Resource
			for i := range ws {
				ws[i].Leave()
			}
			r.Weigh(31)
		}, []int{0}, 70},
		{"one who is held gets heavier", []int64{30, 30, 40}, func(l *Lot[int], ws []Waiter[int]) {
			ws[0].Leave()
			ws[1].Leave()
			ws[2].Weigh(80)
		}, []int{0, 1}, 80},
		{"one who is held exceeds it alone", []int64{30, 30, 40}, func(l *Lot[int], ws []Waiter[int]) {
			ws[0].Leave()
			ws[1].Leave()
			ws[2].Weigh(101)
		}, []int{0, 1}, 101},
		{"held ones exceed it, and one leaves", []int64{60, 60, 60}, func(l *Lot[int], ws []Waiter[int]) {
			ws[0].Leave()
		}, []int{0}, 120},
		{"until they do not", []int64{60, 60, 60}, func(l *Lot[int], ws []Waiter[int]) {
			for i := range ws {
				ws[i].Leave()
			}
		}, []int{0, 1}, 60},
		{"idle and too heavy alone", []int64{30, 30, 101}, func(l *Lot[int], ws []Waiter[int]) {
			for i := range ws {
				ws[2-i].Leave()
			}
		}, []int{2}, 60},
		{"too heavy alone, once it is idle", []int64{30, 30, 40}, func(l *Lot[int], ws []Waiter[int]) {
			r := ws[2].Resource
			for i := range ws {
				ws[i].Leave()
			}
			r.Weigh(101)
		}, []int{2}, 60},
		{"lighter", []int64{60, 60, 60}, func(l *Lot[int], ws []Waiter[int]) {
			ws[0].Weigh(0)
			ws[1].Weigh(1)
			ws[0].Leave()
			ws[1].Leave()
		}, nil, 61},
		{"who comes back is not the longest idle", []int64{40, 40, 20}, func(l *Lot[int], ws []Waiter[int]) {
			ws[0].Leave()
			ws[1].Leave()
			w := again(l, 0)
			w.Leave()
			ws[2].Weigh(21)
		}, []int{1}, 61},
		{"weighed after it was forgotten", []int64{101}, func(l *Lot[int], ws []Waiter[int]) {
			r := ws[0].Resource
			ws[0].Leave()
			r.Weigh(50)
			r.Weigh(200)
		}, []int{0}, 0},
		{"known anew", []int64{101}, func(l *Lot[int], ws []Waiter[int]) {
			old := ws[0].Resource
			ws[0].Leave()
			ws[0] = again(l, 0)
			ws[0].Weigh(7)
			old.Weigh(50)
		}, []int{0}, 7},
		{"rekeyed", []int64{30, 30}, func(l *Lot[int], ws []Waiter[int]) {
			l.Rekey(ws[0].Resource, Key{9})
			ws[0].Leave()
		}, nil, 60},
		{"rekeyed to a taken key", []int64{30, 30}, func(l *Lot[int], ws []Waiter[int]) {
			r := ws[0].Resource
			l.Rekey(r, Key{1})
			if l.Memory() != 60 {
				t.Error("it counts no more, but is kept")
			}
			r.Weigh(50)
			ws[0].Leave()
			r.Weigh(50)
		}, []int{0}, 30},
		{"rekeyed to a taken key while idle", []int64{30, 30}, func(l *Lot[int], ws []Waiter[int]) {
			r := ws[0].Resource
			ws[0].Leave()
			l.Rekey(r, Key{1})
			r.Weigh(50)
		}, []int{0}, 30},
		{"drained", []int64{30, 30, 40}, func(l *Lot[int], ws []Waiter[int]) {
			ws[0].Leave()
			l.Drain()
			ws[1].Weigh(200) // is kept as long as somebody is there
			ws[2].Leave()
		}, []int{0, 2}, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, ws, forgotten := heavy(c.weights...)
			c.do(l, ws)
			if !slices.Equal(*forgotten, c.forgotten) || l.Memory() != c.sum {
				t.Errorf("%v are forgotten, and %d bytes are left; want %v and %d", *forgotten, l.Memory(), c.forgotten, c.sum)
			}
			for i := range ws {
				ws[i].Leave()
			}
			l.Drain()
			empty(t, l)
			slices.Sort(*forgotten)
			if want := []int{0, 1, 2}[:len(ws)]; !slices.Equal(*forgotten, want) {
				t.Errorf("%v are forgotten in the end", *forgotten)
			}
		})
	}
}

// TestParkOverMemory: nobody is parked while what is waited for exceeds the bound, and
// everything parked stays parked (contract 7.9).
func TestParkOverMemory(t *testing.T) {
	l, ws, _ := heavy(40, 40, 20)
	ws[1].Leave()
	park := func(i int, want error) {
		t.Helper()
		if err := ws[i].Park("", false); err != want {
			t.Errorf("got %v; want %v", err, want)
		}
	}
	park(0, nil)
	ws[0].Weigh(90) // the idle one makes room, but not enough
	if len(l.Resources()) != 2 {
		t.Error("the idle one is still known")
	}
	park(2, ErrMemory)
	if !ws[0].Parked() || ws[2].Parked() || l.Parked() != 1 {
		t.Errorf("%d are parked", l.Parked())
	}
	park(0, nil) // it is
	ws[0].Weigh(80)
	park(2, nil)
	ws[0].Leave()
	ws[2].Leave()
	l.Drain()
	empty(t, l)
}

// TestMemoryUnlisted: what a resource keeps counts although there is no room to list it.
func TestMemoryUnlisted(t *testing.T) {
	l := New[int](Limits{Resources: 1, Memory: 100, Linger: time.Hour})
	held, unlisted := l.Join(Key{1}, at("/held")), l.Join(Key{2}, orders)
	held.Weigh(60)
	r := unlisted.Resource
	r.Weigh(60)
	if err := held.Park("", false); err != ErrMemory || l.Memory() != 120 {
		t.Errorf("got %v, %d bytes", err, l.Memory())
	}
	unlisted.Leave()
	r.Weigh(60)
	if err := held.Park("", false); err != nil || l.Memory() != 60 {
		t.Errorf("got %v, %d bytes", err, l.Memory())
	}
	held.Leave()
	l.Drain()
	empty(t, l)
}

// TestMemoryUnbounded: the sum is kept, and nobody has to go.
func TestMemoryUnbounded(t *testing.T) {
	l := New[int](Limits{Linger: time.Hour})
	w := l.Join(Key{1}, orders)
	w.Weigh(1 << 40)
	if err := w.Park("", false); err != nil {
		t.Error(err)
	}
	w.Leave()
	if l.Len() != 1 || l.Memory() != 1<<40 {
		t.Errorf("%d resources of %d bytes", l.Len(), l.Memory())
	}
	l.Drain()
	empty(t, l)
}

// TestWeighWhereALingerEnds: in whatever order a resource is weighed, evicted, joined
// anew and forgotten by its linger, its weight is taken off the sum once.
func TestWeighWhereALingerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{Resources: 1, Memory: 100, Linger: time.Second})
		for i := range 500 {
			w := l.Join(Key{byte(i)}, orders)
			r := w.Resource
			w.Weigh(60)
			w.Leave()
			time.Sleep(time.Second)
			var all sync.WaitGroup
			all.Go(func() { r.Weigh(40) })
			all.Go(func() { r.Weigh(101) })
			all.Go(func() {
				w := l.Join(Key{byte(i / 2)}, orders) // the same, where i is 0
				w.Weigh(60)
				w.Leave()
			})
			all.Wait()
			time.Sleep(time.Second)
			synctest.Wait()
			empty(t, l)
		}
	})
}
