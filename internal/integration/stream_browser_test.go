package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
)

// eventPage listens to an address, which stands for API, and says what it hears: values,
// and when the browser has lost the stream and when it is there (again).
const eventPage = `<!DOCTYPE html><body><pre id=said></pre><script>
	const say = text => said.append(text + " ");
	const source = new EventSource("API");
	source.onopen = () => say("open");
	source.onmessage = e => say(JSON.parse(e.data).value);
	source.onerror = () => say(["connecting", "open?", "closed"][source.readyState]);
	source.addEventListener("status", e => say("status " + JSON.parse(e.data).status));
	</script>`

// testEventSource has a browser's own EventSource show the value of a backend through a
// reload of Caddy and an outage of the backend.
func testEventSource(t *testing.T, caddy binary) {
	br := newBrowser(t)
	b := serveBackend(t, nil)
	mux := http.NewServeMux()
	mux.Handle("/api/", b)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/favicon.ico" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, strings.Replace(eventPage, "API", "/api/value", 1))
	})
	b.kill()
	b.listen(t, mux)
	port := freePort(t)
	sites := site(port, `
	log
	long_poll /api/* {
		interval 200ms
		stream
	}
	reverse_proxy `+b.addr)
	s := caddy.start(t, "", sites)
	br.call("Page.navigate", map[string]any{"url": "http://127.0.0.1:" + port + "/"}, nil)
	said := "open one "
	hears := func(more string) {
		t.Helper()
		said += more
		br.await("^" + regexp.QuoteMeta(strings.TrimSpace(said)) + `\s*$`)
	}
	hears("")
	b.set("two")
	hears("two ")

	// No change that lasts for an interval is missed, though nobody waits for the page.
	for i := range 5 {
		value := fmt.Sprint("quick", i)
		b.set(value)
		asked := b.asked.Load()
		waitFor(t, "two checks", func() bool { return b.asked.Load() >= asked+2 })
		said += value + " "
	}
	hears("")

	// An outage is not to be noticed.
	b.kill()
	failed := func() int { return s.metric(`caddy_long_poll_checks_total{result="failed"}`) }
	waitFor(t, "the outage", func() bool { return failed() > 0 })
	b.listen(t, mux)
	b.set("back")
	hears("back ")

	// After a reload it comes back by itself, says what it has, and is told what it has not.
	s.reload(t, sites)
	hears("connecting open ")
	s.waitStreams(1)
	b.set("reloaded")
	hears("reloaded ")
	s.reload(t, sites)
	b.set("meanwhile")
	hears("connecting open meanwhile ")

	// Both at once: it finds Caddy, and the backend when it is there.
	before := failed()
	b.kill()
	waitFor(t, "the outage", func() bool { return failed() > before })
	s.reload(t, sites)
	hears("connecting open ")
	b.set("both")
	b.listen(t, mux)
	hears("both ")

	s.exit(t)
	var ids []string
	for _, entry := range s.logs.entries("handled request") {
		request := entry["request"].(map[string]any)
		if request["uri"] != "/api/value" {
			continue
		}
		id := "none"
		if values, ok := request["headers"].(map[string]any)["Last-Event-Id"].([]any); ok {
			id = fmt.Sprint(values...)
		}
		ids = append(ids, id)
	}
	if got := strings.Join(ids, " "); got != `none "back" "reloaded" "meanwhile"` {
		t.Errorf("the browser has sent the ids %s", got)
	}
	for _, text := range br.said {
		if !strings.Contains(text, "net::ERR_") { // it says that it has lost a connection
			t.Errorf("the browser complains: %s", text)
		}
	}
}

// testEventSourceOfAnotherOrigin has a page listen to an API of another origin: where the
// backend allows that it may, from the first event on, and after an outage too.
func testEventSourceOfAnotherOrigin(t *testing.T, caddy binary) {
	br := newBrowser(t)
	b := serveBackend(t, nil)
	var down atomic.Bool
	open := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		if strings.HasPrefix(r.URL.Path, "/open/") {
			w.Header().Set("Access-Control-Allow-Origin", "*")
		}
		b.ServeHTTP(w, r)
	})
	b.kill()
	b.listen(t, open)
	port := freePort(t)
	sites := site(port, `
	long_poll {
		interval 100ms
		stream
	}
	reverse_proxy `+b.addr)
	s := caddy.start(t, "", sites)
	pages := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, strings.Replace(eventPage, "API", "http://127.0.0.1:"+port+r.URL.Path, 1))
	}))
	visit := func(path string) {
		br.call("Page.navigate", map[string]any{"url": "http://" + pages.addr + path}, nil)
	}
	visit("/closed/a")
	br.await(`^closed\s*$`)
	visit("/open/a")
	br.await(`^open one\s*$`)
	b.set("two")
	br.await(`^open one two\s*$`)
	s.reload(t, sites)
	br.await(`^open one two connecting open\s*$`)
	b.set("three")
	br.await(`^open one two connecting open three\s*$`)

	// Who comes back while nobody knows who may read it waits until that is known.
	down.Store(true)
	s.reload(t, sites)
	br.await(`^open one two connecting open three connecting\s*$`)
	waitFor(t, "the page again", func() bool { return s.metric("caddy_long_poll_parked_requests") == 1 })
	s.reload(t, sites)
	br.await(`^open one two connecting open three connecting connecting\s*$`)
	b.set("four")
	down.Store(false)
	br.await(`^open one two connecting open three connecting connecting open four\s*$`)
}
