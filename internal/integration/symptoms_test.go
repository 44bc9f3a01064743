package integration_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestDocsSymptoms brings about what the manual's index has as symptoms, and does what the
// page says that it leads to.
func TestDocsSymptoms(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	index := read(t, "docs/README.md")
	for symptom, page := range map[string]string{
		"clients get 502, 504 or resets after 30 or 60 seconds": "hold.md",
		"it never holds":                        "troubleshooting.md#it-never-holds",
		"every client is a resource of its own": "troubleshooting.md#every-client-is-a-resource-of-its-own",
		"nothing is saved":                      "troubleshooting.md#nothing-is-saved",
	} {
		if line := "| " + symptom + " | ["; !strings.Contains(index, line) || !strings.Contains(index, "]("+page+")") {
			t.Errorf("docs/README.md does not lead from %q to %s", symptom, page)
		}
	}
	caddy := buildCaddy(t)
	t.Run("cut", func(t *testing.T) {
		t.Parallel()
		testSymptomCut(t, caddy)
	})
	troubleshooting := read(t, "docs/troubleshooting.md")
	each := func(format string) func(i int) string {
		return func(i int) string { return fmt.Sprintf(format, i) }
	}
	for name, s := range map[string]symptom{
		"never holds: a browser that does not wait": {says: "say that you wait", fields: []string{"Sec-Fetch-Site: same-origin"}, also: "Prefer: wait=20"},
		"never holds: since without version":        {says: "[`version`](reference.md#version)", wrong: "since {query.v}", right: "since {query.v}\nversion {lp.json.value}", path: "/?v=one"},
		"never holds: never the same":               {says: "[answers that are never the same]", right: "ignore n", noise: true},
		"its own: a cache buster":                   {says: "[`strip_query`]", right: "strip_query _", each: each("/?_=%d")},
		"its own: a field":                          {says: "`vary -<field>`", right: "vary -X-Trace", eachField: each("X-Trace: %d")},
		"its own: cookies of analytics":             {says: "`vary -Cookie -client_ip`", right: "vary -Cookie -client_ip", eachField: each("Cookie: _ga=GA1.1.%d")},
		"its own: a language":                       {says: "`vary -Accept-Language`", right: "vary -Accept-Language", eachField: each("Accept-Language: x-%d")},
		"its own: users":                            {says: "[`public`]", right: "public", eachField: each("Authorization: Bearer %d")},
		"nothing saved: shadow":                     {says: "`shadow`", wrong: "shadow"},
	} {
		if !strings.Contains(troubleshooting, s.says) {
			t.Errorf("docs/troubleshooting.md does not say %q", s.says)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.test(t, caddy)
		})
	}
}

// symptom is something that is wrong with how some clients poll one thing.
type symptom struct {
	says         string // what the page says that ends it
	wrong, right string // subdirectives
	path         string
	fields       []string
	also         string             // what clients have to say too, so that it is right
	each         func(i int) string // path of client i
	eachField    func(i int) string // one more field of it
	noise        bool               // the answer has a member that is another each time
}

// crowdSize is how many clients have each symptom.
const crowdSize = 5

func (s symptom) test(t *testing.T, caddy binary) {
	site, c, _ := s.site(t, caddy, s.wrong)
	all := crowd(crowdSize, func(i int) *pending { return s.ask(c, i, false) })
	if s.each != nil || s.eachField != nil {
		site.waitParked(crowdSize)
		if got := site.metric("caddy_long_poll_resources"); got != crowdSize {
			t.Errorf("%d clients wait for %d resources; want one each", crowdSize, got)
		}
	} else {
		for _, p := range all {
			if r := p.wait(); r.err != nil || r.outcome() == "expired" {
				t.Errorf("got %v; want that it is not held", r)
			}
		}
	}
	if saved := site.metric("caddy_long_poll_checks_saved_total"); s.wrong == "shadow" && saved != 0 {
		t.Errorf("shadow has saved %d requests", saved)
	}

	site, c, b := s.site(t, caddy, s.right)
	all = crowd(crowdSize, func(i int) *pending { return s.ask(c, i, true) })
	site.waitParked(crowdSize)
	if got := site.metric("caddy_long_poll_resources"); got != 1 {
		t.Errorf("%d clients wait for %d resources; want one", crowdSize, got)
	}
	b.set("two")
	wantAll(t, all, http.StatusOK, "changed")
	if saved := site.metric("caddy_long_poll_checks_saved_total"); saved < crowdSize-1 {
		t.Errorf("%d requests were saved; want all but one", saved)
	}
}

