package contract_test

import (
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// say has the backend say the same to all sites from now on.
func (f *flock) say(says caddyhttp.HandlerFunc) {
	for _, s := range f.sites {
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			f.reads.Add(1)
			return says(w, r)
		})
	}
}

// contract 14.2 and 7.7: what has failed and works again has not failed for who comes then.
func TestClusterOutageIsOver(t *testing.T) {
	for _, handed := range []bool{false, true} {
		t.Run(fmt.Sprint("handed on ", handed), virtual(func(t *testing.T) {
			f := newFlock(t, 3, steady)
			var all []*client
			for _, s := range f.sites[:2] {
				all = append(all, s.get("/orders", `If-None-Match: "1"`))
			}
			settle(3 * time.Second)
			f.say(func(w http.ResponseWriter, r *http.Request) error {
				w.WriteHeader(http.StatusServiceUnavailable)
				return nil
			})
			settle(4 * time.Second)
			if handed {
				all[f.holder()].leave()
				settle(time.Second)
			}
			for _, s := range f.sites {
				s.backend.say(f.says(s))
			}
			settle(8 * time.Second)
			first := f.sites[2].get("/orders")
			settle(time.Second)
			first.wants("200 answered 1")
			f.sites[2].get("/orders", `If-None-Match: "1"`).mustWait()
			f.sites[2].get("/orders", "Prefer: wait=5").wants("200 answered 1")
		}))
	}
}

// contract 14.1: what one Caddy can read, the others can too, however odd it is.
func TestClusterHandsOnOddAnswers(t *testing.T) {
	for name, odd := range map[string]func(h http.Header) (status int){
		"a pause of a week":   func(h http.Header) int { h.Set("Retry-After", "604800"); return http.StatusOK },
		"a status of its own": func(http.Header) int { return 999 },
		"a control character": func(h http.Header) int { h.Set("X-Odd", "a\x01b"); return http.StatusOK },
		"a field in its own case": func(h http.Header) int {
			h["x-odd"] = []string{"a"}
			return http.StatusOK
		},
		"a long Vary": func(h http.Header) int {
			for i := range 70 {
				h.Add("Vary", fmt.Sprint("A", i))
			}
			return http.StatusOK
		},
		"a name that is none": func(h http.Header) int { h.Set("Vary", "a b"); return http.StatusOK },
	} {
		t.Run(name, virtual(func(t *testing.T) {
			f := newFlock(t, 3, steady+"on_error release")
			all := f.park()
			settle(3 * time.Second)
			f.say(func(w http.ResponseWriter, r *http.Request) error {
				status := odd(w.Header())
				w.Header().Set("ETag", `"2"`)
				w.WriteHeader(status)
				_, err := fmt.Fprint(w, "2")
				return err
			})
			settle(5 * time.Second)
			for i, c := range all {
				if c.waits() {
					t.Errorf("the client of site %d waits; want it to be told of the change", i)
				}
			}
		}))
	}
}

// contract 14.2 and 7.3: what is no part of the version is as new at all of them.
func TestClusterHandsOnBodies(t *testing.T) {
	virtual(func(t *testing.T) {
		f := newFlock(t, 3, steady+"ignore n")
		var n atomic.Int64
		f.say(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Type", "application/json")
			_, err := fmt.Fprintf(w, `{"is":"same","n":%d}`, n.Load())
			return err
		})
		var all []*client
		for _, s := range f.sites {
			etag := s.get("/orders").answer().field("ETag")
			all = append(all, s.get("/orders", "If-None-Match: "+etag))
		}
		for range 4 {
			settle(3 * time.Second)
			now := n.Add(1)
			settle(2 * time.Second)
			reads := f.reads.Load()
			for i, s := range f.sites {
				if body := s.get("/orders", "Prefer: wait=20").answer().w.body.String(); body != fmt.Sprintf(`{"is":"same","n":%d}`, now) {
					t.Errorf("site %d: got %s; want the %d that is now", i, body, now)
				}
			}
			if n := f.reads.Load() - reads; n > 3 {
				t.Errorf("%d checks for who have come one after the other at three sites", n)
			}
		}
		for _, c := range all {
			c.mustWait()
		}
		f.holder()
	})(t)
}

// contract 14.2: where what is handed on can not be read, or nothing is believed of it, each
// asks for itself.
func TestClusterSpoiltBoard(t *testing.T) {
	for name, spoil := range map[string]func(b *board){
		"what is posted": func(b *board) { b.spoils = true },
		"the tokens": func(b *board) {
			for name := range b.tokens {
				b.tokens[name] = 1 << 60
			}
			clear(b.kept)
		},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			f := newFlock(t, 3, steady)
			all := f.park()
			settle(3 * time.Second)
			f.board.mu.Lock()
			spoil(f.board)
			f.board.mu.Unlock()
			settle(2500 * time.Millisecond)
			for range 3 {
				f.value.Add(1)
				for range 8 { // those who are told first are back at once
					settle(500 * time.Millisecond)
					for i, c := range all {
						if !c.waits() {
							f.sites[i].get("/orders", "If-None-Match: "+strconv.Quote(fmt.Sprint(f.value.Load())))
						}
					}
				}
				f.wantAll(all)
				all = f.park()
			}
		}))
	}
}

// contract 14.5
func TestClusterKeysOfCredentials(t *testing.T) {
	for i, c := range []struct {
		block  string
		shared bool
	}{
		{"vary -Authorization\nkey {http.request.header.Authorization}", false},
		{"vary -Authorization\nkey {header.authorization}", false},
		{"vary -Authorization\nkey {http.auth.user.id}", false},
		{"vary -Authorization\nkey {http.request.cookie.sid}", false},
		{"vary -Authorization\nkey {http.request.header.X-Shop}", true},
	} {
		t.Run(strconv.Itoa(i), virtual(func(t *testing.T) {
			f := newFlock(t, 2, steady+c.block)
			for _, s := range f.sites {
				s.get("/orders", "Authorization: Basic YTpi", `If-None-Match: "1"`).mustWait()
			}
			settle(3 * time.Second)
			if shared := len(f.holders()) > 0; shared != c.shared {
				t.Errorf("%s: shared: %v; want %v, without a secret", c.block, shared, c.shared)
			}
		}))
	}
}

// contract 14.1: who is told what another Caddy has read has cost the backend nothing.
func TestClusterSaves(t *testing.T) {
	virtual(func(t *testing.T) {
		f := newFlock(t, 3, steady)
		all := f.park()
		settle(3 * time.Second)
		all = append(all, f.park()...) // for whom no check was made
		settle(time.Second)
		before := counter(t, "checks_saved_total", "")
		f.value.Add(1)
		settle(2 * time.Second)
		f.wantAll(all)
		if n := counter(t, "checks_saved_total", "") - before; n < 3 {
			t.Errorf("%d saved; want those 3 at least", n)
		}
	})(t)
}
