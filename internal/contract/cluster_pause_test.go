package contract_test

import (
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"
)

// contract 14.1 and 7.7: the pause that the backend asks for is all Caddys', however long it
// is.
func TestClusterRetryAfter(t *testing.T) {
	virtual(func(t *testing.T) {
		f := newFlock(t, 3, "hold 20m 0%\ninterval 1s")
		all := f.park()
		settle(3 * time.Second)
		f.say(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Retry-After", "600")
			w.WriteHeader(http.StatusServiceUnavailable)
			return nil
		})
		settle(5 * time.Second)
		reads, began := f.reads.Load(), time.Now()
		for turn := range 30 {
			if turn == 10 {
				all[f.holder()].leave() // somebody else has the lease then
				settle(5 * time.Second)
			}
			settle(15 * time.Second)
			for _, s := range f.sites {
				c := s.get("/orders", "Prefer: wait=2").wants("503 failed")
				left := int((600*time.Second - time.Since(began)).Seconds())
				if after, err := strconv.Atoi(c.field("Retry-After")); err != nil || after < left-30 || after > 2*left+120 {
					t.Errorf("Retry-After: %q when %ds are left; want these and up to half of that more", c.field("Retry-After"), left)
				}
			}
		}
		if got := f.reads.Load() - reads; got > 0 {
			t.Errorf("%d checks in the pause that the backend has asked for; want none", got)
		}
		leave(all)
	})(t)
}

// contract 14.3 and 8: who takes a lease over keeps to the pause that the backend has asked
// for.
func TestClusterPauseIsHandedOn(t *testing.T) {
	virtual(func(t *testing.T) {
		f := newFlock(t, 3, "hold 20m 0%\ninterval 1s")
		f.say(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("X-Poll-Interval", "600")
			w.Header().Set("ETag", `"1"`)
			if r.Header.Get("If-None-Match") == `"1"` {
				w.WriteHeader(http.StatusNotModified)
				return nil
			}
			_, err := w.Write([]byte("1"))
			return err
		})
		all := f.park()
		settle(3 * time.Second)
		reads := f.reads.Load()
		for range 2 {
			all[f.holder()].leave()
			settle(4 * time.Minute)
		}
		if got := f.reads.Load() - reads; got > 0 {
			t.Errorf("%d checks in the pause that the backend has asked for; want none", got)
		}
		settle(4 * time.Minute)
		if got := f.reads.Load() - reads; got != 1 {
			t.Errorf("%d checks after it; want one", got)
		}
		leave(all)
	})(t)
}

// contract 14.1 and 14.3: who takes a lease over knows who waits, so that a change that it
// finds is news to all of them, and nobody has to ask once more.
func TestClusterKnowsWhoWaits(t *testing.T) {
	virtual(func(t *testing.T) {
		f := newFlock(t, 5, "hold 5m 0%")
		all := f.park()
		settle(5 * time.Second)
		first := f.holder()
		all[first].leave()
		all = slices.Delete(all, first, first+1)
		settle(4 * time.Second)
		reads := f.reads.Load()
		f.value.Add(1)
		settle(1200 * time.Millisecond)
		f.wantAll(all)
		if n := f.reads.Load() - reads; n > 2 {
			t.Errorf("%d checks for a change; want 1", n)
		}
	})(t)
}

// contract 7.2 and 14.3: a wake-up that a Caddy has heard which is stopped, and checks for all,
// is no wake-up lost for the others, long before that one is replaced.
func TestClusterWakesInSpiteOfWhoIsStopped(t *testing.T) {
	virtual(func(t *testing.T) {
		f := newFlock(t, 3, steady+"interval 30s\nwake writes")
		all := f.park()
		settle(3 * time.Second)
		first := f.holder()
		resume := f.sites[first].link.pause()
		defer resume()
		f.value.Add(1)
		for i, s := range f.sites {
			if i != first {
				s.seen.Wake("", "/orders", false)
			}
		}
		settle(2 * time.Second)
		for i, c := range all {
			if i != first {
				c.wants("200 changed 2")
			}
		}
	})(t)
	t.Run("slow", virtual(func(t *testing.T) {
		f := newFlock(t, 3, steady+"interval 30s\nwake writes")
		for _, s := range f.sites {
			says := f.says(s)
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				time.Sleep(5 * time.Second) // much longer than anybody waits for a sign
				return says(w, r)
			})
		}
		all := f.park()
		settle(15 * time.Second)
		f.holder()
		reads := f.reads.Load()
		f.value.Add(1)
		for _, s := range f.sites {
			s.seen.Wake("", "/orders", false)
		}
		settle(12 * time.Second)
		f.wantAll(all)
		if n := f.reads.Load() - reads; n != 1 {
			t.Errorf("%d checks for a wake-up; want 1", n)
		}
	}))
}
