package contract_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Section 8 of the contract: what the backend is asked, and how often.

func TestCheckRequest(t *testing.T) {
	t.Run("with an empty query", virtual(func(t *testing.T) {
		s := newSite(t, steady+"strip_query index")
		for target, want := range map[string]string{"/a?": "/a?", "/a": "/a", "/a?index=1": "/a"} {
			s.get(target, waits(5)).wants("200 answered state 1")
			if got := s.backend.last().uri; got != want {
				t.Errorf("a check for %s asks for %s; want %s", target, got, want)
			}
		}
	}))

	t.Run("without what is the client's own", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("7"))
		s.get("http://a.example/x%2Fy?q=1&q=2",
			"If-None-Match: \"1\"", "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT", "If-Range: x", "Prefer: wait=5", "Wait: 5",
			"Connection: X-Hop, close", "X-Hop: 1", "Keep-Alive: 5", "Proxy-Connection: x", "TE: trailers", "Trailer: X", "Expect: 100-continue",
			"Authorization: Basic x", "Cookie: a=b", "Cookie: c=d", "Accept: application/json", "Accept-Encoding: gzip", "Accept-Language: en",
			"X-Forwarded-For: 192.0.2.9", "User-Agent: test", "X-Custom: y",
		).wants("200 answered state 7")
		got := s.backend.last()
		want := http.Header{
			"Authorization": {"Basic x"}, "Cookie": {"a=b", "c=d"}, "Accept": {"application/json"}, "Accept-Encoding": {"gzip"},
			"Accept-Language": {"en"}, "User-Agent": {"test"}, "X-Custom": {"y"},
		}
		for name := range got.header {
			if !slices.Equal(got.header[name], want[name]) {
				t.Errorf("got %s %q; want %q", name, got.header[name], want[name])
			}
			delete(want, name)
		}
		if len(want) > 0 {
			t.Errorf("got none of %v", want)
		}
		if got.method != "GET" || got.host != "a.example" || got.uri != "/x%2Fy?q=1&q=2" {
			t.Errorf("got %s %s %s", got.method, got.host, got.uri)
		}
	}))

	t.Run("with the resource's own ETag", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		var cost atomic.Int32 // answers in full
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			if r.Header.Get("If-None-Match") == "" {
				cost.Add(1)
			}
			return tagged("1", "X-Count: "+strconv.Itoa(s.backend.checks()))(w, r)
		})
		c := s.get("/", has("1"))
		settle(10 * time.Second)
		if n := cost.Load(); n != 1 {
			t.Errorf("got %d answers in full for %d checks; want 1", n, s.backend.checks())
		}
		for _, e := range s.backend.exchanges()[1:] {
			if got := e.header.Get("If-None-Match"); got != `"1"` {
				t.Errorf("got If-None-Match %q; want the resource's ETag", got)
			}
		}
		// Who wants the answer gets it, with what the 304 said of it last.
		d := s.get("/", waits(5)).wants("200 answered state 1")
		d.wantsField("X-Count", strconv.Itoa(s.backend.checks()))
		c.leave()
	}))

	t.Run("with no ETag but the backend's", virtual(func(t *testing.T) {
		for _, block := range []string{"", "ignore x", "version {lp.header.X-Rev}"} {
			s := newSite(t, steady+block)
			s.backend.say(reply(200, `{"x":1}`))
			tag := s.get("/", waits(5)).field("ETag")
			s.get("/", "If-None-Match: "+tag, "Wait: 3").answer()
			for _, e := range s.backend.exchanges() {
				if got := e.header.Get("If-None-Match"); got != "" {
					t.Errorf("%q: got If-None-Match %q; want none", block, got)
				}
			}
		}
	}))

	t.Run("its body is sent again", virtual(func(t *testing.T) {
		s := newSite(t, steady+"methods POST")
		s.backend.say(reply(200, "x", `ETag: "1"`))
		s.post("/", `{"a":1}`, "Content-Type: application/json", has("1"), "Wait: 5").wants("304 expired")
		all := s.backend.exchanges()
		if len(all) < 5 {
			t.Fatalf("got %d checks", len(all))
		}
		for _, e := range all {
			if e.method != "POST" || e.body != `{"a":1}` || e.header.Get("Content-Type") != "application/json" {
				t.Errorf("got %s with %q", e.method, e.body)
			}
		}
	}))

	t.Run("strip_query", virtual(func(t *testing.T) {
		s := newSite(t, steady+"strip_query index wait a%20b\nfreshness 1h")
		s.get("/?index=7&x=1&wait=5s&x=2&inde%78=9&index").wants("200 answered state 1")
		if got := s.backend.last().uri; got != "/?x=1&x=2" {
			t.Errorf("got %s", got)
		}
		s.get("/?x=1&x=2&index=8").wants("200 answered state 1")
		if n := s.backend.checks(); n != 1 {
			t.Errorf("got %d checks; want that both are one resource", n)
		}
		s.get("/?index=1").wants("200 answered state 1")
		if got := s.backend.last().uri; got != "/" {
			t.Errorf("got %s", got)
		}
	}))

	t.Run("public", virtual(func(t *testing.T) {
		s := newSite(t, steady+"public\nfreshness 1h")
		s.get("/", "Authorization: a", "Cookie: b", "X-Other: c").wants("200 answered state 1")
		got := s.backend.last().header
		if got.Get("Authorization") != "" || got.Get("Cookie") != "" || got.Get("X-Other") != "c" {
			t.Errorf("got %v", got)
		}
		s.get("/", "Authorization: other", "X-Other: c").wants("200 answered state 1")
		if n := s.backend.checks(); n != 1 {
			t.Errorf("got %d checks; want one for all", n)
		}
	}))

	t.Run("as other handlers have left the request", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.before = func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = "/api" + r.URL.Path
			r.Header.Set("X-Added", "1")
			r.Header.Del("X-Removed")
		}
		s.get("/x", "X-Removed: 1", waits(5)).wants("200 answered state 1")
		got := s.backend.last()
		if got.uri != "/api/x" || got.header.Get("X-Added") != "1" || got.header.Get("X-Removed") != "" {
			t.Errorf("got %+v", got)
		}
	}))
}

