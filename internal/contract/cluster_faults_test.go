package contract_test

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
)

// contract 14.1: wake-ups reach who checks, however many come at once through another one.
func TestClusterManyWakes(t *testing.T) {
	virtual(func(t *testing.T) {
		const n = 600
		f := newFlock(t, 2, steady+"interval 20s")
		path := func(i int) string { return fmt.Sprint("/orders/", i) }
		var all []*client
		for i := range n {
			all = append(all, f.sites[0].get(path(i), `If-None-Match: "1"`))
		}
		settle(2 * time.Second)
		if held := f.sites[0].seen.Cluster.Leases(); held != n {
			t.Fatalf("%d leases; want %d", held, n)
		}
		f.value.Add(1)
		reads := f.reads.Load()
		for i := range n {
			f.sites[1].seen.Cluster.Tell("", path(i), false)
			f.sites[1].seen.Cluster.Tell("", path(i), false) // which is one
		}
		settle(2 * time.Second) // long before the interval is over
		for _, c := range all {
			if c.waits() {
				t.Fatalf("%s waits; want it to be woken", c.r.RequestURI)
			}
			c.wants("200 changed 2")
		}
		if got := f.reads.Load() - reads; got > n+n/10 {
			t.Errorf("%d checks for %d wake-ups", got, n)
		}
	})(t)
}

// numbers are those that a message has behind its name: from, token, seq, the two of the
// state, next and pause.
func (n note) numbers() (head string, numbers [7]uint64, rest string) {
	size, at := binary.Uvarint([]byte(n.message[2:]))
	head, rest = n.message[:2+at+int(size)], n.message[2+at+int(size):]
	for i := range numbers {
		var at int
		numbers[i], at = binary.Uvarint([]byte(rest))
		rest = rest[at:]
	}
	return head, numbers, rest
}

// contract 14.2: who can write to the board without knowing a secret has nobody wait for a
// day.
func TestClusterForgedPause(t *testing.T) {
	virtual(func(t *testing.T) {
		f := newFlock(t, 3, "hold 5m 0%")
		f.park()
		f.board.mu.Lock()
		f.board.notes = true
		f.board.mu.Unlock()
		settle(3 * time.Second)
		f.board.mu.Lock()
		last := f.board.said[len(f.board.said)-1]
		head, numbers, rest := last.numbers()
		numbers[2] += 1000 // later than all that is said of that token
		numbers[5], numbers[6] = 24*3600*1000, 24*3600*1000
		forged := []byte(head)
		for _, n := range numbers {
			forged = binary.AppendUvarint(forged, n)
		}
		f.board.say(last.name, append(forged, rest...))
		f.board.mu.Unlock()
		settle(time.Second)
		first := f.holder()
		defer f.sites[first].link.pause()()
		settle(2 * time.Minute)
		next := f.sites[(first+1)%3]
		if _, here := next.seen.Cluster.By(f.resource(next)); !here {
			next = f.sites[(first+2)%3]
		}
		if _, here := next.seen.Cluster.By(f.resource(next)); !here {
			t.Error("nobody has taken over from who was stopped")
		}
	})(t)
}

// resource is the one that a site has.
func (f *flock) resource(s *site) (r *poll.Resource) {
	f.t.Helper()
	list := s.lot.Resources()
	if len(list) != 1 {
		f.t.Fatalf("%d resources; want 1", len(list))
	}
	return list[0]
}

// contract 14.2 and 7.3: fields of an answer are as new at all of them as its body, though
// they are no part of its version.
func TestClusterHandsOnFields(t *testing.T) {
	virtual(func(t *testing.T) {
		f := newFlock(t, 3, "hold 5m 0%")
		var stage atomic.Int64
		var each atomic.Int64
		f.say(func(w http.ResponseWriter, r *http.Request) error {
			h := w.Header()
			h.Set("ETag", `"1"`)
			h.Set("X-Stage", fmt.Sprint(stage.Load()))
			h.Set("X-Request-Id", fmt.Sprint(each.Add(1)))
			h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
			if r.Header.Get("If-None-Match") == `"1"` {
				w.WriteHeader(http.StatusNotModified)
				return nil
			}
			_, err := fmt.Fprint(w, "1")
			return err
		})
		all := f.park()
		settle(12 * time.Second) // in which it turns out what is another one each time
		calls := f.board.count()
		settle(10 * time.Second)
		if n := f.board.count() - calls; n > 30 {
			t.Errorf("%d calls in 10s; want 3 each second at most, although a field is another one each time", n)
		}
		want := func() {
			t.Helper()
			for i, s := range f.sites {
				c := s.get("/orders", "Prefer: wait=20").answer()
				if got := c.field("X-Stage"); got != fmt.Sprint(stage.Load()) {
					t.Errorf("site %d: got X-Stage %q; want %d", i, got, stage.Load())
				}
			}
		}
		want()
		stage.Add(1)
		settle(1300 * time.Millisecond)
		want()
		// What changes twice in a row is known everywhere once it has come to rest.
		for range 2 {
			stage.Add(1)
			settle(1100 * time.Millisecond)
		}
		settle(8 * time.Second)
		want()
		for _, c := range all {
			c.mustWait()
		}
	})(t)
}

