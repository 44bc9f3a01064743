package contract_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
)

// values are the numbers that a stream has told, in the order in which it has.
func (c *client) values() (all []int) {
	c.t.Helper()
	events, _ := parseEvents(c.heard())
	for _, e := range events {
		n, err := strconv.Atoi(e.data)
		if err != nil || e.name != "" || strings.Trim(e.id, `"`) != e.data {
			c.t.Errorf("heard %v; want a number, by itself", e)
		}
		all = append(all, n)
	}
	return all
}

// leave has clients leave before their sites end, one after the other, an hour apart.
func leave(all []*client) {
	for _, c := range all {
		c.leave()
	}
}

// contract 13 and 14.1: who hears is told each change in its order, once, wherever it hears.
func TestClusterStreams(t *testing.T) {
	virtual(func(t *testing.T) {
		f := newFlock(t, 3, steady+"stream\nstream_timeout 1h")
		var all []*client
		for _, s := range f.sites {
			all = append(all, s.get("/orders", events), s.get("/orders", lines))
		}
		settle(3 * time.Second)
		f.holder() // polls and streams of both formats are of one resource
		reads := f.reads.Load()
		const n = 20
		for range n {
			f.value.Add(1)
			settle(1200 * time.Millisecond)
		}
		if got := f.reads.Load() - reads; got > n*3/2 {
			t.Errorf("%d checks for %d changes in %d seconds", got, n, n*12/10)
		}
		for i, c := range all {
			if i%2 == 1 {
				if got := strings.Count(c.heard(), "\n"); got != n+1 {
					t.Errorf("site %d: %d lines; want %d", i/2, got, n+1)
				}
				continue
			}
			got := c.values()
			if len(got) != n+1 || !slices.IsSorted(got) || got[n] != n+1 || len(slices.Compact(got)) != n+1 {
				t.Errorf("site %d: told %v; want each change once", i/2, got)
			}
		}
		leave(all)
	})(t)
}

// contract 13 and 14.3: whatever happens to who checks, to messages and to the board, no stream
// goes back, none says the same twice, and all end with what is last.
func TestClusterStreamsFaults(t *testing.T) {
	for seed := range uint64(15) {
		t.Run(fmt.Sprint(seed), virtual(func(t *testing.T) {
			dice := rand.New(rand.NewPCG(seed, 15))
			f := newFlock(t, 3, steady+"stream\nstream_timeout 1h\ninterval 300ms")
			var all []*client
			for _, s := range f.sites {
				all = append(all, s.get("/orders", events), s.get("/orders", events, `Last-Event-ID: "1"`))
			}
			var lossy atomic.Bool
			f.board.mu.Lock()
			f.board.loses = func() bool { return lossy.Load() && rand.IntN(3) == 0 }
			f.board.repeats = func() time.Duration {
				return time.Duration(rand.IntN(2)*rand.IntN(900)) * time.Millisecond
			}
			f.board.mu.Unlock()
			for range 60 {
				settle(time.Duration(dice.IntN(400)) * time.Millisecond)
				switch dice.IntN(8) {
				case 0:
					resume := f.sites[dice.IntN(3)].link.pause()
					time.AfterFunc(time.Duration(dice.IntN(2000))*time.Millisecond, resume)
				case 1:
					lossy.Store(!lossy.Load())
				case 2:
					f.board.away()
					empty := dice.IntN(2) == 0
					time.AfterFunc(time.Duration(dice.IntN(1500))*time.Millisecond, func() { f.board.back(empty) })
				case 3:
					f.sites[dice.IntN(3)].wake("/orders")
				default:
					f.value.Add(1)
				}
			}
			lossy.Store(false)
			settle(20 * time.Second)
			for i, c := range all {
				got := c.values()
				if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) || got[len(got)-1] != int(f.value.Load()) {
					t.Errorf("site %d: told %v; want it to grow to %d", i/2, got, f.value.Load())
				}
			}
			leave(all)
		}))
	}
}

// countedDoc is a document whose member n is a number, with others that come and go.
func countedDoc(n int64) string {
	doc := map[string]any{"n": n, "text": strings.Repeat("x", 300), fmt.Sprint("m", n%3): n, "list": []int64{n % 2, n % 5, n}}
	text, _ := json.Marshal(doc)
	return string(text)
}

