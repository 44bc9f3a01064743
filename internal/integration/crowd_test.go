package integration_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// TestCrowds is those parts of TestIntegration that have a thousand clients, a load or a
// gigabyte, and those of TestClusterIntegration that count in how many requests and commands
// time is spent: one after the other, while no other test runs.
func TestCrowds(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	caddy := buildCaddy(t)
	for name, test := range map[string]func(*testing.T, binary){
		"one check for all": testOneCheckForAll,
		"no answer crosses": testNoAnswerCrosses,
		"reload":            testReload,
		"reload under load": testReloadUnderLoad,
		"stop":              testStop,
		"outage":            testOutage,
		"gigabyte":          testGigabyte,
		"detached, reset":   testDetachedResets,
		"detached, reloads": testDetachedReloads,
	} {
		t.Run(name, func(t *testing.T) { test(t, caddy) })
	}
	for name, test := range map[string]func(*testing.T, binary){
		"cluster, as often as one": testClusterAsOne,
		"cluster, idle":            testClusterIdle,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath("redis-server"); err != nil {
				t.Skip("needs redis-server, which is not installed")
			}
			test(t, caddy)
		})
	}
}

// many is how many clients wait in the tests that are about many.
const many = 1000

// arrivals notes when a backend was asked, and by whom.
type arrivals struct {
	http.Handler
	mu sync.Mutex // protects at
	at []time.Time
}

func (a *arrivals) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.at = append(a.at, time.Now())
	a.mu.Unlock()
	a.Handler.ServeHTTP(w, r)
}

func (a *arrivals) all() []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]time.Time(nil), a.at...)
}

// testOneCheckForAll: a thousand clients cost the backend one request per
// interval.
func testOneCheckForAll(t *testing.T, caddy binary) {
	const interval = 500 * time.Millisecond
	see := &arrivals{Handler: &backend{value: "one"}}
	b := serveBackend(t, see)
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	long_poll {
		hold 2m
		interval 500ms
	}
	reverse_proxy `+b.addr))
	c := newClient(t, port)

	all := crowd(many, func(int) *pending { return c.poll("/", `If-None-Match: "one"`) })
	s.waitParked(many)
	asked := b.asked.Load()
	waitFor(t, "checks", func() bool { return b.asked.Load() >= asked+4 })
	wantWaiting(t, all)
	see.Handler.(*backend).set("two")
	wantAll(t, all, 200, "changed")
	for _, p := range all {
		p.reply.wantBody(t, `{"value":"two"}`)
	}

	at := see.all()
	for i := range at[1:] {
		// The backend's clock starts when a request arrives, long_poll's when the
		// answer before it has.
		if pause := at[i+1].Sub(at[i]); pause < interval*9/10 {
			t.Errorf("request %d of %d came %v after the one before it", i+1, len(at), pause)
		}
	}
}

// testNoAnswerCrosses: a thousand clients with credentials of their own ask for the
// same URL, and each gets what is his.
func testNoAnswerCrosses(t *testing.T, caddy binary) {
	var version atomic.Int64
	credentials := func(h http.Header) string { return h.Get("Authorization") + "|" + h.Get("Cookie") }
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The same ETag for all: it is not what keeps them apart.
		tag := fmt.Sprintf(`"%d"`, version.Load())
		w.Header().Set("ETag", tag)
		w.Header().Set("X-Whose", credentials(r.Header))
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprintf(w, "%s has %d", credentials(r.Header), version.Load())
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	long_poll {
		hold 2m
		interval 1s
	}
	reverse_proxy `+b.addr))
	c := newClient(t, port)

	credential := func(i int) string {
		if i%2 == 0 {
			return fmt.Sprintf("Authorization: Bearer %d", i)
		}
		return fmt.Sprintf("Cookie: session=%d", i)
	}
	has := func(i int, version string) string {
		name, value, _ := strings.Cut(credential(i), ": ")
		return credentials(http.Header{name: {value}}) + version
	}
	first := crowd(many, func(i int) *pending { return c.poll("/", credential(i)) })
	wantAll(t, first, 200, "answered")
	for i, p := range first {
		p.reply.wantBody(t, has(i, " has 0"))
	}
	all := crowd(many, func(i int) *pending { return c.poll("/", credential(i), `If-None-Match: "0"`) })
	s.waitParked(many)
	wantWaiting(t, all)
	version.Add(1)
	wantAll(t, all, 200, "changed")
	for i, p := range all {
		p.reply.wantBody(t, has(i, " has 1")).wantFields(t, "X-Whose: "+has(i, ""))
	}
}

