package contract_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Contract 7.4 on what answers turn out to depend on.

// numbered answers with its number, so that a shared answer is told from a second one.
func numbered(n *atomic.Int32, says func(r *http.Request) string, fields ...string) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		return reply(200, fmt.Sprint(n.Add(1), says(r)), fields...)(w, r)
	}
}

// together has polls with these fields ask at once, and returns what each was told.
func together(s *site, polls ...[]string) (told []string) {
	var all []*client
	for _, fields := range polls {
		all = append(all, s.get("/", append([]string{waits(5)}, fields...)...))
	}
	for _, c := range all {
		told = append(told, c.answer().w.body.String())
	}
	return told
}

func TestRule4PlaceholdersThatAreAskedFor(t *testing.T) {
	setting := func(s *site) {
		s.before = func(_ http.ResponseWriter, r *http.Request) {
			if tenant := r.Header.Get("Sec-Tenant"); tenant != "" {
				r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("tenant", tenant)
			}
		}
	}
	asked := func(r *http.Request) string {
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		return "for " + repl.ReplaceAll("{tenant}", "nobody")
	}
	for name, polls := range map[string][][]string{
		"two":           {{"Sec-Tenant: a"}, {"Sec-Tenant: b"}},
		"one and none":  {{"Sec-Tenant: a"}, nil},
		"none and one":  {nil, {"Sec-Tenant: a"}},
		"three and two": {{"Sec-Tenant: a"}, {"Sec-Tenant: b"}, nil, {"Sec-Tenant: a"}, {"Sec-Tenant: b"}},
	} {
		t.Run(name+", the first time too", virtual(func(t *testing.T) {
			s := newSite(t, steady)
			setting(s)
			var n atomic.Int32
			s.backend.say(slowly(time.Second, numbered(&n, asked)))
			for range 3 {
				for i, told := range together(s, polls...) {
					want := "for nobody"
					if len(polls[i]) > 0 {
						want = "for " + strings.TrimPrefix(polls[i][0], "Sec-Tenant: ")
					}
					if !strings.HasSuffix(told, want) {
						t.Errorf("poll %d with %v got %q", i, polls[i], told)
					}
				}
			}
		}))
	}

	t.Run("those who are equal share", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		setting(s)
		var n atomic.Int32
		s.backend.say(slowly(time.Second, func(w http.ResponseWriter, r *http.Request) error {
			n.Add(1)
			return tagged(asked(r))(w, r)
		}))
		var all []*client
		for i := range 100 {
			who := string(rune('a' + i%2))
			all = append(all, s.get("/", "Sec-Tenant: "+who, has("for "+who)))
		}
		settle(5 * time.Second)
		for _, c := range all {
			c.mustWait()
		}
		before := n.Load()
		settle(10 * time.Second)
		if more := n.Load() - before; more > 12 {
			t.Errorf("got %d checks of two in 10s; want one for each interval", more)
		}
	}))

	t.Run("nobody asks", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		setting(s)
		var n atomic.Int32
		s.backend.say(slowly(time.Second, numbered(&n, func(*http.Request) string { return "" })))
		told := together(s, []string{"Sec-Tenant: a"}, []string{"Sec-Tenant: b"}, nil)
		if n.Load() > 2 { // one, and one for all who came since it had begun
			t.Errorf("got %v in %d checks; want them to share", told, n.Load())
		}
	}))
}

