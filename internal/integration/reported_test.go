package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	longpoll "github.com/caddy-longpoll/caddy-longpoll"
)

// A page of another origin polls an API that allows that: what it gets at the end of a
// hold it may read, too.
func TestPageOfAnotherOrigin(t *testing.T) {
	b := newBrowser(t)
	hold := caddy.Duration(time.Minute)
	h := newHandler(t, &longpoll.Handler{Hold: &hold})
	open := func(says func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Access-Control-Allow-Origin", "*")
			w.Header().Set("Access-Control-Allow-Headers", "If-None-Match, Prefer")
			w.Header().Set("Access-Control-Expose-Headers", "ETag, Long-Poll, X-RateLimit-Remaining")
			w.Header().Set("X-RateLimit-Remaining", "7")
			if r.Method == http.MethodOptions {
				w.WriteHeader(http.StatusNoContent)
				return nil
			}
			return says(w, r)
		}
	}
	h.say(open(tagged(`"1"`)))
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server)), caddyhttp.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) error {
				return h.says.Load().(func(http.ResponseWriter, *http.Request) error)(w, r)
			}))
	}))
	t.Cleanup(api.Close)
	pages := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.ReplaceAll(pollingPage, "API", api.URL+"/orders/42"))
	}))
	t.Cleanup(pages.Close)

	b.call("Page.navigate", map[string]any{"url": strings.Replace(pages.URL, "127.0.0.1", "a.localhost", 1)}, nil)
	// Where the machine stands still, a poll's time is up before it is parked, or right before
	// the change.
	b.await(`200 "1" answered;.* 7\n(304 "1" answered;.* 7\n)*304 "1" expired;.* 7\n`)
	var text string
	for i := 2; !strings.Contains(text, " changed;"); i++ {
		if i > attempts {
			t.Fatalf("no change reaches a poll that is parked:\n%s", text)
		}
		until(t, "the page waits", func() bool { return h.seen.Lot.Parked() == 1 })
		tag := fmt.Sprintf(`"%d"`, i)
		h.say(open(tagged(tag)))
		text = b.await(fmt.Sprintf(`200 %[1]s (changed|answered);.* 7\n(304 %[1]s answered;.* 7\n)*304 %[1]s expired;.* 7`, tag))
	}
	b.eval("over = true")
	if strings.Contains(text, "Error") {
		t.Errorf("the page says %s", text)
	}
}

// pollingPage is the loop of a page.
const pollingPage = `<!doctype html><pre></pre><script type=module>
globalThis.over = false
let etag, polls = 0
while (!over && polls++ < 100) {
	let line
	try {
		const headers = { Prefer: 'wait=2' }
		if (etag) headers['If-None-Match'] = etag
		const answer = await fetch('API', { headers, cache: 'no-store' })
		const field = name => answer.headers.get(name)
		etag = field('ETag')
		line = [answer.status, etag, field('Long-Poll'), field('X-RateLimit-Remaining')].join(' ')
	} catch (error) {
		line = error
		await new Promise(retry => setTimeout(retry, 100))
	}
	document.querySelector('pre').append(line + '\n')
}
</script>`