func TestIntervals(t *testing.T) {
	// watch has one client wait for d, and returns the pauses between the checks.
	watch := func(t *testing.T, s *site, d time.Duration) []time.Duration {
		n := max(0, s.backend.checks()-1)
		c := s.get("/", has("1"))
		settle(d)
		c.leave()
		c.answer()
		return s.backend.pauses()[n:]
	}
	between := func(t *testing.T, pauses []time.Duration, from, to time.Duration) {
		t.Helper()
		for _, p := range pauses {
			if p < from || p > to {
				t.Errorf("got pauses %v; want each from %v to %v", pauses, from, to)
				return
			}
		}
	}

	t.Run("one second", virtual(func(t *testing.T) {
		s := newSite(t, "hold 10m 0%")
		pauses := watch(t, s, 5*time.Minute)
		between(t, pauses, time.Second, 1100*time.Millisecond)
		// A tenth of chance, not the same each time.
		if slices.Max(pauses)-slices.Min(pauses) < 50*time.Millisecond {
			t.Errorf("got pauses from %v to %v; want them jittered", slices.Min(pauses), slices.Max(pauses))
		}
	}))

	t.Run("the pause begins when the check has ended", virtual(func(t *testing.T) {
		s := newSite(t, "hold 10m 0%")
		s.backend.say(slowly(3*time.Second, tagged("1")))
		between(t, watch(t, s, time.Minute), 4*time.Second, 4100*time.Millisecond)
	}))

	t.Run("it grows", virtual(func(t *testing.T) {
		s := newSite(t, "hold 1h 0%\ninterval 2s 10s")
		pauses := watch(t, s, 2*time.Minute)
		for i, want := range []time.Duration{2000, 3000, 4500, 6750, 10000, 10000, 10000} {
			want *= time.Millisecond
			between(t, pauses[i:i+1], want, want*11/10)
		}
		// And falls back on a change.
		s.backend.say(tagged("2"))
		s.get("/", has("1")).wants("200 changed state 2")
		n := s.backend.checks()
		c := s.get("/", has("2"))
		settle(20 * time.Second)
		pauses = s.backend.pauses()[n-1:]
		if len(pauses) < 3 {
			t.Fatalf("got pauses %v after a change", pauses)
		}
		for i, want := range []time.Duration{2000, 3000, 4500} {
			want *= time.Millisecond
			between(t, pauses[i:i+1], want, want*11/10)
		}
		c.leave()
	}))

	for name, test := range map[string]struct {
		fields []string
		from   time.Duration
	}{
		"Retry-After":            {[]string{"Retry-After: 5"}, 5 * time.Second},
		"X-Poll-Interval":        {[]string{"X-Poll-Interval: 7"}, 7 * time.Second},
		"the longer of both":     {[]string{"Retry-After: 9", "X-Poll-Interval: 7"}, 9 * time.Second},
		"shorter than interval":  {[]string{"Retry-After: 0", "X-Poll-Interval: 1"}, 2 * time.Second},
		"malformed":              {[]string{"Retry-After: soon", "X-Poll-Interval: -7"}, 2 * time.Second},
		"X-Poll-Interval a date": {[]string{"X-Poll-Interval: Sat, 01 Jan 2000 01:00:00 GMT"}, 2 * time.Second},
		"a date in the past":     {[]string{"Retry-After: Fri, 31 Dec 1999 00:00:00 GMT"}, 2 * time.Second},
		"beyond all measure":     {[]string{"Retry-After: 99999999999999999999999"}, 2 * time.Second},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, "hold 1h 0%\ninterval 2s")
			s.backend.say(tagged("1", test.fields...))
			between(t, watch(t, s, time.Minute), test.from, test.from*11/10)
		}))
	}

	t.Run("what the backend asked for once", virtual(func(t *testing.T) {
		s := newSite(t, "hold 1h 0%\ninterval 2s")
		s.backend.say(sequence(tagged("1", "Retry-After: 30"), tagged("1")))
		pauses := watch(t, s, 2*time.Minute)
		between(t, pauses[:1], 30*time.Second, 33*time.Second)
		between(t, pauses[1:], 2*time.Second, 2200*time.Millisecond)
	}))

	t.Run("a wake-up does not wait", virtual(func(t *testing.T) {
		s := newSite(t, "hold 1h 0%")
		s.backend.say(tagged("1", "Retry-After: 60"))
		c := s.get("/", has("1"))
		settle(5 * time.Second)
		s.backend.say(tagged("2"))
		s.wake("/")
		c.wants("200 changed state 2").within(5*time.Second, 5*time.Second)
	}))

	t.Run("after a while without waiters", virtual(func(t *testing.T) {
		s := newSite(t, "hold 1h 0%\ninterval 10s\nlinger 1h")
		c := s.get("/", has("1"))
		settle(time.Second)
		c.leave()
		settle(3 * time.Second)
		// Its pause is not over yet.
		c = s.get("/", has("1"))
		settle(5900 * time.Millisecond)
		if n := s.backend.checks(); n != 1 {
			t.Errorf("got %d checks in 10s; want 1", n)
		}
		settle(2 * time.Second)
		if n := s.backend.checks(); n != 2 {
			t.Errorf("got %d checks after the pause; want 2", n)
		}
		c.leave()
		settle(time.Minute)
		if n := s.backend.checks(); n != 2 {
			t.Errorf("got %d checks while nobody waits; want none", n-2)
		}
		// Now it is.
		s.get("/", has("1")).mustWait()
		if n := s.backend.checks(); n != 3 {
			t.Errorf("got %d checks; want one at once", n-2)
		}
	}))

	t.Run("resources drift apart", virtual(func(t *testing.T) {
		s := newSite(t, "hold 1h 0%")
		for i := range 50 {
			s.get(fmt.Sprint("/", i), has("1"))
		}
		settle(30 * time.Second)
		at := make(map[time.Time]int)
		for _, e := range s.backend.exchanges()[500:] {
			at[e.at]++
		}
		for _, n := range at {
			if n > 5 {
				t.Errorf("got %d checks of 50 resources in one instant", n)
			}
		}
	}))
}

