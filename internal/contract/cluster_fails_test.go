package contract_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// fails has the backend of a site fail: the site can not reach it, or it fails for all.
func (f *flock) fails(s *site) {
	s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
		f.reads.Add(1)
		w.WriteHeader(http.StatusBadGateway)
		return nil
	})
}

// contract 14.3 and 7.7: a Caddy that can not reach the backend, where others can, does not go
// on to check for these.
func TestClusterHandsOnFailing(t *testing.T) {
	for which := range 3 {
		t.Run(fmt.Sprint("for ", which+1), virtual(func(t *testing.T) {
			f := newFlock(t, 4, "hold 5m 0%")
			all := f.park()
			settle(3 * time.Second)
			for range which + 1 { // as many can not, one after the other
				f.fails(f.sites[f.holder()])
				settle(6 * time.Second)
			}
			f.value.Add(1)
			settle(1300 * time.Millisecond)
			f.wantAll(all)
			reads := f.reads.Load()
			all = f.park()
			settle(10 * time.Second)
			if n := f.reads.Load() - reads; n > 14 {
				t.Errorf("%d checks in 10s; want one each second, and one for who comes at most", n)
			}
			for _, c := range all {
				c.mustWait()
			}
			leave(all)
		}))
	}
}

// contract 7.7: a backend that fails for all of them is asked once per pause, whoever asks,
// and as soon as it is back all hear of it.
func TestClusterOutageOfAll(t *testing.T) {
	for _, n := range []int{1, 2, 5} {
		t.Run(fmt.Sprint(n, " sites"), virtual(func(t *testing.T) {
			f := newFlock(t, n, "hold 5m 0%")
			all := f.park()
			settle(3 * time.Second)
			for _, s := range f.sites {
				f.fails(s)
			}
			reads, calls := f.reads.Load(), f.board.count()
			settle(2 * time.Minute)
			for tries := 10; len(f.holders()) != 1 && tries > 0; tries-- {
				settle(100 * time.Millisecond) // they may be just handing it on
			}
			f.holder()
			// Pauses of 1, 1.5, 2.25, 3.4, 5.1, 7.6 and 10 seconds, and a tenth at most.
			if got := f.reads.Load() - reads; got < 14 || got > 18 {
				t.Errorf("%d checks in two minutes; want one per pause", got)
			}
			if got := f.board.count() - calls; got > 18*(3*n+6) {
				t.Errorf("%d calls in two minutes; want a few for each check", got)
			}
			f.value.Add(1)
			for _, s := range f.sites {
				s.backend.say(f.says(s))
			}
			settle(12 * time.Second)
			f.wantAll(all)
			all = f.park()
			settle(2 * time.Second)
			f.holder()
			leave(all)
		}))
	}
}
