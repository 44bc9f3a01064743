package contract_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	longpoll "github.com/caddy-longpoll/caddy-longpoll"
)

func init() {
	caddy.RegisterModule(new(spyWaker))
	caddy.RegisterModule(new(pathSpyWaker))
	caddy.RegisterModule(new(noWaker))
}

// spyWaker notes what it is asked to watch.
type spyWaker struct {
	mu      sync.Mutex // protects watches
	watches []*spyWatch
}

// spyWatch is one resource that a spyWaker watches.
type spyWatch struct {
	asks  string
	wake  func()
	stops atomic.Int32
}

func (*spyWaker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.long_poll.wakers.spy", New: func() caddy.Module { return new(spyWaker) }}
}

func (*spyWaker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume waker name
	return nil
}

// Provision tells the site of its guest.
func (s *spyWaker) Provision(ctx caddy.Context) error {
	tellSite(ctx, s)
	return nil
}

func tellSite(ctx caddy.Context, guest caddy.Module) {
	if s, ok := ctx.Value(siteKey).(*site); ok {
		s.spies = append(s.spies, guest)
	}
}

func (s *spyWaker) Watch(repl *caddy.Replacer, wake func()) (stop func()) {
	w := &spyWatch{wake: wake, asks: repl.ReplaceAll(
		"{http.request.method} {http.request.host} {http.request.uri.path} {http.request.uri.query.id} {http.request.header.X-Tenant} {tenant}", "-")}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watches = append(s.watches, w)
	return func() { w.stops.Add(1) }
}

func (s *spyWaker) watched() []*spyWatch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watches
}

// pathSpyWaker is a spyWaker whose messages name paths.
type pathSpyWaker struct {
	spyWaker
	wakePath func(string)
}

func (*pathSpyWaker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.long_poll.wakers.path_spy", New: func() caddy.Module { return new(pathSpyWaker) }}
}

// Provision tells the site of its guest.
func (s *pathSpyWaker) Provision(ctx caddy.Context) error {
	tellSite(ctx, s)
	return nil
}

func (s *pathSpyWaker) OnPath(wake func(path string)) {
	wake("/too/early") // which the contract allows
	s.wakePath = wake
}

func (s *pathSpyWaker) Watch(repl *caddy.Replacer, wake func()) (stop func()) {
	if s.wakePath == nil {
		panic("Watch is called before OnPath")
	}
	return s.spyWaker.Watch(repl, wake)
}

// noWaker is in the namespace, but no Waker.
type noWaker struct{}

func (noWaker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.long_poll.wakers.none", New: func() caddy.Module { return new(noWaker) }}
}

// spy is a waker of the site.
func (s *site) spy(i int) *spyWaker {
	if p, ok := s.spies[i].(*pathSpyWaker); ok {
		return &p.spyWaker
	}
	return s.spies[i].(*spyWaker)
}

func TestWakerWatches(t *testing.T) {
	t.Run("each resource once", virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake spy\nwake spy")
		for range 100 {
			s.get("/orders", has("1")).mustWait()
			s.get("/orders/42", has("1")).mustWait()
		}
		for i := range 2 {
			if n := len(s.spy(i).watched()); n != 2 {
				t.Errorf("waker %d got %d resources to watch; want 2", i, n)
			}
		}
	}))

	t.Run("with the placeholders of the request", virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake spy\nstrip_query since")
		s.before = setTenant
		s.get("http://One.example/a%20b?id=7&since=3", has("1"), "X-Tenant: blue").mustWait()
		want := "GET one.example /a b 7 blue blue"
		if got := s.spy(0).watched()[0].asks; got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}))

	t.Run("until it is forgotten", virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake spy\nlinger 30s")
		c := s.get("/orders", has("1"))
		c.mustWait()
		c.leave()
		settle(29 * time.Second)
		c = s.get("/orders", has("1"))
		c.mustWait()
		c.leave()
		settle(29 * time.Second)
		w := s.spy(0).watched()
		if len(w) != 1 || w[0].stops.Load() != 0 {
			t.Fatalf("got %d watches, the first one stopped %d times; want one that lasts", len(w), w[0].stops.Load())
		}
		settle(2 * time.Second)
		if n := w[0].stops.Load(); n != 1 {
			t.Errorf("stopped %d times; want once", n)
		}
		s.wantsChecks("", w[0].wake) // a message may be on its way still

		c = s.get("/orders", has("1"))
		c.mustWait()
		if n := len(s.spy(0).watched()); n != 2 {
			t.Errorf("got %d watches; want a second one", n)
		}
	}))

	t.Run("until a reload", virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake spy")
		waits := s.get("/waits", has("1"))
		waits.mustWait()
		lingers := s.get("/lingers", has("1"))
		lingers.mustWait()
		lingers.leave()
		synctest.Wait()
		if err := s.Cleanup(); err != nil {
			t.Error(err)
		}
		waits.wants("304 drained")
		synctest.Wait()
		for _, w := range s.spy(0).watched() {
			if n := w.stops.Load(); n != 1 {
				t.Errorf("%s: stopped %d times; want once", w.asks, n)
			}
			w.wake()
		}
	}))

	t.Run("nothing that is only passed through", virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake spy")
		s.post("/orders", "x").wants("200 bypassed")
		if n := len(s.spy(0).watched()); n != 0 {
			t.Errorf("got %d watches; want none", n)
		}
	}))
}