func TestFreshness(t *testing.T) {
	t.Run("ten thousand without a version", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 2s")
		for range 100 {
			for range 100 {
				s.get("/")
			}
			settle(100 * time.Millisecond)
		}
		for _, c := range s.clients {
			c.wants("200 answered state 1")
		}
		if n := s.backend.checks(); n > 6 {
			t.Errorf("got %d checks in %v; want one per freshness", n, s.now())
		}
	}))

	t.Run("counts from the beginning of the check", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 2s")
		s.backend.say(slowly(1500*time.Millisecond, tagged("1")))
		s.get("/").wants("200 answered state 1")
		settle(time.Second)
		s.get("/").within(1500*time.Millisecond, 1500*time.Millisecond)
	}))

	t.Run("a client that is ahead", virtual(func(t *testing.T) {
		// It may be told what is as old as that: the operator says so.
		s := newSite(t, steady+"freshness 10s")
		s.get("/").wants("200 answered state 1")
		s.backend.say(tagged("2"))
		c := s.get("/", has("2")).answer()
		if c.outcome() != "answered" && c.outcome() != "expired" {
			t.Errorf("got %v", c)
		}
	}))

	t.Run("a failure is as fresh as an answer", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 10s")
		s.backend.say(unreachable)
		s.get("/").wants("502 failed")
		s.backend.say(tagged("1"))
		settle(9 * time.Second)
		s.get("/").wants("502 failed")
		if n := s.backend.checks(); n > 2 { // the first is tried twice
			t.Errorf("got %d checks; want that the failure is fresh", n)
		}
		settle(2 * time.Second)
		s.get("/").wants("200 answered state 1")
	}))
}