// site is a Caddy with these subdirectives, a client of it, and its backend.
func (s symptom) site(t *testing.T, caddy binary, subdirectives string) (*sidecar, *client, *backend) {
	t.Helper()
	var b *backend
	var handler http.Handler // nil: value and ETag
	if s.noise || s.path != "" {
		var n atomic.Int64
		handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if s.noise {
				n.Add(1)
			}
			fmt.Fprintf(w, `{"n":%d,"value":%q}`, n.Load(), b.get())
		})
	}
	b = serveBackend(t, handler)
	port := freePort(t)
	site := caddy.start(t, "", fmt.Sprintf("http://:%s {\n\tbind 127.0.0.1\n\tlong_poll {\n\t\tinterval 100ms\n%s\n\t}\n\treverse_proxy %s\n}\n", port, subdirectives, b.addr))
	return site, newClient(t, port), b
}

// ask has client i wait for another version than the one that it gets before. Where that
// stands in the path, there is no need to.
func (s symptom) ask(c *client, i int, right bool) *pending {
	path, fields := "/", slices.Clone(s.fields)
	if s.each != nil {
		path = s.each(i)
	}
	if s.eachField != nil {
		fields = append(fields, s.eachField(i))
	}
	if s.path != "" {
		path = s.path
	} else {
		fields = append(fields, "If-None-Match: "+c.get(path, fields...).header.Get("ETag"))
	}
	switch {
	case s.also == "":
		fields = append(fields, "Prefer: wait=20")
	case right:
		fields = append(fields, s.also)
	}
	return c.poll(path, fields...)
}

// testSymptomCut has a hop in front that is less patient than hold, and then one that
// hold is made for.
func testSymptomCut(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	sites := func(hold string) string {
		return fmt.Sprintf("http://:%s {\n\tbind 127.0.0.1\n\tlong_poll %s\n\treverse_proxy %s\n}\n", port, hold, b.addr)
	}
	site := caddy.start(t, "", sites(""))
	hop := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: loopback(port)})
	hop.ErrorLog = log.New(io.Discard, "", 0)
	hop.Transport = &http.Transport{ResponseHeaderTimeout: 4 * time.Second, DisableCompression: true}
	server := httptest.NewServer(hop)
	t.Cleanup(server.Close)
	t.Cleanup(hop.Transport.(*http.Transport).CloseIdleConnections)
	c := newClient(t, port)
	c.base = server.URL
	// Where the machine stands still, the hop is not patient enough for anything.
	var first reply
	waitFor(t, "an answer", func() bool {
		first = c.get("/")
		return first.status == http.StatusOK && first.outcome() == "answered"
	})
	tag, left := first.header.Get("ETag"), site.outcomes("left")
	if r := c.get("/", "If-None-Match: "+tag); r.status != http.StatusBadGateway {
		t.Errorf("got %v from a hop that waits for 4 s; want 502", r)
	}
	waitFor(t, "the client to have left", func() bool { return site.outcomes("left") > left })
	site.reload(t, sites("200ms"))
	waitFor(t, "one that is held for as long as the hop is patient", func() bool {
		r := c.get("/", "If-None-Match: "+tag)
		return r.status == http.StatusNotModified && r.outcome() == "expired"
	})
}