func TestRule4BackendsVary(t *testing.T) {
	for _, test := range []struct {
		vary, field string
		shared      bool // two with other values of it, the second time
		carried     bool
	}{
		{"Accept-Language", "Accept-Language", false, true}, // compared anyway
		{"Referer", "Referer", false, true},
		{"User-Agent", "User-Agent", false, true},
		{"Sec-Ch-Ua", "Sec-Ch-Ua", false, true},
		{"X-Client-Ip", "X-Client-Ip", false, true},
		{"X-Forwarded-For", "X-Forwarded-For", false, false},
		{"Via", "Via", false, false},
		{"*", "Referer", false, false},
		{"If-None-Match", "Traceparent", true, false},
		{"Accept-Encoding", "Referer", true, false},
		{"Prefer", "Referer", true, false},
		{"", "Referer", true, false},
		{",, ,", "Referer", true, false},
	} {
		t.Run(test.vary+" and "+test.field, virtual(func(t *testing.T) {
			s := newSite(t, steady+"freshness 1h")
			var n atomic.Int32
			s.backend.say(numbered(&n, func(r *http.Request) string { return " for " + r.Header.Get(test.field) }, "Vary: "+test.vary))
			for range 2 {
				for _, who := range []string{"a", "b"} {
					told := s.get("/", test.field+": "+who).answer().w.body.String()
					if test.carried && !strings.HasSuffix(told, " for "+who) {
						t.Errorf("%s got %q", who, told)
					}
					if !test.carried && strings.HasSuffix(told, " for "+who) {
						t.Errorf("%s got %q, though nobody shares the field", who, told)
					}
				}
			}
			asked := n.Load()
			a, b := s.get("/", test.field+": a").answer().w.body.String(), s.get("/", test.field+": b").answer().w.body.String()
			if shared := a == b; shared != test.shared {
				t.Errorf("got %q and %q after %d checks; want shared %v", a, b, asked, test.shared)
			}
		}))
	}

	t.Run("with vary -field", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1h\nvary -Referer")
		var n atomic.Int32
		s.backend.say(numbered(&n, func(r *http.Request) string { return r.Header.Get("Referer") }, "Vary: Referer"))
		for range 3 {
			s.get("/", "Referer: a").wants("200 answered 1")
			s.get("/", "Referer: b").wants("200 answered 1")
		}
	}))

	t.Run("on an error", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1h")
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			return reply(404, "none for "+r.Header.Get("Referer"), "Vary: Referer")(w, r)
		})
		for range 2 {
			s.get("/", "Referer: a").wants("404 answered none for a")
			s.get("/", "Referer: b").wants("404 answered none for b")
			s.get("/").wants("404 answered none for ")
		}
	}))

	t.Run("of the parked each is told its own", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		says := func(v string) caddyhttp.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) error {
				return tagged(r.Header.Get("Referer")+v, "Vary: Referer")(w, r)
			}
		}
		s.backend.say(says("1"))
		var all []*client
		for i := range 30 {
			who := strconv.Itoa(i % 3)
			all = append(all, s.get("/", "Referer: "+who, has(who+"1")))
		}
		settle(3 * time.Second)
		for _, c := range all {
			c.mustWait()
		}
		s.backend.say(says("2"))
		for i, c := range all {
			c.wants(fmt.Sprintf("200 changed state %d2", i%3))
		}
	}))
}

func TestRule4Private(t *testing.T) {
	says := func(n *atomic.Int32) caddyhttp.HandlerFunc {
		return slowly(time.Second, numbered(n, func(r *http.Request) string { return " for " + r.Header.Get("Authorization") }, "Cache-Control: private"))
	}
	const alice, bob = "Authorization: alice", "Authorization: bob"
	for name, test := range map[string]struct {
		block  string
		polls  [][]string
		checks int32 // at most
		told   int   // different answers, at least
	}{
		"no credentials":          {"", [][]string{nil, nil, nil}, 100, 3},
		"the same":                {"", [][]string{{alice}, {alice}, {alice}}, 2, 1},
		"different":               {"", [][]string{{alice}, {bob}, {alice}, {bob}}, 4, 2},
		"some have none":          {"", [][]string{{alice}, nil, {alice}, nil}, 100, 3},
		"public, the same":        {"public", [][]string{{alice}, {alice}}, 100, 1},
		"public, different":       {"public", [][]string{{alice}, {bob}}, 100, 2},
		"public, no credentials":  {"public", [][]string{nil, nil}, 100, 2},
		"vary -Authorization":     {"vary -Authorization", [][]string{{alice}, {bob}}, 100, 2}, // they say not who they are
		"listed by Connection":    {"", [][]string{{alice, "Connection: authorization"}, {bob, "Connection: authorization"}}, 100, 2},
		"cookies":                 {"", [][]string{{"Cookie: a=1"}, {"Cookie: a=1"}, {"Cookie: a=2"}}, 4, 2},
		"keys of an API":          {"", [][]string{{"X-Api-Key: 1"}, {"X-Api-Key: 1"}, {"X-Api-Key: 2"}}, 4, 2},
		"public, keys of an API":  {"public", [][]string{{"X-Api-Key: 1"}, {"X-Api-Key: 2"}}, 100, 2},
		"what is no credential":   {"", [][]string{{"X-Tenant: 1"}, {"X-Tenant: 1"}}, 100, 2},
		"private with a field":    {"", [][]string{nil, nil}, 100, 2},
		"private in capital text": {"", [][]string{nil, nil}, 100, 2},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+test.block)
			var n atomic.Int32
			s.backend.say(says(&n))
			switch name {
			case "private with a field":
				s.backend.say(slowly(time.Second, numbered(&n, func(*http.Request) string { return "" }, `Cache-Control: max-age=0, private="X-Secret"`)))
			case "private in capital text":
				s.backend.say(slowly(time.Second, numbered(&n, func(*http.Request) string { return "" }, "Cache-Control: no-cache", "Cache-Control: PRIVATE")))
			}
			for range 2 {
				before := n.Load()
				told := together(s, test.polls...)
				if checks := n.Load() - before; checks > test.checks {
					t.Errorf("got %d checks; want at most %d", checks, test.checks)
				}
				if test.block == "" {
					for i, text := range told {
						for _, field := range test.polls[i] {
							if who, ok := strings.CutPrefix(field, "Authorization: "); ok && len(test.polls[i]) == 1 && !strings.HasSuffix(text, " for "+who) {
								t.Errorf("%v got %q", test.polls[i], text)
							}
						}
					}
				}
				slices.Sort(told)
				if all := slices.Compact(told); len(all) < test.told {
					t.Errorf("got %q; want %d answers that differ", all, test.told)
				}
			}
		}))
	}
}