// soon is the second or two that contract 9 has, on a machine that is much slower, busy, and
// stands still now and then: far from the hold of those who are parked.
const soon = time.Minute

// testReload reloads while a thousand are parked.
func testReload(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	sites := tlsSite(port, `
	long_poll {
		hold 2m
	}
	reverse_proxy `+b.addr)
	s := caddy.start(t, "", sites)
	all := parkOnEach(t, s, port)

	began := time.Now()
	reload := s.reload(t, sites)
	wantAll(t, all, 304, "drained")
	drain := time.Since(began)
	t.Logf("the reload took %v, until the last answer %v", reload, drain)
	if reload > soon || drain > soon {
		t.Errorf("that is more than %v", soon)
	}
	s.waitParked(0)

	// The new configuration goes on where the old one ended.
	all = parkOnEach(t, s, port)
	wantWaiting(t, all)
	b.set("two")
	wantAll(t, all, 200, "changed")
}

// testStop stops the process while a thousand are parked.
func testStop(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", tlsSite(port, `
	long_poll {
		hold 2m
	}
	reverse_proxy `+b.addr))
	all := parkOnEach(t, s, port)

	stop := s.exit(t)
	wantAll(t, all, 304, "drained")
	t.Logf("the stop took %v", stop)
	if stop > soon {
		t.Errorf("that is more than %v", soon)
	}
}

// parkOnEach parks many requests, most of them on HTTP/1.1, where each has a
// connection of its own.
//
// HTTP/2 has one for all of them, and before they come: each of a crowd that finds none
// dials, and when the process is stopped while such a handshake is on its way, Caddy does
// not end before the client closes that connection or idle_timeout (5 minutes) does. A
// server that is shut down says goodbye (GOAWAY) to the HTTP/2 connections that it has by
// then, and to none that comes later, and waits for it: net/http's Server.closeIdleConns
// takes each HTTP/2 connection for active. So it is without long_poll too.
func parkOnEach(t *testing.T, s *sidecar, port string) (all []*pending) {
	t.Helper()
	for protocol, n := range map[string]int{"HTTP/1.1": many - 300, "HTTP/2.0": 200, "HTTP/3.0": 100} {
		c := s.newTLSClient(t, protocol, port)
		if protocol == "HTTP/2.0" {
			c.get("/"+protocol).want(t, 200, "answered")
		}
		all = append(all, crowd(n, func(int) *pending { return c.poll("/"+protocol, `If-None-Match: "one"`) })...)
	}
	s.waitParked(len(all))
	return all
}

// testReloadUnderLoad reloads again and again, while clients ask all the time and
// the value changes.
//
// At a reload net/http closes connections on which a request may just be arriving,
// and so does the kernel with those that nobody has accepted yet; clients try
// again. What has once arrived must not fail.
func testReloadUnderLoad(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	sites := tlsSite(port, `
	log
	long_poll {
		interval 50ms
	}
	reverse_proxy `+b.addr)
	s := caddy.start(t, "", sites)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	var mu sync.Mutex // protects what follows
	outcomes := make(map[string]int)
	failed := make(map[string]reply) // by X-Id
	for i := range 12 {
		c := s.newTLSClient(t, protocols[i%3], port)
		path := fmt.Sprintf("/%d", i%5)
		load.Go(func() {
			// Caddy waits for those HTTP/2 connections of an earlier configuration
			// that were accepted while it was being stopped, until they are idle for
			// long.
			defer c.http.CloseIdleConnections()
			var version string
			for n := 0; ; n++ {
				id := fmt.Sprintf("%d-%d", i, n)
				fields := []string{"X-Id: " + id}
				if version != "" && n%10 > 0 {
					fields = append(fields, "If-None-Match: "+version)
				}
				r := c.exchange(ctx, "GET", path, "", fields)
				if ctx.Err() != nil {
					return
				}
				mu.Lock()
				if r.err != nil {
					failed[id] = r
				} else {
					outcomes[r.outcome()]++
					if r.status != 200 && r.status != 304 {
						t.Errorf("%s: got %v", id, r)
					}
				}
				mu.Unlock()
				if r.err == nil {
					version = r.header.Get("ETag")
				}
			}
		})
	}
	count := func(outcome string) int {
		mu.Lock()
		defer mu.Unlock()
		return outcomes[outcome]
	}
	for i := range 20 {
		s.reload(t, sites)
		before, looks := count("changed"), 0
		waitFor(t, "changes to arrive", func() bool {
			if looks++; looks%10 == 0 {
				b.set(fmt.Sprintf("%d after reload %d", looks, i))
			}
			return count("changed") >= before+10
		})
	}
	stop()
	load.Wait()
	s.exit(t)
	for _, outcome := range []string{"answered", "changed", "drained"} {
		if outcomes[outcome] == 0 {
			t.Errorf("none was %s: %v", outcome, outcomes)
		}
	}
	// Who finds a retired configuration on a connection that has outlived it is not
	// parked there, and asks again at once: on a new connection, then.
	if n := outcomes["bypassed"]; n > 12*20 {
		t.Errorf("%d were bypassed: %v", n, outcomes)
	}
	for _, entry := range s.logs.entries("handled request") {
		headers := entry["request"].(map[string]any)["headers"].(map[string]any)
		id := headers["X-Id"].([]any)[0].(string)
		if r, ok := failed[id]; ok {
			t.Errorf("%s arrived, and failed with %v after %v s", id, r, entry["duration"])
		}
	}
	t.Logf("%d requests did not arrive; the others: %v", len(failed), outcomes)
}

// testOutage kills the backend while a thousand wait, and brings it back.
func testOutage(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	long_poll {
		hold 5m
		interval 200ms
		check_timeout 1m # or who stands still would be an outage
	}
	reverse_proxy `+b.addr))
	c := newClient(t, port)

	all := crowd(many, func(int) *pending { return c.poll("/", `If-None-Match: "one"`) })
	s.waitParked(many)
	failed := func() int { return s.metric(`caddy_long_poll_checks_total{result="failed"}`) }
	for range 2 {
		before := failed()
		b.kill()
		waitFor(t, "failing checks", func() bool { return failed() >= before+2 })
		c.get("/").want(t, 502, "answered")
		c.get("/", `If-None-Match: "none"`).want(t, 502, "failed")
		wantWaiting(t, all)
		b.listen(t, b)
		asked := b.asked.Load()
		waitFor(t, "checks", func() bool { return b.asked.Load() >= asked+2 })
		wantWaiting(t, all)
	}
	for _, message := range []string{"backend fails", "backend fails no more"} {
		logged := func() int { return len(s.logs.entries(message)) }
		waitFor(t, "a second "+message, func() bool { return logged() >= 2 })
		if n := logged(); n != 2 {
			t.Errorf("%q was logged %d times instead of twice", message, n)
		}
	}
	// What changes during an outage is delivered after it.
	b.kill()
	before := failed()
	waitFor(t, "a failing check", func() bool { return failed() > before })
	b.set("two")
	b.listen(t, b)
	wantAll(t, all, 200, "changed")
	for _, p := range all {
		p.reply.wantBody(t, `{"value":"two"}`)
	}
}

// decode undoes a content coding.
func decode(coding, body string) (string, error) {
	var r io.Reader = strings.NewReader(body)
	switch coding {
	case "gzip":
		z, err := gzip.NewReader(r)
		if err != nil {
			return "", err
		}
		r = z
	case "zstd":
		z, err := zstd.NewReader(r)
		if err != nil {
			return "", err
		}
		defer z.Close()
		r = z
	}
	text, err := io.ReadAll(r)
	return string(text), err
}
