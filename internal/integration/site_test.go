package integration_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// These tests put other handlers around long_poll: before it, behind it, and as
// wrappers of what it writes.

// recall is a backend that tells which requests it has seen, by what see makes of
// them.
type recall struct {
	see func(r *http.Request) string

	mu   sync.Mutex // protects what follows
	seen map[string]int
	says string
}

func (b *recall) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	what := b.see(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen == nil {
		b.seen = make(map[string]int)
	}
	b.seen[what]++
	fmt.Fprintf(w, "%s, %s", what, b.says)
}

func (b *recall) set(says string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.says = says
}

// times is how often it was asked so.
func (b *recall) times(what string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[what]
}

func (b *recall) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.seen))
}

// waitChecks waits for some more checks.
func (b *recall) waitChecks(t *testing.T, what string) {
	t.Helper()
	enough := b.times(what) + 3
	waitFor(t, "checks of "+what, func() bool { return b.times(what) >= enough })
}

func testEncode(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	b.set(strings.Repeat("one", 1000))
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	encode zstd gzip
	long_poll {
		hold 2m
		interval 100ms
	}
	reverse_proxy `+b.addr))
	c := newClient(t, port)

	for _, coding := range []string{"gzip", "zstd", "identity"} {
		accept := "Accept-Encoding: " + coding
		if coding == "identity" {
			accept = "Accept: application/json"
		}
		first := c.get("/", accept).want(t, 200, "answered")
		if got := first.header.Get("Content-Encoding"); got != strings.TrimPrefix(coding, "identity") {
			t.Fatalf("%s: got the coding %q", coding, got)
		}
		version := "If-None-Match: " + first.header.Get("ETag")
		r := c.expires("/", accept, version, "Prefer: wait=3")
		if r.took < 2700*time.Millisecond {
			t.Errorf("%s: waited %v for wait=3", coding, r.took)
		}
		// A client may take its version from the 304 too.
		version = "If-None-Match: " + r.header.Get("ETag")
		p := c.poll("/", accept, version)
		s.waitParked(1)
		asked := b.asked.Load()
		waitFor(t, "checks", func() bool { return b.asked.Load() > asked+2 })
		wantWaiting(t, []*pending{p})
		b.set(b.get() + strings.Repeat(coding, 1000))
		r = p.wait().want(t, 200, "changed")
		want := fmt.Sprintf(`{"value":%q}`, b.get())
		if got, err := decode(r.header.Get("Content-Encoding"), r.body); err != nil || got != want {
			t.Errorf("%s: got %.80q, %v, want %.80q", coding, got, err, want)
		}
		c.get("/", accept, "If-None-Match: "+r.header.Get("ETag"), "Prefer: wait=0").want(t, 304, "answered")
	}
}

// credentials of alice and bob, whose password is secret.
const accounts = `
	basic_auth {
		alice $2a$04$ZBBkzX2/yX9f7UNkb5fJrOD7XLB9cQTDHTWWRR7A2P6iEZLzA7Usy
		bob $2a$04$ZBBkzX2/yX9f7UNkb5fJrOD7XLB9cQTDHTWWRR7A2P6iEZLzA7Usy
	}`

const (
	asAlice = "Authorization: Basic YWxpY2U6c2VjcmV0"
	asBob   = "Authorization: Basic Ym9iOnNlY3JldA=="
	asEve   = "Authorization: Basic ZXZlOnNlY3JldA=="
)

func testBasicAuth(t *testing.T, caddy binary) {
	see := &recall{see: func(r *http.Request) string { return "user " + r.Header.Get("X-User") }}
	b := serveBackend(t, see)
	port := freePort(t)
	s := caddy.start(t, "", site(port, accounts+`
	long_poll {
		hold 2m
		interval 100ms
	}
	reverse_proxy `+b.addr+` {
		header_up X-User {http.auth.user.id}
	}`))
	c := newClient(t, port)

	c.get("/").want(t, 401, "")
	c.get("/", asEve).want(t, 401, "")
	alice := "If-None-Match: " + c.get("/", asAlice).want(t, 200, "answered").wantBody(t, "user alice, ").header.Get("ETag")
	bob := "If-None-Match: " + c.get("/", asBob).want(t, 200, "answered").wantBody(t, "user bob, ").header.Get("ETag")
	first := c.poll("/", asAlice, alice)
	s.waitParked(1)
	forAlice := []*pending{c.poll("/", asAlice, alice), c.poll("/", asAlice, alice)}
	forBob := c.poll("/", asBob, bob)
	s.waitParked(4)
	see.waitChecks(t, "user alice")
	see.waitChecks(t, "user bob")
	// The checks go on in the name of alice when the client that began them leaves.
	first.leave()
	s.waitParked(3)
	see.waitChecks(t, "user alice")
	wantWaiting(t, append(forAlice, forBob))

	see.set("changed")
	for _, p := range forAlice {
		p.wait().want(t, 200, "changed").wantBody(t, "user alice, changed")
	}
	forBob.wait().want(t, 200, "changed").wantBody(t, "user bob, changed")
	if all := see.all(); !slices.Equal(all, []string{"user alice", "user bob"}) {
		t.Errorf("the backend was asked by %q", all)
	}
}

// testHandle has checks take the way through the routes that the poll took.
func testHandle(t *testing.T, caddy binary) {
	see := &recall{see: func(r *http.Request) string { return r.Host + r.RequestURI }}
	b := serveBackend(t, see)
	port := freePort(t)
	s := caddy.start(t, "", "&(shared) {\n\treverse_proxy "+b.addr+"\n}\n"+site(port, `
	rewrite /old/* /within/new?was={path}
	long_poll /outside/* {
		hold 2m
		interval 100ms
	}
	@within path /within/* /stripped/* /routed/* /named/*
	handle /outside/* {
		rewrite /outside/rewritten /there?was={uri}
		reverse_proxy `+b.addr+`
	}
	handle /within/* {
		long_poll {
			hold 2m
			interval 100ms
		}
		handle /within/nested/* {
			uri replace nested flat
			reverse_proxy `+b.addr+`
		}
		handle {
			reverse_proxy `+b.addr+`
		}
	}
	handle_path /stripped/* {
		long_poll {
			hold 2m
			interval 100ms
		}
		reverse_proxy `+b.addr+`
	}
	handle /routed/* {
		route {
			long_poll {
				hold 2m
				interval 100ms
			}
			uri strip_prefix /routed
			uri path_regexp /+$ /index
			reverse_proxy `+b.addr+` {
				header_up Host backend
			}
		}
	}
	handle /named/* {
		long_poll {
			hold 2m
			interval 100ms
		}
		invoke shared
	}
	handle {
		respond "no such place" 404
	}`))
	c := newClient(t, port)

	here := "127.0.0.1:" + port
	places := map[string]string{ // what the client and what the backend sees
		"/outside/a?q=1":     here + "/outside/a?q=1",
		"/outside/rewritten": here + "/there?was=%2Foutside%2Frewritten",
		"/within/a?q=1":      here + "/within/a?q=1",
		"/within/nested/a":   here + "/within/flat/a",
		"/old/a":             here + "/within/new?was=%2Fold%2Fa",
		"/stripped/a?q=1":    here + "/a?q=1",
		"/routed/a/":         "backend/a/index",
		"/named/a":           here + "/named/a",
	}
	var all []*pending
	for path, place := range places {
		first := c.get(path).want(t, 200, "answered").wantBody(t, place+", ")
		all = append(all, c.poll(path, "If-None-Match: "+first.header.Get("ETag")))
	}
	c.get("/elsewhere").want(t, 404, "").wantBody(t, "no such place")
	s.waitParked(len(all))
	for _, place := range places {
		see.waitChecks(t, place)
	}
	wantWaiting(t, all)
	see.set("changed")
	wantAll(t, all, 200, "changed")
	if seen, want := see.all(), slices.Sorted(maps.Values(places)); !slices.Equal(seen, want) {
		t.Errorf("the backend saw\n%q, want\n%q", seen, want)
	}
}

func testHandleErrors(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	long_poll /released {
		hold 2m
		interval 100ms
		on_error release
	}
	long_poll /held {
		hold 2m
		interval 100ms
		max_parked 1
	}
	reverse_proxy `+b.addr+`
	handle_errors {
		header X-Page error
		respond "sorry, {err.status_code}"
	}`))
	c := newClient(t, port)

	released := c.poll("/released", `If-None-Match: "one"`)
	held := c.poll("/held", `If-None-Match: "one"`)
	s.waitParked(2)
	r := c.get("/held", `If-None-Match: "one"`).want(t, 503, "refused").wantBody(t, "sorry, 503").wantFields(t, "X-Page: error")
	if r.header.Get("Retry-After") == "" {
		t.Errorf("got %v without Retry-After", r)
	}
	b.kill()
	released.wait().want(t, 502, "failed").wantBody(t, "sorry, 502").wantFields(t, "X-Page: error")
	c.get("/held").want(t, 502, "answered").wantBody(t, "sorry, 502").wantFields(t, "X-Page: error")
	c.get("/elsewhere").want(t, 502, "").wantBody(t, "sorry, 502").wantFields(t, "X-Page: error")
	wantWaiting(t, []*pending{held})
	b.set("two")
	b.listen(t, b)
	held.wait().want(t, 200, "changed").wantBody(t, `{"value":"two"}`)
}

// testMap has placeholders that other handlers and matchers made reach the backend,
// in the checks too.
func testMap(t *testing.T, caddy binary) {
	see := &recall{see: func(r *http.Request) string { return r.Header.Get("X-Seen") }}
	b := serveBackend(t, see)
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	map {path} {tier} {
		~^/orders/gold gold
		default plain
	}
	vars rank {tier}1
	@orders path_regexp name ^/orders/(\w+)$
	handle @orders {
		request_header X-Client "{client_ip}"
		long_poll {
			hold 2m
			interval 100ms
		}
		reverse_proxy `+b.addr+` {
			header_up X-Seen "{tier} {vars.rank} {re.name.1} {path} {query.q} {header.X-Client} {method}"
		}
	}`))
	c := newClient(t, port)

	places := map[string]string{
		"/orders/golden?q=1": "gold gold1 golden /orders/golden 1 127.0.0.1 GET",
		"/orders/green?q=2":  "plain plain1 green /orders/green 2 127.0.0.1 GET",
	}
	var firsts, rest []*pending
	for path, seen := range places {
		version := "If-None-Match: " + c.get(path).want(t, 200, "answered").wantBody(t, seen+", ").header.Get("ETag")
		firsts = append(firsts, c.poll(path, version))
		s.waitParked(len(firsts) + len(rest))
		rest = append(rest, c.poll(path, version))
		s.waitParked(len(firsts) + len(rest))
	}
	for i, seen := range slices.Collect(maps.Values(places)) {
		see.waitChecks(t, seen)
		firsts[i].leave()
	}
	s.waitParked(len(rest))
	for _, seen := range places {
		see.waitChecks(t, seen)
	}
	see.set("changed")
	for _, p := range rest {
		if r := p.wait().want(t, 200, "changed"); !strings.HasSuffix(r.body, ", changed") {
			t.Errorf("got %v", r)
		}
	}
	if seen, want := see.all(), slices.Sorted(maps.Values(places)); !slices.Equal(seen, want) {
		t.Errorf("the backend saw %q, want %q", seen, want)
	}
}

// testHeader compares the fields of each answer with those that the same site has
// without long_poll.
func testHeader(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	polite := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Server", "legacy")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Both", "backend")
		h.Set("X-Secret", "backend")
		h.Set("X-Replaced", "a secret")
		h["X-Several"] = []string{"backend 1", "backend 2"}
		b.ServeHTTP(w, r)
	}))
	directives := `
	header X-Both site
	header X-Early early
	header >X-Late late
	header -X-Secret
	header ?X-Default default
	header ?X-Both default
	header +X-Several site
	header X-Replaced secret public
	header X-Taken taken
	reverse_proxy ` + polite.addr + ` {
		header_down X-Down down
		header_down -X-Taken
	}`
	port, twin := freePort(t), freePort(t)
	caddy.start(t, "", site(port, directives+`
	long_poll {
		hold 2m
		interval 100ms
		header X-Ours "{lp.version}"
	}`)+site(twin, directives))
	c, plain := newClient(t, port), newClient(t, twin)

	// same compares the reply with what the twin says to a client that has version.
	same := func(r reply, outcome, version string) {
		t.Helper()
		want := plain.get("/", "If-None-Match: "+version)
		r.want(t, want.status, outcome).wantFields(t, `X-Ours: "`+b.get()+`"`)
		for _, h := range []http.Header{r.header, want.header} {
			for _, name := range []string{"Date", "Long-Poll", "X-Ours", "Preference-Applied"} {
				h.Del(name)
			}
			if want.status == http.StatusNotModified {
				// A 304 says what the cache needs (RFC 9110, section 15.4.5), and
				// not all that the backend's own would.
				for _, name := range []string{"Content-Type", "Server", "X-Both", "X-Several", "X-Replaced", "X-Down", "Via"} {
					h.Del(name)
				}
			}
		}
		if !maps.EqualFunc(r.header, want.header, slices.Equal) {
			t.Errorf("%s: got the fields\n%v, want\n%v", outcome, r.header, want.header)
		}
	}
	same(c.get("/"), "answered", "")
	same(c.get("/", `If-None-Match: "one"`, "Prefer: wait=0"), "answered", `"one"`)
	p, late := c.poll("/", `If-None-Match: "one"`), c.poll("/", `If-None-Match: "one"`)
	asked := polite.asked.Load()
	waitFor(t, "checks", func() bool { return polite.asked.Load() > asked+3 })
	wantWaiting(t, []*pending{p, late})
	b.set("two")
	same(p.wait(), "changed", `"one"`)
	same(late.wait(), "changed", `"one"`)
	same(c.expires("/", `If-None-Match: "two"`, "Wait: 3"), "expired", `"two"`)
}

// testLogAppend has each outcome logged.
func testLogAppend(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	log
	log_append outcome {lp.outcome}
	log_append held {lp.held}
	log_append long {http.long_poll.outcome}
	long_poll {
		hold 2m
		interval 100ms
		max_parked 2
	}
	reverse_proxy `+b.addr))
	c := newClient(t, port)

	c.get("/answered").want(t, 200, "answered")
	expired := c.get("/expired", `If-None-Match: "one"`, "Wait: 12").want(t, 304, "expired") // its line is to be the only one
	c.send("DELETE", "/bypassed", "").wait().want(t, 200, "bypassed")
	left := c.poll("/left", `If-None-Match: "one"`)
	changed := c.poll("/changed", `If-None-Match: "one"`)
	s.waitParked(2)
	c.get("/refused", `If-None-Match: "one"`).want(t, 503, "refused")
	left.leave()
	s.waitParked(1)
	b.set("two")
	changed.wait().want(t, 200, "changed")
	drained := c.poll("/drained", `If-None-Match: "two"`)
	s.waitParked(1)
	b.kill()
	c.get("/failed", "Prefer: wait=5").want(t, 502, "failed")
	s.exit(t)
	drained.wait().want(t, 304, "drained")

	statuses := map[string]float64{
		"answered": 200, "expired": 304, "bypassed": 200, "refused": 503, "left": 499, "changed": 200, "drained": 304, "failed": 502,
	}
	entries := s.logs.entries("handled request")
	if len(entries) != len(statuses) {
		t.Errorf("there are %d entries instead of %d", len(entries), len(statuses))
	}
	for _, entry := range entries {
		request := entry["request"].(map[string]any)
		outcome := strings.TrimPrefix(request["uri"].(string), "/")
		if entry["outcome"] != outcome || entry["long"] != outcome || entry["status"] != statuses[outcome] {
			t.Errorf("got outcome %q and %q and status %v for %s", entry["outcome"], entry["long"], entry["status"], outcome)
		}
		parked := slices.Contains([]string{"expired", "left", "changed", "drained"}, outcome)
		if held := fmt.Sprint(entry["held"]); parked == (held == "0" || held == "0.000") {
			t.Errorf("got held %q for %s", held, outcome)
		}
		if outcome == "expired" {
			held, err := strconv.ParseFloat(fmt.Sprint(entry["held"]), 64)
			if err != nil || held < 10.6 || held > expired.took.Seconds() {
				t.Errorf("got held %v for wait=12, answered after %v", entry["held"], expired.took)
			}
		}
	}
}