func TestProbe(t *testing.T) {
	// probed is a site with a probe that says rev, and a resource that says state.
	type probed struct {
		*site
		probe, resource atomic.Value // of caddyhttp.HandlerFunc
	}
	newProbed := func(t *testing.T, block string) *probed {
		p := &probed{site: newSite(t, steady+"probe /rev?of={path}\nversion {lp.json.rev}\n"+block)}
		p.probe.Store(reply(200, `{"rev":1}`))
		p.resource.Store(reply(200, "state 1", `ETag: "e"`))
		p.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			if r.URL.Path == "/rev" {
				return p.probe.Load().(caddyhttp.HandlerFunc)(w, r)
			}
			return p.resource.Load().(caddyhttp.HandlerFunc)(w, r)
		})
		return p
	}
	asked := func(p *probed) (probes, resources int) {
		for _, e := range p.backend.exchanges() {
			if strings.HasPrefix(e.uri, "/rev") {
				probes++
			} else {
				resources++
			}
		}
		return probes, resources
	}

	t.Run("is checked in place of the resource", virtual(func(t *testing.T) {
		p := newProbed(t, "since {header.X-Have}\nvary -X-Have\nheader X-Rev {lp.version}")
		p.get("/a%20b/%C3%BC?x", waits(5)).wants("200 answered state 1").wantsField("X-Rev", "1")
		var all []*client
		for range 20 {
			all = append(all, p.get("/a%20b/%C3%BC?x", "X-Have: 1"))
		}
		settle(10 * time.Second)
		for _, c := range all {
			c.mustWait()
		}
		if probes, resources := asked(p); probes < 10 || resources != 1 {
			t.Errorf("got %d probes and %d fetches; want one fetch", probes, resources)
		}
		if got := p.backend.last(); got.uri != "/rev?of=%2Fa+b%2F%C3%BC" || got.method != "GET" {
			t.Errorf("got probe %s %s", got.method, got.uri)
		}
		p.resource.Store(reply(200, "state 2", `ETag: "e"`))
		p.probe.Store(reply(200, `{"rev":2}`))
		for _, c := range all {
			c.wants("200 changed state 2").wantsField("X-Rev", "2")
		}
		if _, resources := asked(p); resources != 2 {
			t.Errorf("got %d fetches; want one more for all", resources)
		}
	}))

	t.Run("on_change gives the body", virtual(func(t *testing.T) {
		p := newProbed(t, "since {header.X-Have}\non_change 200 `{\"rev\":{lp.version}}`\non_timeout 304")
		c := p.get("/", "X-Have: 1")
		settle(5 * time.Second)
		p.probe.Store(reply(200, `{"rev":2}`))
		c.wants(`200 changed {"rev":2}`)
		p.get("/", "X-Have: 2").wants("304 expired ")
		p.get("/", waits(5)).wants(`200 answered {"rev":2}`)
		if _, resources := asked(p); resources != 0 {
			t.Errorf("got %d fetches; want none", resources)
		}
	}))

	t.Run("that has an ETag", virtual(func(t *testing.T) {
		p := newProbed(t, "since {header.X-Have}")
		p.probe.Store(caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			if r.Header.Get("If-None-Match") == `"p"` {
				return reply(304, "")(w, r)
			}
			return reply(200, `{"rev":1}`, `ETag: "p"`)(w, r)
		}))
		p.get("/", "X-Have: 1").wants("200 expired state 1")
		if got := p.backend.last(); got.header.Get("If-None-Match") != `"p"` {
			t.Errorf("got If-None-Match %q; want the probe's own", got.header.Get("If-None-Match"))
		}
	}))

	t.Run("with a method", virtual(func(t *testing.T) {
		p := &probed{site: newSite(t, steady+"probe HEAD /rev\nversion {lp.header.X-Rev}\nmethods POST")}
		p.backend.say(reply(200, "state", "X-Rev: 1"))
		p.post("/", "body", waits(5)).wants("200 answered state")
		all := p.backend.exchanges()
		if all[0].method != "HEAD" || all[0].uri != "/rev" || all[0].body != "" || all[1].method != "POST" || all[1].body != "body" {
			t.Errorf("got %+v", all)
		}
	}))

	t.Run("by the length of what a HEAD does not get", virtual(func(t *testing.T) {
		p := &probed{site: newSite(t, steady+"probe HEAD /rev\nversion {lp.header.Content-Length}")}
		p.backend.say(reply(200, "state", "Content-Length: 5"))
		first := p.get("/", waits(5)).wants("200 answered state").wantsField("Content-Length", "5")
		c := p.get("/", "If-None-Match: "+first.field("ETag"))
		c.mustWait()
		p.backend.say(reply(200, "states", "Content-Length: 6"))
		c.wants("200 changed states")
	}))

	for name, fails := range map[string]caddyhttp.HandlerFunc{"a 503": reply(503, "oops"), "a dead one": unreachable, "an abort": aborted} {
		t.Run("and "+name+" in its place", virtual(func(t *testing.T) {
			p := newProbed(t, "since {header.X-Have}")
			c := p.get("/", "X-Have: 1")
			settle(2 * time.Second)
			p.probe.Store(fails)
			settle(10 * time.Second)
			c.mustWait()
			p.probe.Store(reply(200, `{"rev":2}`))
			p.resource.Store(reply(200, "state 2"))
			c.wants("200 changed state 2")
		}))

		t.Run("and "+name+" for the resource", virtual(func(t *testing.T) {
			p := newProbed(t, "since {header.X-Have}")
			c := p.get("/", "X-Have: 1")
			settle(2 * time.Second)
			p.resource.Store(fails)
			p.probe.Store(reply(200, `{"rev":2}`))
			settle(8 * time.Second)
			c.mustWait()
			p.resource.Store(reply(200, "state 2"))
			c.wants("200 changed state 2")
		}))
	}

	t.Run("that holds", virtual(func(t *testing.T) {
		p := newProbed(t, "hold_while {lp.json.busy} is true")
		p.probe.Store(reply(200, `{"rev":1,"busy":true}`))
		c := p.get("/")
		settle(3 * time.Second)
		c.mustWait()
		p.probe.Store(reply(200, `{"rev":1,"busy":false}`))
		c.wants("200 changed state 1").within(3*time.Second, 4100*time.Millisecond)
	}))

	t.Run("is not older than the question", virtual(func(t *testing.T) {
		p := newProbed(t, "since {header.X-Have}\ninterval 10s")
		p.get("/", "X-Have: 1").mustWait()
		p.probe.Store(reply(200, `{"rev":2}`))
		p.resource.Store(reply(200, "state 2"))
		p.get("/", waits(5)).wants("200 answered state 2").within(0, 0)
	}))
}

