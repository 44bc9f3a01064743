package contract_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// flock is several sites that share, in front of one backend whose body is a number that
// only grows.
type flock struct {
	t     *testing.T
	board *board
	sites []*site
	value atomic.Int64
	reads atomic.Int64
}

// newFlock makes n of them, with what is in the block of each.
func newFlock(t *testing.T, n int, block string) *flock {
	t.Helper()
	f := &flock{t: t, board: newBoard(t.Name())}
	f.value.Store(1)
	for range n {
		s := newSite(t, "cluster board "+strconv.Quote(t.Name())+"\n"+block)
		s.backend.say(f.says(s))
		f.sites = append(f.sites, s)
	}
	return f
}

// says is what the backend says to one site: what was read stays read while the site is
// stopped.
func (f *flock) says(s *site) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		f.reads.Add(1)
		n := f.value.Load()
		s.link.wait()
		tag := strconv.Quote(fmt.Sprint(n))
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
		fmt.Fprint(w, n)
		return nil
	}
}

// park has a client of each site wait.
func (f *flock) park() (all []*client) {
	f.t.Helper()
	for _, s := range f.sites {
		c := s.get("/orders", "If-None-Match: "+strconv.Quote(fmt.Sprint(f.value.Load())))
		c.mustWait()
		all = append(all, c)
	}
	return all
}

// holders are those that have a lease.
func (f *flock) holders() (which []int) {
	for i, s := range f.sites {
		if s.seen.Cluster.Leases() > 0 {
			which = append(which, i)
		}
	}
	return which
}

// holder is the one that has it.
func (f *flock) holder() int {
	f.t.Helper()
	which := f.holders()
	if len(which) != 1 {
		f.t.Fatalf("%v have the lease; want one", which)
	}
	return which[0]
}

func (f *flock) wantAll(all []*client) {
	f.t.Helper()
	for _, c := range all {
		c.wants(fmt.Sprintf("200 changed %d", f.value.Load()))
	}
}

// contract 14.1
func TestClusterAsksAsOne(t *testing.T) {
	t.Run("idle", virtual(func(t *testing.T) {
		f := newFlock(t, 5, steady)
		all := f.park()
		settle(5 * time.Second)
		f.holder()
		reads, calls := f.reads.Load(), f.board.count()
		settle(10 * time.Second)
		if n := f.reads.Load() - reads; n < 9 || n > 10 {
			t.Errorf("%d checks in 10s; want one each second", n)
		}
		if n := f.board.count() - calls; n > 30 {
			t.Errorf("%d calls in 10s; want 3 each second at most", n)
		}
		reads = f.reads.Load()
		f.value.Add(1)
		settle(1200 * time.Millisecond)
		f.wantAll(all)
		if n := f.reads.Load() - reads; n > 2 {
			t.Errorf("%d checks for a change; want 1", n)
		}
	}))
	t.Run("slow", virtual(func(t *testing.T) {
		f := newFlock(t, 3, steady)
		for _, s := range f.sites {
			says := f.says(s)
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				err := says(w, r)
				time.Sleep(3 * time.Second)
				return err
			})
		}
		f.value.Store(7)
		var all []*client
		for _, s := range f.sites {
			all = append(all, s.get("/orders", "Prefer: wait=20"))
		}
		settle(7 * time.Second)
		for _, c := range all {
			c.wants("200 answered 7")
		}
		if n := f.reads.Load(); n > 3 {
			t.Errorf("%d checks; want one, and one for all who have asked during it", n)
		}
	}))
}

// contract 14.3
func TestClusterReplaces(t *testing.T) {
	t.Run("stopped", virtual(func(t *testing.T) {
		f := newFlock(t, 3, steady)
		all := f.park()
		settle(3 * time.Second)
		first := f.holder()
		resume := f.sites[first].link.pause()
		f.value.Add(1)
		settle(2200 * time.Millisecond) // two intervals, their jitter, and a check
		for i, c := range all {
			if i != first {
				c.wants("200 changed 2")
			}
		}
		all = append(all[first:first+1], f.sites[(first+1)%3].get("/orders", `If-None-Match: "2"`), f.sites[(first+2)%3].get("/orders", `If-None-Match: "2"`))
		settle(time.Second)
		resume()
		settle(2 * time.Second)
		all[0].wants("200 changed 2")
		all[1].mustWait()
		all[2].mustWait()
		f.holder()
	}))
	t.Run("drained", virtual(func(t *testing.T) {
		f := newFlock(t, 3, steady+"interval 20s")
		all := f.park()
		settle(time.Second)
		first := f.holder()
		f.sites[first].drain()
		settle(100 * time.Millisecond)
		if next := f.holder(); next == first {
			t.Error("a site that is drained has the lease")
		}
		f.value.Add(1)
		for i, c := range all {
			if i != first {
				c.mustWait()
			}
		}
		settle(25 * time.Second)
		for i, c := range all {
			if i != first {
				c.wants("200 changed 2")
			}
		}
	}))
	t.Run("left alone", virtual(func(t *testing.T) {
		f := newFlock(t, 2, steady+"interval 20s")
		all := f.park()
		settle(time.Second)
		first := f.holder()
		all[first].leave()
		settle(time.Second)
		if f.holder() == first {
			t.Error("a site where nobody waits has the lease")
		}
	}))
}

