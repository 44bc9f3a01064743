package longpoll

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// browser is a headless Chromium with one page, driven over a pipe.
type browser struct {
	t       *testing.T
	out     *os.File
	in      *bufio.Reader
	calls   int
	session string
	said    []string // exceptions, and what the console says
}

// newBrowser starts Chromium, or skips the test.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("chromium is not installed: the page is not tested")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
		"--user-data-dir="+t.TempDir(), "--remote-debugging-pipe")
	theirIn, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	in, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // 3 and 4
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirIn.Close()
	theirOut.Close()
	b := &browser{t: t, out: out, in: bufio.NewReader(in)}
	t.Cleanup(func() {
		b.out.Write([]byte(`{"id":1000000,"method":"Browser.close"}` + "\x00"))
		out.Close()
		cmd.Wait() // it ends its children and leaves its directory alone before
		in.Close()
	})
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	b.call("Page.enable", nil, nil)
	b.call("Runtime.enable", nil, nil)
	b.call("Log.enable", nil, nil)
	return b
}

// call has the browser do something.
func (b *browser) call(method string, params map[string]any, result any) {
	b.t.Helper()
	b.calls++
	message := map[string]any{"id": b.calls, "method": method}
	if params != nil {
		message["params"] = params
	}
	if b.session != "" {
		message["sessionId"] = b.session
	}
	text, err := json.Marshal(message)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.out.Write(append(text, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	for {
		text, err := b.in.ReadBytes(0)
		if err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
		var answer struct {
			ID     int
			Method string
			Result json.RawMessage
			Error  json.RawMessage
			Params json.RawMessage
		}
		if err := json.Unmarshal(text[:len(text)-1], &answer); err != nil {
			b.t.Fatal(err)
		}
		switch answer.Method {
		case "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Page.javascriptDialogOpening":
			b.said = append(b.said, string(answer.Params))
		}
		if answer.ID != b.calls {
			continue
		}
		if answer.Error != nil {
			b.t.Fatalf("%s: %s", method, answer.Error)
		}
		if result != nil {
			if err := json.Unmarshal(answer.Result, result); err != nil {
				b.t.Fatal(err)
			}
		}
		return
	}
}

// eval returns what an expression is in the page, as text.
func (b *browser) eval(expression string) string {
	b.t.Helper()
	var answer struct {
		Result struct{ Value any }
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &answer)
	return fmt.Sprint(answer.Result.Value)
}

// await waits until the text of the page matches, and returns it.
func (b *browser) await(pattern string) string {
	b.t.Helper()
	re := regexp.MustCompile(pattern)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(30 * time.Second)
	for {
		text := b.eval("document.body ? document.body.innerText : ''")
		if re.MatchString(text) {
			return text
		}
		select {
		case <-ticker.C:
		case <-deadline:
			b.t.Fatalf("the page does not say %q:\n%s\n%v", pattern, text, b.said)
		}
	}
}

// look takes a screenshot, into the directory that LONG_POLL_SCREENSHOTS names if
// somebody wants to see it.
func (b *browser) look(name, scheme string, width int) {
	b.t.Helper()
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": false}, nil)
	var shot struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil || len(png) < 5000 {
		b.t.Errorf("screenshot %s has %d bytes: %v", name, len(png), err)
	}
	if dir := os.Getenv("LONG_POLL_SCREENSHOTS"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
			b.t.Error(err)
		}
	}
}

// adminServer serves the routes as the admin endpoint does.
func adminServer(t *testing.T) (*httptest.Server, *adminAPI) {
	t.Helper()
	a := newAdminAPI()
	mux := http.NewServeMux()
	for _, route := range a.Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := route.Handler.ServeHTTP(w, r); err != nil {
				http.Error(w, err.Error(), apiStatus(err))
			}
		})
	}
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		// Shutdown, not Close: it must not have to wait for the page's long poll.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := server.Config.Shutdown(ctx); err != nil {
			t.Errorf("shutting the admin server down: %v", err)
		}
		server.Close()
	})
	return server, a
}

