package lot

import (
	"testing"
	"time"
)

// What lingers makes room, and uses nothing of a bound.
func TestUsed(t *testing.T) {
	limits := Limits{Parked: 9, PerClient: 8, Resources: 7, Memory: 1000, Linger: time.Hour}
	l := New[int](limits)
	if got := l.Limits(); got != limits {
		t.Errorf("got limits %+v", got)
	}
	wants := func(what string, want Limits) {
		t.Helper()
		want.Linger = time.Hour
		if got := l.Used(); got != want {
			t.Errorf("%s: got %+v; want %+v", what, got, want)
		}
	}
	wants("at first", Limits{})
	a, b, c := l.Join(Key{1}, Name{Path: "/a"}), l.Join(Key{1}, Name{Path: "/a"}), l.Join(Key{2}, Name{Path: "/c"})
	for _, w := range []*Waiter[int]{&a, &b} {
		if err := w.Park("one", false); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Park("two", false); err != nil {
		t.Fatal(err)
	}
	if err := l.Reserve("one"); err != nil {
		t.Fatal(err)
	}
	a.Weigh(100)
	c.Weigh(20)
	wants("parked", Limits{Parked: 4, PerClient: 3, Resources: 2, Memory: 120})
	c.Leave()
	l.Unreserve("one")
	wants("one lingers", Limits{Parked: 2, PerClient: 2, Resources: 1, Memory: 100})
	a.Leave()
	b.Leave()
	wants("all linger", Limits{})
}
