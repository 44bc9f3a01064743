package line

import (
	"fmt"
	"math"
	"strconv"
	"sync"
	"testing"
	"time"
)

// address is who comes from it.
type address string

func (a address) Client() string { return string(a) }

func from(parts ...any) Client { return address(fmt.Sprint(parts...)) }

// many is so many clients, one after the other in time, that leave at an age.
func many(l *Line, began time.Time, n int, age, asked time.Duration) (last *Finding) {
	for i := range n {
		now := began.Add(time.Duration(i) * time.Second)
		l.See(from("192.0.2.", i))
		if f := l.Left(now, age, asked, from("192.0.2.", i), 0); f != nil {
			last = f
		}
	}
	return last
}

func TestCutIsTold(t *testing.T) {
	l, now := New(25*time.Second, true), time.Unix(1e9, 0)
	if got := l.Hold(now); got != 25*time.Second {
		t.Errorf("holds %v before anything is known", got)
	}
	found := many(l, now, 60, 20*time.Second+time.Millisecond, 0)
	if found == nil || found.Age != 20*time.Second || found.Mended || found.Share != 1 {
		t.Fatalf("found %+v", found)
	}
	if l.Cut() != found.Cut {
		t.Errorf("knows %+v; told %+v", l.Cut(), found.Cut)
	}
	for range 1000 { // nobody tries for an hour
		if got := l.Hold(found.Since.Add(tryAfter - time.Second)); got != 18*time.Second {
			t.Fatalf("holds %v", got)
		}
	}
	if l.Kept() != 18*time.Second {
		t.Errorf("keeps %v", l.Kept())
	}
	tries := 0
	for range 100 * tryOneIn {
		if l.Hold(found.Since.Add(tryAfter)) == 25*time.Second {
			tries++
		}
	}
	if tries < 40 || tries > 200 { // the chance of that is below 1e-9
		t.Errorf("%d tried of %d", tries, 100*tryOneIn)
	}
}

// Without auto a cut is known, and nothing else changes.
func TestHoldAsConfigured(t *testing.T) {
	l, now := New(25*time.Second, false), time.Unix(1e9, 0)
	if many(l, now, 60, 20*time.Second, 0) == nil {
		t.Fatal("found nothing")
	}
	if l.Hold(now) != 25*time.Second || l.Kept() != 25*time.Second {
		t.Errorf("holds %v, keeps %v", l.Hold(now), l.Kept())
	}
}

// Who asked for a wait and leaves about then has not been cut; who leaves long before its
// end has.
func TestAskedWaitIsNoCut(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, test := range []struct {
		age, asked time.Duration
		found      bool
	}{
		{10 * time.Second, 10 * time.Second, false},
		{9 * time.Second, 10 * time.Second, false},
		{12 * time.Second, 10 * time.Second, false}, // the answer was late
		{20 * time.Second, time.Minute, true},
		{4 * time.Second, 0, true},
		{time.Second, 0, false},
		{1800 * time.Millisecond, 0, false},
	} {
		if found := many(New(25*time.Second, false), now, 100, test.age, test.asked); (found != nil) != test.found {
			t.Errorf("%v, asked %v: found %+v", test.age, test.asked, found)
		}
	}
}

// Who has a site's network of IPv6 has 65,536 networks in it, and makes no cut with them.
func TestNetworkMakesNoCut(t *testing.T) {
	l, now := New(25*time.Second, true), time.Unix(1e9, 0)
	for i := range 2000 {
		at := now.Add(time.Duration(i) * 100 * time.Millisecond)
		l.See(from("192.0.2.", i%200))
		l.Ended(at, 25*time.Second)
		leaves := from("2001:db8:0:", strconv.FormatInt(int64(i), 16), "::1")
		l.See(leaves)
		if found := l.Left(at, 5*time.Second, 0, leaves, 100); found != nil {
			t.Fatalf("found %+v", found)
		}
	}
}

// A client has all addresses of its network of IPv6, and no other.
func TestOrigin(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.2", false},
		{"2001:db8::1", "2001:db8::ffff:1", true},
		{"2001:db8::1", "2001:db8:0:1::1", true},
		{"2001:db8::1", "2001:db8:1::1", false},
		{"::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
		{"no address: a", "no address: b", false},
		{"", "", true},
	} {
		if got := origin(address(test.a)) == origin(address(test.b)); got != test.same {
			t.Errorf("%s and %s: the same %v", test.a, test.b, got)
		}
	}
}

// Whatever the ages, what is kept is bounded.
func TestAgesAreBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, most := range []time.Duration{time.Millisecond, 25 * time.Second, 100 * time.Hour} {
		l := New(most, true)
		for i, age := range []time.Duration{0, -time.Hour, most, 2 * most, time.Hour, math.MaxInt64 / 2} {
			for j := range 50 {
				at := now.Add(time.Duration(i*50+j) * time.Second)
				l.Ended(at, age)
				l.Left(at, age, 0, from(j), 0)
			}
		}
		if n := len(l.now.Load().ended); n > 1300 {
			t.Errorf("hold %v: %d buckets", most, n)
		}
		if len(l.past) > rounds {
			t.Errorf("hold %v: %d rounds", most, len(l.past))
		}
	}
}

// For the race detector.
func TestAllAtOnce(t *testing.T) {
	l, now := New(25*time.Second, true), time.Now()
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				at := now.Add(time.Duration(i) * 50 * time.Millisecond)
				l.Left(at, 20*time.Second, 0, from(c, i), 0)
				l.Ended(at.Add(2*tryAfter), 25*time.Second)
				l.Hold(at)
				l.Cut()
				l.Kept()
			}
		})
	}
	wg.Wait()
}

// What a request costs that is answered.
func BenchmarkEnded(b *testing.B) {
	l, now := New(25*time.Second, true), time.Now()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Ended(now, 7*time.Second)
		}
	})
}