// A check knows what a request has been through on its way to the handler.
func TestPlaceholdersInChecks(t *testing.T) {
	t.Run("values of the client whose check it is", virtual(func(t *testing.T) {
		s := newSite(t, steady+"on_timeout replay")
		s.before = func(w http.ResponseWriter, r *http.Request) {
			repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			repl.Set("http.auth.user.id", r.Header.Get("X-User"))
			caddyhttp.SetVar(r.Context(), "color", "blue")
		}
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			text := repl.ReplaceAll("{http.auth.user.id} {http.vars.color} {http.request.uri}", "?")
			return reply(200, text, `ETag: "1"`)(w, r)
		})
		for _, user := range []string{"ann", "bob"} {
			want := user + " blue /x"
			s.get("/x", "X-User: "+user, waits(5)).wants("200 answered " + want)
			c := s.get("/x", "X-User: "+user, has("1"))
			settle(0)
			d := s.get("/x", "X-User: "+user, has("1"))
			settle(3 * time.Second)
			c.leave()
			settle(3 * time.Second)
			d.wants("200 expired " + want)
		}
	}))
}

// Two long_poll that both match, one in front of the other: the inner one lets the
// checks of the outer one pass, and does not park them.
func TestNested(t *testing.T) {
	virtual(func(t *testing.T) {
		inner, outer := newSite(t, steady), newSite(t, steady)
		outer.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			return inner.Handler.ServeHTTP(w, r, inner.backend)
		})
		c := outer.get("/", has("1"))
		settle(3 * time.Second)
		c.mustWait()
		if n := inner.backend.checks(); n < 3 {
			t.Errorf("got %d checks in 3 s", n)
		}
		inner.backend.say(tagged("2"))
		c.wants("200 changed state 2")
	})(t)
}