// contract 14.4
func TestClusterBoardAway(t *testing.T) {
	for _, empty := range []bool{false, true} {
		t.Run(fmt.Sprint("empty ", empty), virtual(func(t *testing.T) {
			f := newFlock(t, 3, steady)
			all := f.park()
			settle(3 * time.Second)
			f.board.away()
			settle(3 * time.Second)
			for _, c := range all {
				c.mustWait()
			}
			f.value.Add(1)
			settle(1200 * time.Millisecond)
			f.wantAll(all)
			all = f.park()
			reads := f.reads.Load()
			settle(2 * time.Second)
			if n := f.reads.Load() - reads; n < 3 {
				t.Errorf("%d checks in 2s; want each to check", n)
			}
			f.board.back(empty)
			settle(4 * time.Second)
			f.holder()
			for _, c := range all {
				c.mustWait()
			}
			reads = f.reads.Load()
			settle(4 * time.Second)
			if n := f.reads.Load() - reads; n > 5 {
				t.Errorf("%d checks in 4s; want them to share again", n)
			}
			f.value.Add(1)
			settle(1200 * time.Millisecond)
			f.wantAll(all)
		}))
	}
}

// contract 14.3: of two that hold the lease one after the other, with pauses and lost
// messages in any order, no client is ever led back, or told what is older than its
// question; and what has changed is known everywhere once that is over.
func TestClusterInterleavings(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), virtual(func(t *testing.T) {
			dice := rand.New(rand.NewPCG(seed, 14))
			var mu sync.Mutex
			roll := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return dice.IntN(n)
			}
			f := newFlock(t, 3, "hold 3s\ninterval 300ms")
			for _, s := range f.sites {
				says := f.says(s)
				s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
					err := says(w, r) // what is read now is told later
					time.Sleep(time.Duration(roll(roll(400)+1)) * time.Millisecond)
					return err
				})
			}
			lossy := atomic.Bool{}
			f.board.loses = func() bool { return lossy.Load() && roll(3) == 0 }
			f.board.repeats = func() time.Duration {
				if !lossy.Load() || roll(3) > 0 {
					return 0
				}
				return time.Duration(roll(1500)) * time.Millisecond
			}
			var over atomic.Bool
			var wg sync.WaitGroup
			for range 9 {
				wg.Go(func() {
					var last int64
					for !over.Load() {
						s := f.sites[roll(3)]
						before := f.value.Load()
						var fields []string
						named := last > 0 && roll(3) > 0
						if named {
							fields = append(fields, "If-None-Match: "+strconv.Quote(fmt.Sprint(last)))
						} else {
							fields = append(fields, "Prefer: wait=2")
						}
						c := s.get("/orders", fields...)
						<-c.done
						if c.w.status == http.StatusNotModified {
							continue
						}
						got, err := strconv.ParseInt(strings.TrimSpace(c.w.body.String()), 10, 64)
						if err != nil {
							continue // the backend's error
						}
						if got < last || !named && got < before {
							t.Errorf("got %d after %d; it was %d when it was asked", got, last, before)
						}
						last = got
						time.Sleep(time.Duration(roll(20)) * time.Millisecond)
					}
				})
			}
			for range 60 {
				time.Sleep(time.Duration(roll(300)) * time.Millisecond)
				switch roll(9) {
				case 0, 1, 6, 7, 8:
					f.value.Add(1)
				case 2:
					resume := f.sites[roll(3)].link.pause()
					time.AfterFunc(time.Duration(roll(2500))*time.Millisecond, resume)
				case 3:
					lossy.Store(!lossy.Load())
				case 4:
					f.board.away()
					empty := roll(2) == 0
					time.AfterFunc(time.Duration(roll(1500))*time.Millisecond, func() { f.board.back(empty) })
				case 5:
					f.sites[roll(3)].wake("/orders")
				}
			}
			lossy.Store(false)
			time.Sleep(20 * time.Second)
			over.Store(true)
			wg.Wait()
			all := f.park()
			settle(time.Second) // of the three for which they wait
			f.holder()
			f.value.Add(1)
			settle(1700 * time.Millisecond) // a check in flight, a pause, and a check
			f.wantAll(all)
		}))
	}
}

// contract 14.1: clients that come back as soon as they are told, at their own times, cost
// the backend what they cost one Caddy.
func TestClusterCost(t *testing.T) {
	const changes = 12
	checks := make(map[int]int64)
	for _, n := range []int{1, 5} {
		t.Run(fmt.Sprint(n), virtual(func(t *testing.T) {
			f := newFlock(t, n, "hold 8s 50%")
			for _, s := range f.sites {
				says := f.says(s)
				s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
					err := says(w, r)
					time.Sleep(5 * time.Millisecond)
					return err
				})
			}
			var over atomic.Bool
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() {
					last := "1"
					for !over.Load() {
						c := f.sites[i%n].get("/orders", `If-None-Match: "`+last+`"`)
						<-c.done
						if c.w.status == http.StatusOK {
							last = c.w.body.String()
						}
						time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
					}
				})
			}
			time.Sleep(10 * time.Second)
			reads, calls, began := f.reads.Load(), f.board.count(), time.Now()
			for range changes {
				time.Sleep(9700 * time.Millisecond)
				f.value.Add(1)
			}
			checks[n] = f.reads.Load() - reads
			t.Logf("%d checks and %d calls within %v and %d changes", checks[n], f.board.count()-calls, time.Since(began), changes)
			over.Store(true)
			wg.Wait()
		}))
	}
	if checks[5] > checks[1]*105/100+changes/2 {
		t.Errorf("%d checks by five; want those of one, %d", checks[5], checks[1])
	}
}