// contract 14.5: what was set on the way to us may be a credential, and no digest of it is on
// the board, unless that keys it; any other is there with what nobody can guess.
func TestClusterDigests(t *testing.T) {
	for name, fields := range map[string][]string{
		"of who has credentials": {"Authorization: Bearer abc"},
		"of who has none":        nil,
	} {
		t.Run(name, virtual(func(t *testing.T) {
			f := newFlock(t, 2, steady+"public")
			f.board.notes = true
			for _, s := range f.sites {
				s.before = func(_ http.ResponseWriter, r *http.Request) {
					r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("http.regexp.token.1", "abc")
				}
				says := f.says(s)
				s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
					_, _ = r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Get("http.regexp.token.1")
					w.Header().Set("Vary", "X-Shop")
					return says(w, r)
				})
			}
			var all []*client
			for _, s := range f.sites {
				all = append(all, s.get("/orders", append(fields, "X-Shop: 7", `If-None-Match: "1"`)...))
			}
			settle(3 * time.Second)
			for range 3 {
				f.value.Add(1)
				settle(1500 * time.Millisecond)
				f.wantAll(all)
				all = all[:0]
				for _, s := range f.sites {
					all = append(all, s.get("/orders", append(fields, "X-Shop: 7", "If-None-Match: "+strconv.Quote(fmt.Sprint(f.value.Load())))...))
				}
				settle(time.Second)
			}
			if shared := len(f.holders()) > 0; shared != (fields == nil) {
				t.Errorf("shared: %v; want %v", shared, fields == nil)
			}
			state := f.resource(f.sites[0]).Snapshot().State
			if state.Varied == (lot.Key{}) || state.Variation.Equal(new(share.Variation)) {
				t.Fatal("the answer depends on nothing")
			}
			f.board.mu.Lock()
			defer f.board.mu.Unlock()
			for _, n := range f.board.said {
				if strings.Contains(n.message, string(state.Varied[:])) || fields != nil && strings.Contains(n.message, "http.regexp") {
					t.Errorf("said: %q", n.message)
				}
			}
		}))
	}
}

// contract 14.3: a board that has forgotten everything gives the same token out once more.
// Neither its holder nor its states are those of before.
func TestClusterSameTokenAgain(t *testing.T) {
	virtual(func(t *testing.T) {
		f := newFlock(t, 2, "hold 5m 0%")
		first := f.sites[0].get("/orders", `If-None-Match: "1"`)
		settle(2 * time.Second)
		if f.holder() != 0 {
			t.Fatal("the only one who waits has no lease")
		}
		other := f.sites[1].get("/orders", `If-None-Match: "1"`)
		settle(5 * time.Second)
		f.board.mu.Lock()
		f.board.loses = func() bool { return true }
		f.board.mu.Unlock()
		first.leave()
		settle(300 * time.Millisecond)
		f.board.mu.Lock()
		clear(f.board.kept)
		clear(f.board.tokens)
		f.board.mu.Unlock()
		f.value.Add(1)
		f.sites[0].get("/orders", "Prefer: wait=20").wants("200 answered 2")
		first = f.sites[0].get("/orders", `If-None-Match: "2"`)
		f.board.mu.Lock()
		f.board.loses = func() bool { return false }
		f.board.mu.Unlock()
		settle(5 * time.Second)
		other.wants("200 changed 2")
		for range 3 {
			f.sites[1].get("/orders", "Prefer: wait=20").wants("200 answered 2")
			settle(2 * time.Second)
		}
		first.mustWait()
		f.holder()
	})(t)
}

// contract 14.5: what a variable was made of may be a credential, too.
func TestClusterVariables(t *testing.T) {
	for name, test := range map[string]struct {
		variable string
		fields   []string
		shared   bool
	}{
		"of who has credentials":        {"tenant", []string{"Authorization: Bearer abc", `If-None-Match: "1"`}, false},
		"of who has none":               {"tenant", []string{`If-None-Match: "1"`}, true},
		"of Caddy, who has credentials": {"client_ip", []string{"Authorization: Bearer abc", `If-None-Match: "1"`}, true},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			f := newFlock(t, 2, steady+"public")
			for _, s := range f.sites {
				s.before = func(_ http.ResponseWriter, r *http.Request) { caddyhttp.SetVar(r.Context(), test.variable, "abc") }
				s.get("/orders", test.fields...)
			}
			settle(3 * time.Second)
			if shared := len(f.holders()) > 0; shared != test.shared {
				t.Errorf("shared: %v; want %v", shared, test.shared)
			}
		}))
	}
}