// A handler between the two may wrap the response writer and hide it: the inner
// long_poll knows the check by its context.
func TestNestedBehindAWriterThatHides(t *testing.T) {
	virtual(func(t *testing.T) {
		inner, outer := newSite(t, steady), newSite(t, steady)
		outer.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			return inner.Handler.ServeHTTP(struct{ http.ResponseWriter }{w}, r, inner.backend)
		})
		c := outer.get("/", has("1"))
		settle(15 * time.Second) // longer than check_timeout
		c.mustWait()
		if n := inner.lot.Parked(); n != 0 {
			t.Errorf("got %d checks that are parked", n)
		}
		outer.wantsTold(t, nil)
		inner.backend.say(tagged("2"))
		c.wants("200 changed state 2")
	})(t)
}

// A placeholder that panics fails the check, and nothing else.
func TestPanickingPlaceholder(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "max_checks 1\nversion {test.panic}")
		s.before = func(w http.ResponseWriter, r *http.Request) {
			r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Map(func(key string) (any, bool) {
				if key == "test.panic" {
					panic("a bug in another module")
				}
				return nil, false
			})
		}
		s.get("/", waits(5)).wants("502 failed")
		s.get("/other", waits(5)).wants("502 failed").within(0, 0) // the first has given its place back
	})(t)
}