// contract 13.8 and 14: who applies every patch has what the backend has said, from whichever
// Caddy it comes, and what a patch is made from is what the client has named.
func TestClusterDeltas(t *testing.T) {
	for _, kind := range []string{"json_patch", "merge_patch"} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprint(kind, seed), virtual(func(t *testing.T) {
				dice := rand.New(rand.NewPCG(seed, 16))
				f := newFlock(t, 3, steady+"stream\nstream_timeout 1h\ninterval 300ms\ndelta "+kind)
				f.say(func(w http.ResponseWriter, r *http.Request) error {
					n := f.value.Load()
					w.Header().Set("ETag", strconv.Quote(fmt.Sprint(n)))
					w.Header().Set("Content-Type", "application/json")
					if r.Header.Get("If-None-Match") == w.Header().Get("ETag") {
						w.WriteHeader(http.StatusNotModified)
						return nil
					}
					_, err := fmt.Fprint(w, countedDoc(n))
					return err
				})
				// is judges a value that a client has, and returns its number.
				is := func(value string, last int64) int64 {
					t.Helper()
					var doc struct{ N int64 }
					if err := json.Unmarshal([]byte(value), &doc); err != nil || !jsonpatch.Equal([]byte(value), []byte(countedDoc(doc.N))) {
						t.Fatalf("a client has %s, which the backend has never said", value)
					}
					if doc.N < last {
						t.Fatalf("%d after %d", doc.N, last)
					}
					return doc.N
				}
				var patches, polled int
				listen := func(i int) (hear func(move bool), end func()) {
					at, value, last, told := i, "", int64(0), 0
					c := f.sites[at].get("/orders", events)
					hear = func(move bool) {
						t.Helper()
						heard, _ := parseEvents(c.heard())
						for _, e := range heard[told:] {
							if e.name == "patch" {
								patches++
								value = patched(t, kind, value, e.data)
							} else {
								value = e.data
							}
							last = is(value, last)
							if strings.Trim(e.id, `"`) != fmt.Sprint(last) {
								t.Fatalf("id %s of %s", e.id, value)
							}
						}
						told = len(heard)
						if move && last > 0 {
							c.leave()
							at, told = (at+1)%3, 0
							c = f.sites[at].get("/orders", events, "Last-Event-ID: "+strconv.Quote(fmt.Sprint(last)))
						}
					}
					return hear, func() { c.leave() }
				}
				var all []func(bool)
				for i := range 3 {
					hear, end := listen(i)
					defer end()
					all = append(all, hear)
				}
				settle(time.Second)
				im := strings.ReplaceAll(kind, "_", "-")
				var lossy atomic.Bool
				f.board.mu.Lock()
				f.board.loses = func() bool { return lossy.Load() && rand.IntN(3) == 0 }
				f.board.mu.Unlock()
				for range 40 {
					settle(time.Duration(dice.IntN(500)) * time.Millisecond)
					switch dice.IntN(10) {
					case 0:
						lossy.Store(!lossy.Load())
					case 1:
						resume := f.sites[dice.IntN(3)].link.pause()
						time.AfterFunc(time.Duration(dice.IntN(1000))*time.Millisecond, resume)
					case 2, 3:
						f.value.Add(int64(-dice.IntN(2) + 1))
					case 4, 5: // who names an earlier one is told what is different from that
						base := max(f.value.Load()-int64(dice.IntN(3)), 1)
						p := f.sites[dice.IntN(3)].get("/orders", "Prefer: wait=2", "If-None-Match: "+strconv.Quote(fmt.Sprint(base)), "A-IM: "+im).answer()
						switch p.w.status {
						case http.StatusIMUsed:
							polled++
							if got := strings.Trim(p.field("Delta-Base"), `"`); got != fmt.Sprint(base) {
								t.Fatalf("a patch of %s to who has %d", got, base)
							}
							is(patched(t, kind, countedDoc(base), p.w.body.String()), base)
						case http.StatusOK:
							is(p.w.body.String(), base)
						}
					default:
						f.value.Add(1)
					}
					for _, hear := range all {
						hear(dice.IntN(6) == 0)
					}
				}
				lossy.Store(false)
				settle(10 * time.Second)
				f.value.Add(1)
				settle(5 * time.Second)
				for _, hear := range all {
					hear(false)
				}
				if patches == 0 {
					t.Error("no patch was told")
				}
				t.Log(patches, "patches,", polled, "of polls")
			}))
		}
	}
}

// contract 14.3 and 8: a Caddy whose places for checks are all taken by backends that hang is
// replaced, so that those at other Caddys need not wait for it.
func TestClusterMaxChecks(t *testing.T) {
	virtual(func(t *testing.T) {
		f := newFlock(t, 3, "hold 5m 0%\nmax_checks 1\ncheck_timeout 20s")
		var all []*client
		for _, s := range f.sites {
			all = append(all, s.get("/orders", `If-None-Match: "1"`))
		}
		settle(3 * time.Second)
		busy := f.holder()
		says := f.says(f.sites[busy])
		f.sites[busy].backend.say(func(w http.ResponseWriter, r *http.Request) error {
			if strings.HasPrefix(r.URL.Path, "/hangs") {
				return hung(w, r)
			}
			return says(w, r)
		})
		for i := range 3 {
			f.sites[busy].get(fmt.Sprint("/hangs/", i), `If-None-Match: "1"`)
		}
		settle(500 * time.Millisecond)
		f.value.Add(1)
		asks := f.sites[(busy+1)%3].get("/orders", "Prefer: wait=60")
		settle(4500 * time.Millisecond)
		asks.wants("200 answered 2")
		for i, c := range all {
			if i != busy {
				c.wants("200 changed 2")
			}
		}
		settle(time.Minute) // in which there is a place again, and again none
		all[busy].wants("200 changed 2")
		for i, s := range f.sites {
			if i != busy {
				s.get("/orders", `If-None-Match: "2"`)
			}
		}
		settle(time.Second)
		reads := f.reads.Load()
		settle(20 * time.Second)
		if n := f.reads.Load() - reads; n > 25 {
			t.Errorf("%d checks in 20s by three, one of which has no place for any; want one each second", n)
		}
		leave(all)
	})(t)
}