// What a person who has never seen the project must find out from the page alone:
// that a backend is down, which resource 900 clients wait for, and how many
// requests were saved. And nothing in a path can break the page.
func TestPage(t *testing.T) {
	b := newBrowser(t)
	server, _ := adminServer(t)
	s := realSite(t, "hold 1h 0%\ninterval 20ms\n")
	s.backend.say(tagged("1"))
	redis := new(statusWaker)
	s.wakers = []namedWaker{{redis, "redis"}}
	const markup = `/<img src=x onerror=alert(1)>/<script>document.title='broken'</script>/"'&amp;`
	parkMany := func(path string, n int) {
		for range n {
			r := newRequest(http.MethodGet, "http://shop.example/", "", `If-None-Match: "1"`)
			r.URL.Path = path
			s.send(r)
		}
	}
	parkMany("/orders/42", 900)
	parkMany(markup, 12)
	parkMany("/orders/7", 41)
	until(t, "953 are parked", func() bool { return s.lot.Parked() == 953 })

	b.call("Page.navigate", map[string]any{"url": server.URL + "/long_poll/"}, nil)
	text := b.await(`All is well`)
	wantText(t, text, `(?i)parked now\s+953\b`, `(?s)/orders/42.*GET shop\.example.*900`, regexp.QuoteMeta(markup))
	if first := b.eval("document.querySelector('tbody tr').innerText"); !strings.Contains(first, "/orders/42") || !strings.Contains(first, "900") {
		t.Errorf("the first row is %q; want /orders/42 with 900", first)
	}
	if got := b.eval("document.querySelectorAll('td img, td script').length"); got != "0" {
		t.Errorf("%s elements were made of a path", got)
	}
	if title := b.eval("document.title"); !strings.HasPrefix(title, "953 parked") {
		t.Errorf("the title is %q", title)
	}
	b.look("light", "light", 1280)

	// The backend goes down.
	s.backend.say(func(http.ResponseWriter, *http.Request) error {
		return caddyhttp.Error(http.StatusBadGateway, errors.New("secret"))
	})
	text = b.await(`A backend has been failing`)
	wantText(t, text, `502 Bad Gateway`, `953 requests wait`, `most wait at GET shop.example/orders/42`, `failed 502`)
	if strings.Contains(text, "secret") {
		t.Errorf("the page shows the text of an error")
	}
	b.look("outage", "light", 1280)
	b.look("outage-dark", "dark", 1280)
	b.look("outage-narrow", "dark", 420)

	// A source of wake-ups goes too, and somebody tries long_poll on another site.
	redis.down.Store(true)
	other := realSite(t, "shadow")
	for range 7 {
		other.get("/", has("1")).answer()
	}
	text = b.await(`redis can not be heard`)
	wantText(t, text, `(?is)shadow: what long_poll would do.*would have been parked`)
	b.look("unheard", "light", 1280)

	// It comes back with something new: all are released.
	s.backend.say(tagged("2"))
	b.await(`(?i)parked now\s+0\b`)
	text = b.await(`All is well`)
	saved := readCounter(theMetrics.saved)
	wantText(t, text, `(?i)requests saved\s+`+regexp.QuoteMeta(grouped(saved))+`\b`)
	b.look("released", "dark", 1280)
	if len(b.said) > 0 {
		t.Errorf("the browser complains: %v", b.said)
	}

	// Without Caddy it says so.
	server.Listener.Close()
	server.CloseClientConnections()
	b.await(`Caddy does not answer`)
}

// realSite is newSite for tests in real time.
func realSite(t testing.TB, block string) *site {
	t.Helper()
	h := parseHandler(t, block)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		t.Fatalf("provisioning: %v", err)
	}
	t.Cleanup(func() { h.Cleanup() })
	h.logger = zap.NewNop()
	s := &site{Handler: h, t: t, backend: newBackend(), server: new(caddyhttp.Server), began: time.Now()}
	t.Cleanup(func() {
		for _, c := range s.clients {
			c.leave()
			<-c.done
		}
	})
	return s
}

func wantText(t *testing.T, text string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(text) {
			t.Errorf("the page does not say %q:\n%s", p, text)
		}
	}
}

// grouped is a number as the page writes it.
func grouped(n uint64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("in vain waited until %s", what)
		}
	}
}

// The policy forbids everything that the page does not need.
func TestPagePolicy(t *testing.T) {
	w := httptest.NewRecorder()
	if err := newAdminAPI().servePage(w, httptest.NewRequest(http.MethodGet, "/long_poll/", nil)); err != nil {
		t.Fatal(err)
	}
	policy := w.Header().Get("Content-Security-Policy")
	for _, directive := range strings.Split(policy, "; ") {
		name, sources, _ := strings.Cut(directive, " ")
		if strings.Contains(sources, "unsafe") || strings.Contains(sources, "*") || strings.Contains(sources, "http") {
			t.Errorf("%s allows %s", name, sources)
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none'; script-src 'sha256-") {
		t.Errorf("got policy %q", policy)
	}
	for _, forbidden := range []string{" style=", " onclick=", "innerHTML", "src=\"http", "@import", "url("} {
		if strings.Contains(page, forbidden) {
			t.Errorf("the page has %q, which its policy forbids or its safety", forbidden)
		}
	}
	if n := strings.Count(page, "<script") + strings.Count(page, "<style"); n != 2 {
		t.Errorf("the page has %d scripts and styles; want one of each, for each has one hash", n)
	}
}