func setTenant(_ http.ResponseWriter, r *http.Request) {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Set("tenant", r.Header.Get("X-Tenant"))
}

func TestWakerWakes(t *testing.T) {
	t.Run("what it watches", virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake spy")
		all := []*client{s.get("/orders", has("1")), s.get("/orders", has("1"))}
		other := s.get("/items", has("1"))
		other.mustWait()
		for _, w := range s.spy(0).watched() {
			if !strings.Contains(w.asks, "/orders") {
				continue
			}
			before := counter(t, "wakes_total", "spy")
			s.wantsChecks("/orders", w.wake)
			s.backend.say(tagged("2"))
			s.wantsChecks("/orders", w.wake)
			if n := counter(t, "wakes_total", "spy") - before; n != 2 {
				t.Errorf("counted %d wake-ups; want 2", n)
			}
		}
		for _, c := range all {
			c.wants("200 changed state 2").within(0, 0)
		}
		other.mustWait()
	}))

	t.Run("and one more check, if one is in flight", virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake spy")
		c := s.get("/orders", has("1"))
		c.mustWait()
		wake := s.spy(0).watched()[0].wake
		s.backend.say(sequence(slowly(2*time.Second, tagged("1")), tagged("2")))
		wake()
		settle(time.Second)
		for range 10_000 {
			wake() // never blocks
		}
		c.wants("200 changed state 2").within(2*time.Second, 2*time.Second)
		if n := s.backend.checks(); n != 3 {
			t.Errorf("got %d checks; want the first, the one in flight and one more", n)
		}
	}))

	t.Run("what comes back", virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake spy")
		c := s.get("/orders", has("1"))
		c.mustWait()
		c.leave()
		s.wantsChecks("", s.spy(0).watched()[0].wake)
		s.backend.say(tagged("2"))
		s.get("/orders", has("1")).wants("200 changed state 2").within(0, 0)
	}))
}

func TestPathWaker(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake path_spy")
		for _, target := range []string{"/orders", "/orders/?page=2", "http://two.example/orders", "/orders/42", "/"} {
			s.get(target, has("1")).mustWait()
		}
		wake := s.spies[0].(*pathSpyWaker).wakePath
		s.wantsChecks("/orders /orders/?page=2 /orders", func() { wake("/orders") })
		s.wantsChecks("/orders/42", func() { wake("/orders/42/") })
		s.wantsChecks("/", func() { wake("/") })
		s.wantsChecks("", func() { wake("/order") })
		s.wantsChecks("", func() { wake("/*") })
	})(t)
}

func TestWakeOfJSON(t *testing.T) {
	for config, want := range map[string]string{
		`[]`:                               "",
		`[{"waker": "spy"}]`:               "",
		`[{"waker": "none"}]`:              "loading wake: module *contract_test.noWaker is not a Waker",
		`[{"waker": "carrier_pigeon"}]`:    "unknown module: http.long_poll.wakers.carrier_pigeon",
		`[{}]`:                             "loading wake",
		`[{"waker": 7}]`:                   "loading wake",
		`["spy"]`:                          "loading wake",
		`[{"waker": "spy", "loud": true}]`: `unknown field "loud"`,
		`[{"waker": "writes", "paths": ["orders"]}]`: `wake writes "orders": expected a path`,
		`[{"waker": "writes", "paths": [""]}]`:       `wake writes "": expected a path`,
	} {
		h := new(longpoll.Handler)
		if err := json.Unmarshal([]byte(config), &h.WakeRaw); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		err := h.Provision(ctx)
		if cleanErr := h.Cleanup(); cleanErr != nil {
			t.Error(cleanErr)
		}
		cancel()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v; want %q", config, err, want)
		}
	}
}
