package integration_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	longpoll "github.com/caddy-longpoll/caddy-longpoll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/ops"
	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
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

// newBrowser starts Chromium, with more flags if there are any, or skips the test.
func newBrowser(t *testing.T, flags ...string) *browser {
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
	profile, err := os.MkdirTemp("", "lp")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append(flags, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad", "--hide-scrollbars",
		"--user-data-dir="+profile, "--remote-debugging-pipe")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has children of its own
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
	overdue := time.AfterFunc(5*time.Minute, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	b := &browser{t: t, out: out, in: bufio.NewReader(in)}
	t.Cleanup(func() {
		overdue.Stop()
		out.Close()
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // all of it, before it is waited for: the number is still its own
		cmd.Wait()
		in.Close()
		// Its children may still be at their last files when it has ended.
		until(t, "the browser's profile is removed", func() bool { return os.RemoveAll(profile) == nil })
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
	end := time.After(deadline)
	for {
		text := b.eval("document.body ? document.body.innerText : ''")
		if re.MatchString(text) {
			return text
		}
		select {
		case <-ticker.C:
		case <-end:
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

// fits fails where something in the page is wider than it: cut off, or to be scrolled for.
func (b *browser) fits() {
	b.t.Helper()
	const wide = `[...document.querySelectorAll("main *")].filter(e => {
		const box = e.getBoundingClientRect();
		return box.width && box.right > innerWidth + 1 || getComputedStyle(e).overflowX === "visible" && e.matches("b, code, p, strong, h2") && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline";
	}).map(e => e.tagName + "#" + e.id + " " + e.textContent.slice(0, 30)).slice(0, 5).join("; ")`
	if got := b.eval(wide); got != "" {
		b.t.Errorf("at %s px these are wider than their place: %s", b.eval("innerWidth"), got)
	}
}

// What a person who has never seen the project must find out from the page alone:
// that a backend is down, which resource 900 clients wait for, how many requests were
// saved, and that clients are turned away. And nothing in a path can break the page.
func TestPage(t *testing.T) {
	b := newBrowser(t)
	server := adminServer(t)
	hold, interval := caddy.Duration(time.Hour), caddy.Duration(20*time.Millisecond)
	h := newHandler(t, &longpoll.Handler{Hold: &hold, Interval: &interval})
	h.say(tagged(`"1"`))
	redis := new(source)
	h.seen.Wakers = []ops.Source{redis.as("redis")}
	const markup = `/<img src=x onerror=alert(1)>/<script>document.title='broken'</script>/"'&amp;`
	parkMany := func(path, query string, n int) {
		for range n {
			h.pollFor(path, query)
		}
	}
	parkMany("/orders/42", "", 900)
	parkMany(markup, "", 12)
	parkMany("/orders/7", "since=secret1", 21)
	parkMany("/orders/7", "since=secret2", 20)
	until(t, "953 are parked", func() bool { return h.seen.Lot.Parked() == 953 })

	b.call("Page.navigate", map[string]any{"url": server.URL + "/long_poll/"}, nil)
	text := b.await(`All is well`)
	wantText(t, text, `(?i)parked now\s+953\b`, `(?s)/orders/42.*GET shop\.example.*900`, regexp.QuoteMeta(markup), `(?s)/orders/7.*differs in \?since`)
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
	b.fits()

	t.Run("rows are sorted, filtered and woken", func(t *testing.T) {
		b.t = t
		rows := func() string {
			return b.eval("[...document.querySelectorAll('tbody bdi')].map(e => e.textContent).join(' ')")
		}
		wantRows := func(want string) {
			t.Helper()
			until(t, "the rows are "+want, func() bool { return rows() == want })
		}
		wantRows("/orders/42 /orders/7 /orders/7 " + markup)
		b.eval(`document.querySelector("[data-sort=path]").click()`)
		wantRows(markup + " /orders/42 /orders/7 /orders/7")
		b.eval(`document.getElementById("path").value = "ORDERS"; document.getElementById("path").dispatchEvent(new Event("input"))`)
		wantRows("/orders/42 /orders/7 /orders/7")
		b.eval(`document.getElementById("failing").click()`)
		b.await(`No resource is like that`)
		b.eval(`document.getElementById("failing").click(); document.querySelector("[data-sort=waiters]").click()`)
		wantRows("/orders/42 /orders/7 /orders/7")
		woken := func() float64 {
			for _, m := range gathered(t)["caddy_long_poll_wakes_total"].GetMetric() {
				if m.GetLabel()[0].GetValue() == "admin" {
					return m.GetCounter().GetValue()
				}
			}
			return 0
		}
		before := woken()
		b.eval(`document.querySelector("tbody button").click()`)
		b.await(`✓`)
		if got := woken() - before; got != 1 {
			t.Errorf("got %v wake-ups; want 1", got)
		}
		b.eval(`document.getElementById("path").value = ""; document.getElementById("path").dispatchEvent(new Event("input"))`)
		wantRows("/orders/42 /orders/7 /orders/7 " + markup)
	})
	b.t = t

	// One of the resources fails: who waits for the others does not wait for it.
	h.say(func(w http.ResponseWriter, r *http.Request) error {
		if r.URL.Path == "/orders/7" {
			return caddyhttp.Error(http.StatusBadGateway, errors.New("secret"))
		}
		return tagged(`"1"`)(w, r)
	})
	text = b.await(`2 resources fail`)
	wantText(t, text, `A backend has been failing`, `502 Bad Gateway`, `41 requests wait for it`, `of 4, most wait at GET shop.example/orders/7`, `failed 502`)

	// All of them do.
	h.say(func(http.ResponseWriter, *http.Request) error {
		return caddyhttp.Error(http.StatusBadGateway, errors.New("secret"))
	})
	text = b.await(`4 resources fail`)
	wantText(t, text, `953 requests wait`, `most wait at GET shop.example/orders/42`)
	if strings.Contains(text, "secret") {
		t.Errorf("the page shows the text of an error, or a value")
	}
	b.look("outage", "light", 1280)
	b.look("outage-dark", "dark", 1280)
	b.look("outage-narrow", "dark", 400)
	b.fits()

	// A source of wake-ups goes too, and somebody tries long_poll on another site.
	redis.down.Store(true)
	other := newHandler(t, &longpoll.Handler{Shadow: true})
	other.say(tagged(`"1"`))
	for range 7 {
		other.poll("/")
	}
	text = b.await(`redis can not be heard`)
	wantText(t, text, `(?is)shadow: what long_poll would do.*would have been parked`)
	b.look("unheard", "light", 1280)

	// It comes back with something new: all are released.
	redis.down.Store(false)
	h.say(tagged(`"2"`))
	b.await(`(?i)parked now\s+0\b`)
	until(t, "the page knows of all that was saved", func() bool {
		text = b.await(`All is well`)
		saved := uint64(gathered(t)["caddy_long_poll_checks_saved_total"].GetMetric()[0].GetCounter().GetValue())
		return regexp.MustCompile(`(?i)requests saved\s+` + regexp.QuoteMeta(grouped(saved)) + `\b`).MatchString(text)
	})
	wantText(t, text, `(?i)release of a change\s+≤`)
	b.look("released", "dark", 1280)

	// Of a thousand, twenty find a place.
	h = newHandler(t, &longpoll.Handler{Hold: &hold, Bounds: park.Bounds{MaxParked: 20}})
	h.say(tagged(`"1"`))
	parkMany("/jobs/1", "", 20)
	until(t, "20 are parked", func() bool { return h.seen.Lot.Parked() == 20 })
	text = b.await(`Little is left of max_parked`)
	wantText(t, text, `All is well`, `max_parked 20 of 20`)
	parkMany("/jobs/1", "", 3000)
	b.await(`3,000 of`)
	b.await(`/jobs/1\s+GET shop\.example\s+20\s`) // who is about to be refused waits until then
	text = b.await(`% of the requests are refused`)
	wantText(t, text, `(?i)parked now\s+20\b`, `3,000 of`, `max_parked 20 of 20`)
	if strings.Contains(text, "All is well") {
		t.Errorf("all is well although requests are refused:\n%s", text)
	}
	b.look("refused", "light", 400)
	b.fits()
	if len(b.said) > 0 {
		t.Errorf("the browser complains: %v", b.said)
	}

	// Without Caddy it says so, and what it shows is what was: all of it.
	server.Listener.Close()
	server.CloseClientConnections()
	text = b.await(`Caddy does not answer`)
	wantText(t, text, `(?i)parked, when last heard of\s+20\b`, `(?s)/jobs/1.*20`)
	b.look("gone", "dark", 400)
}

// testOpenPage: an open page costs Caddy's log one line, however much happens.
func testOpenPage(t *testing.T, caddy binary) {
	b := serveBackend(t, &backend{value: "one"})
	port := freePort(t)
	s := caddy.start(t, "", site(port, "\tlong_poll\n\treverse_proxy "+b.addr))
	resp, err := (&http.Client{Transport: s.admin.Transport}).Get("http://admin/long_poll/live?limit=5")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	c := newClient(t, port)
	read := bufio.NewScanner(resp.Body)
	read.Buffer(nil, 1<<20)
	for i := range 13 { // longer than the admin server's read timeout
		if !read.Scan() {
			t.Fatalf("line %d: %v", i, read.Err())
		}
		c.get("/").want(t, 200, "answered")
	}
	if n := strings.Count(s.logs.String(), "/long_poll/"); n != 1 {
		t.Errorf("the log has %d lines of the page; want 1", n)
	}
	s.reload(t, site(port, "\tlong_poll\n\treverse_proxy "+b.addr))
	for read.Scan() {
	}
	if err := read.Err(); err != nil {
		t.Errorf("a reload breaks the stream off: %v", err)
	}
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