// A placeholder of another module that panics while a check is prepared neither ends
// the process nor leaves all others without checks.
func TestPlaceholderThatPanics(t *testing.T) {
	forCheck := func(t *testing.T, vary, others string) {
		s := newSite(t, steady+"linger 0s\nsince {query.v}\nstrip_query v\nversion {test.v}{lp.status}\n"+vary)
		s.before = func(_ http.ResponseWriter, r *http.Request) {
			r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Map(func(key string) (any, bool) {
				if key == "test.v" && r.Header.Get("X-Bad") != "" {
					time.Sleep(time.Second) // others come meanwhile
					panic("no such thing")
				}
				return "", key == "test.v"
			})
		}
		c := s.get("/", waits(5)) // from now on the placeholder is known to be asked for
		settle(time.Second)
		c.wants("200 answered state 1")
		bad := s.get("/?v=200", "X-Bad: yes")
		settle(time.Second / 2)
		c = s.get("/?v=200")
		settle(5 * time.Second)
		bad.wants("502 failed")
		if others == "" {
			c.mustWait()
		} else {
			c.wants(others)
		}
		s.get("/?v=200").mustWait()
	}
	t.Run("for a check that others share", virtual(func(t *testing.T) { forCheck(t, "vary -X-Bad", "502 failed") }))
	t.Run("for a check that nobody shares", virtual(func(t *testing.T) { forCheck(t, "", "") }))

	t.Run("for a waker", virtual(func(t *testing.T) {
		s := newSite(t, steady+"wake spy")
		s.before = func(_ http.ResponseWriter, r *http.Request) {
			r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Map(func(key string) (any, bool) {
				if key == "tenant" {
					panic("no such thing")
				}
				return nil, false
			})
		}
		c := s.get("/", has("1"))
		settle(5 * time.Second)
		c.mustWait()
		s.backend.say(tagged("2"))
		c.wants("200 changed state 2")
	}))
}

// Both names of our placeholders resolve in handlers behind us too (contract 2), in a check
// as in its client's own exchange: else one tag would never be that of the other.
func TestOurPlaceholdersBehind(t *testing.T) {
	const text = "{lp.request.json.a.b}|{http.long_poll.request.json.a.b}|{lp.request.form.f}|{lp.request.query_json.q.k}|{lp.status}{lp.json.v}{lp.version}|{lp.none}"
	says := func(w http.ResponseWriter, r *http.Request) error {
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		return reply(200, repl.ReplaceKnown(text, ""))(w, r)
	}
	for name, test := range map[string]struct{ method, target, body, want string }{
		"JSON":     {"POST", "/", `{"a":{"b":"x"}}`, "x|x||||{lp.none}"},
		"form":     {"POST", "/", "f=a+b", "||a b|||{lp.none}"},
		"query":    {"GET", "/?q=" + url.QueryEscape(`{"k":5}`), "", "|||5||{lp.none}"},
		"nothing":  {"GET", "/", "", "|||||{lp.none}"},
		"stripped": {"GET", "/?q=1&s=" + url.QueryEscape(`{"k":5}`), "", "|||||{lp.none}"}, // what is not compared is not carried
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"methods GET POST\nstrip_query s")
			s.backend.say(says)
			tag := s.send(newRequest(test.method, test.target, test.body, waits(5))).wants("200 answered " + test.want).field("ETag")
			if test.method == "GET" {
				s.get(test.target).wants("200 answered "+test.want).wantsField("ETag", tag)
			}
			s.send(newRequest(test.method, test.target, test.body, "If-None-Match: "+tag, waits(5))).wants("304 expired")
		}))
	}
}
