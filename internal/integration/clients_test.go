package integration_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clientSite is what the clients of the manual see, all of them at the same time.
type clientSite struct {
	*sidecar
	port    string
	backend *backend
	tagless atomic.Bool // the backend knows nothing of versions

	mu    sync.Mutex       // protects asked
	asked map[string]int64 // by the product that User-Agent begins with
}

// TestClients runs the clients of the manual with the real binary: through reloads and
// outages, at a site without long_poll, and against a bound.
func TestClients(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	caddy := buildCaddy(t)
	c := &clientSite{port: freePort(t), asked: make(map[string]int64)}
	c.backend = serveBackend(t, c)
	c.sidecar = caddy.start(t, "", c.held(""))
	said := make(map[string]*output)
	for language, program := range programs(t) {
		if missing := loops[language].missing(); missing != "" {
			t.Logf("%s is not installed: the client in %s is not tested", missing, language)
			continue
		}
		said[language] = loops[language].run(t, "http://127.0.0.1:"+c.port, program)
	}
	n := len(said)
	shows := func(value string) {
		t.Helper()
		for language, said := range said {
			patiently(t, language+" shows "+value, func() bool { return strings.Contains(said.String(), value) })
		}
	}
	change := func(value string) {
		t.Helper()
		patiently(t, "all wait", func() bool { return c.parked() == n })
		c.backend.set(value)
		shows(value)
		patiently(t, "all wait again", func() bool { return c.parked() == n })
	}
	shows("one")
	change("two")

	// A reload releases them, and they come back.
	expired := c.outcomes("expired")
	c.reload(t, c.held(""))
	patiently(t, "they were released by the reload", func() bool { // or by their time, right before it
		return c.outcomes("drained") > 0 && c.outcomes("drained")+c.outcomes("expired")-expired >= n
	})
	change("three")

	// An outage that they do not notice, for they are parked.
	failed := func() int { return c.metric(`caddy_long_poll_checks_total{result="failed"}`) }
	before := failed()
	c.backend.kill()
	patiently(t, "a check fails", func() bool { return failed() > before })
	c.backend.set("four")
	c.backend.listen(t, c)
	shows("four")
	patiently(t, "all wait again", func() bool { return c.parked() == n })

	// One that they do notice, for a reload has them come back meanwhile.
	c.backend.kill()
	c.reload(t, c.held(""))
	paced(t, "a backend that is down", func() int64 { return int64(c.outcomes("failed")) }, 2*n+1, time.Second)
	c.backend.set("five")
	c.backend.listen(t, c)
	shows("five")

	// A site without long_poll, and a backend with versions and without.
	for _, tagless := range []bool{false, true} {
		c.tagless.Store(tagless)
		c.reload(t, site(c.port, c.plain()))
		patiently(t, "all ask the backend", func() bool { return len(c.products()) == n })
		for _, product := range c.products() {
			paced(t, "a site without long_poll by "+product, func() int64 { return c.askedBy(product) }, 3, time.Second)
		}
	}
	c.tagless.Store(false)
	c.backend.set("six")
	shows("six")

	// A bound: they have two places less than there are of them.
	refused := c.outcomes("refused")
	c.reload(t, c.held(fmt.Sprintf("max_parked %d", max(n-2, 1))))
	patiently(t, "some are refused", func() bool { return c.outcomes("refused") > refused })
	paced(t, "a bound", func() int64 { return int64(c.outcomes("refused")) }, 3, time.Second)
	c.backend.set("seven") // there is a place for each in turn
	shows("seven")
}

// held is a site with long_poll and more of its subdirectives.
func (c *clientSite) held(more string) string {
	return site(c.port, `
	long_poll {
		interval 100ms
		`+more+`
	}`+c.plain())
}

// plain is what is behind long_poll.
func (c *clientSite) plain() string {
	return `
	reverse_proxy ` + c.backend.addr
}

func (c *clientSite) parked() int { return c.metric("caddy_long_poll_parked_requests") }

// ServeHTTP is the backend.
func (c *clientSite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	product, _, _ := strings.Cut(r.UserAgent(), "/")
	c.mu.Lock()
	c.asked[product]++
	c.mu.Unlock()
	tag := strconv.Quote(c.backend.get())
	if !c.tagless.Load() {
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	fmt.Fprintf(w, `{"status":%s}`, tag)
}

// products are the clients that have asked the backend themselves.
func (c *clientSite) products() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.asked, "long_poll")
	return slices.Collect(maps.Keys(c.asked))
}

func (c *clientSite) askedBy(product string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[product]
}

// paced waits for that many more requests, and fails the test if they come sooner than
// those of clients that pause: two of each may come at once.
func paced(t *testing.T, what string, asked func() int64, requests int, least time.Duration) {
	t.Helper()
	began, before := time.Now(), asked()
	patiently(t, what+" is asked", func() bool { return asked() >= before+int64(requests) })
	if took := time.Since(began); took < least {
		t.Errorf("%s: %d requests within %v; want at least %v", what, requests, took, least)
	}
}

// patiently waits for longer than a client may pause: 30s and what Retry-After says.
func patiently(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(2 * time.Minute); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("in vain waited until %s", what)
		}
	}
}
