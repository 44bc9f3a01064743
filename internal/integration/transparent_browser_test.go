package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// shop is a backend with pages, that has never heard of versions: what it answers
// bears no ETag.
type shop struct {
	mu    sync.Mutex // protects what follows
	me    string     // what /api/me says
	asked map[string]int
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked == nil {
		s.asked = make(map[string]int)
	}
	s.asked[r.URL.Path]++
	page := func(kind, text string) {
		w.Header().Set("Content-Type", kind)
		io.WriteString(w, text)
	}
	switch r.URL.Path {
	case "/api/me":
		page("application/json", fmt.Sprintf(`{"name":%q}`, s.me))
	case "/style.css", "/app.js":
		w.Header().Set("Cache-Control", "max-age=31536000, immutable")
		if r.URL.Path == "/app.js" {
			page("text/javascript", `document.getElementById("said").append(" script");`)
		} else {
			page("text/css", `#said { color: rgb(1, 2, 3) }`)
		}
	case "/worker.js":
		page("text/javascript", `
			addEventListener("install", e => skipWaiting());
			addEventListener("activate", e => e.waitUntil(clients.claim()));
			addEventListener("fetch", e => { if (e.request.url.includes("/api/")) e.respondWith(fetch(e.request)) });`)
	case "/favicon.ico":
		http.NotFound(w, r)
	default:
		page("text/html", `<!DOCTYPE html><link rel=stylesheet href=/style.css><body><p id=said>hello</p><script>
			const say = text => said.append(" " + text);
			const ask = (options) => fetch("/api/me", options).then(async r => ({status: r.status, etag: r.headers.get("ETag"),
				why: (r.headers.get("Long-Poll") || "").split(";")[0], text: await r.text()}));
			const tell = r => say([r.status, r.why, r.text].join(" "));
			const failed = e => say("failed: " + e);
			</script><script src=/app.js></script><script>`+scripts[r.URL.Path]+`</script>`)
	}
}

// scripts are what a page does when it has been loaded, by its path.
var scripts = map[string]string{
	"/fetches":     `ask().then(tell, failed)`,
	"/revalidates": `ask({cache: "no-cache"}).then(tell, failed)`,
	"/renews":      `ask({cache: "reload"}).then(tell, failed)`,
	"/worker": `
		const controlled = navigator.serviceWorker.controller ? Promise.resolve() :
			new Promise(done => navigator.serviceWorker.addEventListener("controllerchange", done));
		navigator.serviceWorker.register("/worker.js").then(() => controlled).then(() => ask()).then(tell, failed)`,
	"/polls": `
		ask().then(first => { tell(first); return ask({headers: {"Prefer": "wait=20", "If-None-Match": first.etag}}) }).then(tell, failed)`,
	"/waits":   `ask({headers: {"Prefer": "wait=20"}}).then(first => ask({headers: {"Prefer": "wait=12", "If-None-Match": first.etag}})).then(r => say(r.status + " " + r.why), failed)`,
	"/nothing": ``,
}

func (s *shop) set(me string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.me = me
}

// times is how often a path was asked for.
func (s *shop) times(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[path]
}

// testBrowser has a browser load pages whose scripts fetch, as those do that have
// never heard of long_poll, and one whose script polls: over an origin that browsers
// trust, as they do HTTPS, and over one that they do not, where they send no
// Sec-Fetch fields; with long_poll on the API and on the whole site.
func testBrowser(t *testing.T, caddy binary) {
	type origin struct {
		host    string
		matcher string
	}
	for name, o := range map[string]origin{
		"API": {"127.0.0.1", "/api/*"}, "whole site": {"127.0.0.1", ""},
		"API, plain": {"shop.example", "/api/*"}, "whole site, plain": {"shop.example", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBrowser(t, "--host-resolver-rules=MAP shop.example 127.0.0.1", "--disable-features=HttpsUpgrades,HttpsFirstBalancedModeAutoEnable")
			shop := &shop{me: "alice"}
			back := serveBackend(t, shop)
			port := freePort(t)
			s := caddy.start(t, "", fmt.Sprintf("http://%s:%s {\n\tbind 127.0.0.1\n\tlong_poll %s {\n\t\tinterval 100ms\n\t}\n\treverse_proxy %s\n}\n",
				o.host, port, o.matcher, back.addr))
			at := "http://" + o.host + ":" + port
			load := func(path string, want ...string) {
				t.Helper()
				b.call("Page.navigate", map[string]any{"url": "about:blank"}, nil)
				b.call("Page.navigate", map[string]any{"url": at + path}, nil)
				b.await(`^hello script` + strings.Join(append([]string{""}, want...), " "))
			}
			reload := func(want string) {
				t.Helper()
				b.eval(`said.textContent = "old"`)
				b.call("Page.reload", nil, nil)
				b.await(`^hello script ` + want)
			}
			const alice = `200 answered \{"name":"alice"\}`

			// What is no poll is over at once, whatever the browser's cache adds to it.
			for _, path := range []string{"/fetches", "/revalidates", "/renews", "/worker"} {
				if path == "/worker" && b.eval("isSecureContext") != "true" {
					continue // there are none
				}
				before := shop.times("/api/me")
				load(path, alice)
				reload(alice)
				reload(alice)
				load(path, alice)
				if n := shop.times("/api/me") - before; n != 4 {
					t.Errorf("%s: the backend was asked %d times by 4 pages", path, n)
				}
			}
			if waited := s.outcomes("changed") + s.outcomes("expired") + s.metric("caddy_long_poll_parked_requests"); waited > 0 {
				t.Errorf("%d fetches were parked", waited)
			}

			// The style sheet and the script stay what the backend said of them.
			for _, path := range []string{"/style.css", "/app.js"} {
				before := shop.times(path)
				load("/nothing")
				load("/nothing")
				if n := shop.times(path) - before; n > 0 {
					t.Errorf("%s was asked for %d times, while the browser has it for a year", path, n)
				}
				c := newClient(t, port)
				r := c.get(path)
				if o.host == "127.0.0.1" && r.header.Get("Cache-Control") != "max-age=31536000, immutable" {
					t.Errorf("%s: got Cache-Control: %q", path, r.header.Get("Cache-Control"))
				}
			}
			if got := b.eval("getComputedStyle(said).color"); got != "rgb(1, 2, 3)" {
				t.Errorf("the page has the color %s", got)
			}

			// What a page's own script says is heard.
			load("/waits", "304 expired")
			load("/polls", alice)
			s.waitParked(1)
			if text := b.eval("said.innerText"); !regexp.MustCompile(`^hello script ` + alice + `$`).MatchString(text) {
				t.Errorf("while it is parked the page says %q", text)
			}
			shop.set("bob")
			b.await(alice + ` 200 changed \{"name":"bob"\}`)
			s.waitParked(0)
		})
	}
}