// What was learnt of a path goes with its resources.
func TestRule5WhatWasLearntIsForgotten(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_resources 20000\nlinger 10s")
		s.backend.say(tagged("1", "Vary: Referer"))
		for i := range 9500 {
			s.get(fmt.Sprint("/", i), waits(0), "Referer: a")
		}
		settle(5 * time.Second)
		before := s.backend.checks()
		s.get("/1", has("1"), waits(1), "Referer: a").wants("304 expired")
		if n := s.backend.checks() - before; n > 2 {
			t.Errorf("what was learnt of it is not known: it took %d checks", n)
		}
		settle(time.Minute)
		if n := s.lot.Len(); n != 0 {
			t.Fatalf("got %d resources; want none", n)
		}
		// Had it not been forgotten, the first check would carry the field.
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			if who := r.Header.Get("Referer"); who != "" {
				t.Errorf("a check bears Referer %q", who)
			}
			return tagged("2")(w, r)
		})
		for _, i := range []int{0, 1, 4711, 9499} {
			s.get(fmt.Sprint("/", i), waits(0), "Referer: a").wants("200 answered state 2")
		}
	})(t)
}

// A client may name more versions than it is worth to remember.
func TestManyEntityTags(t *testing.T) {
	var tags []string
	for i := range 4000 {
		tags = append(tags, fmt.Sprintf(`"v%d"`, i))
	}
	virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("v3999"))
		c := s.get("/", "If-None-Match: "+strings.Join(tags, ", "))
		settle(5 * time.Second)
		c.mustWait()
		if kept := c.r.Header.Get("If-None-Match"); len(kept) > 1000 {
			t.Errorf("%d bytes of it are kept while it is parked", len(kept))
		}
		s.backend.say(tagged("w"))
		c.wants("200 changed state w")
		// In lines of their own, and none of them.
		r := newRequest(http.MethodGet, "/", "")
		r.Header["If-None-Match"] = tags
		s.send(r).wants("200 answered state w").within(0, 0)
		s.backend.say(tagged("v0"))
		s.wake("/")
		c = s.send(func() *http.Request {
			r := newRequest(http.MethodGet, "/", "")
			r.Header["If-None-Match"] = slices.Clone(tags)
			return r
		}())
		c.wants("304 expired")
	})(t)
}

// An answer that outgrows max_body while many wait: each asks for itself, but not all
// in the same instant.
func TestOutgrownAnswerIsSpread(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_body 100B")
		var all []*client
		for range 150 {
			all = append(all, s.get("/", has("1")))
		}
		settle(500 * time.Millisecond)
		large := strings.Repeat("x", 101)
		s.backend.say(slowly(10*time.Millisecond, reply(200, large)))
		synctest.Wait()
		for _, c := range all {
			c.wants("200 bypassed "+large).within(time.Second, 2200*time.Millisecond)
		}
		if _, most := s.backend.inFlight(); most > 20 {
			t.Errorf("the backend was asked for %d at once", most)
		}
		s.get("/", has("1")).wants("200 bypassed "+large).within(0, 20*time.Millisecond) // and who comes now does not wait
	})(t)
}
