package lot

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// BenchmarkJoinLeave is what a request costs that is answered at once: alone, so
// that the resource begins and ends to linger each time, and in company.
func BenchmarkJoinLeave(b *testing.B) {
	for _, others := range []int{0, 1} {
		b.Run(fmt.Sprint("others=", others), func(b *testing.B) {
			l := New[int](Limits{Resources: 10_000, Linger: time.Hour})
			for range others {
				w := l.Join(Key{1}, orders)
				defer w.Leave()
			}
			b.ReportAllocs()
			for b.Loop() {
				w := l.Join(Key{1}, orders)
				w.Leave()
			}
			l.Drain()
		})
	}
}

// BenchmarkPark is what a request costs that is parked, beside its goroutine.
func BenchmarkPark(b *testing.B) {
	for _, perClient := range []int{0, 100} {
		b.Run(fmt.Sprint("per_client=", perClient), func(b *testing.B) {
			l := New[int](Limits{Parked: 100_000, PerClient: perClient, Resources: 10_000, Linger: time.Hour})
			stay := l.Join(Key{1}, orders)
			stay.Watch()
			b.ReportAllocs()
			for b.Loop() {
				w := l.Join(Key{1}, orders)
				w.Watch()
				if err := w.Park("192.0.2.1", false); err != nil {
					b.Fatal(err)
				}
				w.Leave()
			}
			stay.Leave()
			l.Drain()
		})
	}
}

// BenchmarkPublish is a change, until each of those who wait for it has seen it.
func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint("waiters=", n), func(b *testing.B) {
			l := New[int](Limits{})
			w := l.Join(Key{1}, orders)
			w.Watch()
			var seen, gone sync.WaitGroup
			for range n {
				seen.Add(1)
				gone.Go(func() {
					for {
						s := w.Snapshot()
						seen.Done()
						if <-s.Changed(); l.IsDrained() {
							return
						}
					}
				})
			}
			seen.Wait()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				seen.Add(n)
				w.Begin()
				w.Publish(i, true, time.Time{})
				seen.Wait()
			}
			l.Drain()
			gone.Wait()
			w.Leave()
		})
	}
}

// BenchmarkWake is a wake-up by path among 10,000 resources, for one of them and
// for all.
func BenchmarkWake(b *testing.B) {
	const resources = 10_000
	for _, paths := range []int{resources, 1} {
		b.Run(fmt.Sprint("paths=", paths), func(b *testing.B) {
			l := New[int](Limits{Linger: time.Hour})
			for i := range resources {
				w := l.Join(Key{byte(i), byte(i >> 8)}, at(fmt.Sprint("/orders/", i%paths)))
				defer w.Leave()
			}
			b.ReportAllocs()
			for b.Loop() {
				if n := l.Wake("/orders/0", all); n != resources/paths {
					b.Fatal(n)
				}
			}
			l.Drain()
		})
	}
}
