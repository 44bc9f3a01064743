package integration_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// demo is the running demo, on other ports and in a directory of its own.
type demo struct {
	*process
	*client
	admin *client
}

// startDemo starts the demo as README does.
func startDemo(t *testing.T, caddy binary) *demo {
	t.Helper()
	dir := shortTempDir(t)
	ports := make(map[string]string)
	for _, port := range []string{"8090", "8091", "8092", "8093"} {
		ports[port] = freePort(t)
	}
	elsewhere := regexp.MustCompile(`:809\d\b`)
	for _, part := range []string{"testdata/demo", "clients/js"} {
		err := filepath.WalkDir(part, func(path string, d os.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.Name() == "written": // by somebody who has tried the demo here
				return filepath.SkipDir
			case d.IsDir():
				return os.MkdirAll(filepath.Join(dir, path), 0o700)
			}
			text := elsewhere.ReplaceAllStringFunc(read(t, path), func(port string) string { return ":" + ports[port[1:]] })
			text = strings.Replace(text, "format console", "format json", 1) // which run reads
			return os.WriteFile(filepath.Join(dir, path), []byte(text), 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(caddy.path, "run", "--config", "testdata/demo/Caddyfile")
	cmd.Dir, cmd.Env = dir, environment(dir)
	d := &demo{client: newClient(t, ports["8090"]), admin: newClient(t, ports["8092"])}
	d.process = run(t, cmd)
	return d
}

// testDemo: what the quickstart says of the demo.
func testDemo(t *testing.T, caddy binary) {
	d := startDemo(t, caddy)
	log := d.logs.String()
	if !regexp.MustCompile(`server running.*open http://localhost:`).MatchString(log) {
		t.Errorf("nothing says where to look:\n%s", log)
	}
	if regexp.MustCompile(`(?i)\bwarn|\berror`).MatchString(log) {
		t.Errorf("it complains at its start:\n%s", log)
	}

	const path = "/api/order.json"
	first := d.get(path, "Prefer: wait=25").want(t, 200, "answered").wantBody(t, `{"order": 42, "status": "packing"}`+"\n").
		wantFields(t, "Cache-Control: no-cache", "Content-Type: application/json")
	version := "If-None-Match: " + first.header.Get("ETag")
	d.expires(path, version, "Prefer: wait=3")
	p := d.poll(path, version)
	waitFor(t, "one that is parked", func() bool { return d.parked() == 1 })
	wantWaiting(t, []*pending{p})
	d.send("POST", path+"?status=shipped", "").wait().want(t, 204, "bypassed")
	p.wait().want(t, 200, "changed").wantBody(t, `{"order": 42, "status": "shipped"}`+"\n")

	// Nothing that is posted can break it, but what is to.
	for _, status := range []string{`"}, "`, "%7B%7Bhttp.error 500%7D%7D", "%0A", "", "%FF"} {
		d.send("POST", path+"?status="+strings.ReplaceAll(status, " ", "%20"), "").wait().want(t, 204, "bypassed")
		if r := d.get(path).want(t, 200, "answered"); !json.Valid([]byte(r.body)) {
			t.Errorf("after %q it says %s", status, r.body)
		}
	}
	d.send("POST", path+"?status=broken", "").wait().want(t, 204, "bypassed")
	d.get(path).want(t, 503, "answered")
}

// parked is how many clients the admin endpoint knows to wait.
func (d *demo) parked() (waiters int) {
	for _, r := range d.resources() {
		waiters += r.Waiters
	}
	return waiters
}

type demoResource struct {
	Path    string
	Waiters int
}

func (d *demo) resources() (waitedFor []demoResource) {
	var all []demoResource
	if err := json.Unmarshal([]byte(d.admin.get("/long_poll/resources").body), &all); err != nil {
		d.process.t.Fatal(err)
	}
	for _, r := range all {
		if r.Waiters > 0 {
			waitedFor = append(waitedFor, r)
		}
	}
	return waitedFor
}

// TestDemoPage: what somebody sees who tries all of the page's buttons.
func TestDemoPage(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	caddy := buildCaddy(t)
	b := newBrowser(t)
	d := startDemo(t, caddy)
	waiting := func(n int) {
		t.Helper()
		waitFor(t, strconv.Itoa(n)+" that are parked", func() bool { return d.parked() == n })
	}
	number := func(id string) int {
		n, _ := strconv.Atoi(b.eval("document.getElementById('" + id + "').textContent"))
		return n
	}
	click := func(selector string) { b.eval("document.querySelector(`" + selector + "`).click()") }
	// The page shows its counts once a second: fresh waits for the next time.
	fresh := func(id string) int {
		t.Helper()
		shown := "document.getElementById('" + id + "').textContent"
		b.eval(shown + " = ''")
		waitFor(t, "the page to show its counts", func() bool { return b.eval(shown) != "" })
		return number(id)
	}
	change := func(n int) { click("#changes button:nth-child(" + strconv.Itoa(n) + ")") }
	status := func() string {
		return b.eval("document.getElementById('status').textContent + (document.getElementById('status').classList.contains('stale') ? ', stale' : '')")
	}
	shows := func(want string) {
		t.Helper()
		waitUntil(t, func() string { return "the page shows " + status() + " instead of " + want }, func() bool { return status() == want })
	}
	home := strings.Replace(d.base, "127.0.0.1", "localhost", 1)

	b.call("Page.navigate", map[string]any{"url": home}, nil)
	b.await(`1 of 1 clients are up to date`)
	shows("packing")
	waiting(1)
	change(2)
	shows("shipped")
	wantText(t, b.await(`changed;held`), `answered;held`)
	waiting(1)

	click("#more")
	b.await(`51 of 51 clients are up to date`)
	waiting(51)
	if r := d.resources(); len(r) != 1 || r[0].Path != "/api/order.json" {
		t.Errorf("the clients wait for %v; want one resource", r)
	}
	asked := number("asked")
	change(3)
	shows("delivered")
	waitFor(t, "all clients to have asked again", func() bool { return number("asked") >= asked+51 })
	waiting(51)
	b.await(`The backend was asked\s+\d+`)
	b.look("demo", "light", 1280)
	b.look("demo-dark", "dark", 1280)
	b.look("demo-narrow", "dark", 420)

	click("#ways label:nth-of-type(2) input")
	waiting(0)
	asked, backend := number("asked"), number("backend")
	waitFor(t, "the backend to be asked by each client", func() bool { return number("asked") >= asked+102 && number("backend") >= backend+51 })
	b.await(`51 of 51 clients are up to date[\s\S]*no long_poll`)
	b.look("demo-plain", "light", 1280)
	if len(b.said) > 0 {
		t.Errorf("the browser complains: %v", b.said)
	}

	// The backend breaks.
	change(4)
	shows("delivered, stale")
	b.await(`The backend fails \(503\)`)
	b.look("demo-broken", "light", 1280)
	change(1)
	shows("packing")
	click("#ways label:nth-of-type(3) input")
	b.await(`51 of 51 clients are up to date`)
	waiting(51)
	asked = fresh("asked")
	change(2)
	shows("shipped")
	if n := fresh("asked"); n != asked {
		t.Errorf("who hears asks %d times for a change", n-asked)
	}
	b.await(`event\s+message`)
	// A reload ends all streams: who comes back is told nothing that it knows, and is up to date.
	if r := d.admin.send("POST", "/load", d.admin.get("/config/").body, "Content-Type: application/json", "Cache-Control: must-revalidate").wait(); r.status != http.StatusOK {
		t.Fatalf("reload: %d %s", r.status, r.body)
	}
	waitFor(t, "all streams to begin anew", func() bool { return number("asked") >= asked+51 })
	b.await(`51 of 51 clients are up to date`)
	shows("shipped")
	change(1)
	shows("packing")
	click("#ways label:nth-of-type(1) input")
	waiting(51)
	click("#fewer")
	b.await(`1 of 1 clients are up to date`)
	waiting(1)

	click("#admin")
	b.await(`(?i)parked now`)

	// Two windows talk.
	b.call("Page.navigate", map[string]any{"url": home + "/chat.html"}, nil)
	b.await(`A chat`)
	b.call("Runtime.evaluate", map[string]any{"expression": "other = open('chat.html'); ''", "userGesture": true}, nil)
	waitFor(t, "two windows that wait for the chat", func() bool {
		r := d.resources()
		return len(r) == 1 && r[0].Path == "/api/chat" && r[0].Waiters == 2
	})
	b.eval("document.getElementById('from').value = 'Ada'; document.getElementById('text').value = '<b>Hello</b>'; document.querySelector('#say button').click()")
	b.await(`Ada\s*<b>Hello</b>`)
	waitFor(t, "the other window to hear it", func() bool {
		return strings.Contains(b.eval("other.document.getElementById('said').innerText"), "<b>Hello</b>")
	})
	b.eval("other.document.getElementById('from').value = 'Bob'; other.document.getElementById('text').value = 'Hi'; other.document.querySelector('#say button').click()")
	b.await(`Bob\s*Hi`)
	b.look("demo-chat", "light", 1280)
	b.eval("other.close(); ''")

	// Without Caddy it says so.
	b.call("Page.navigate", map[string]any{"url": home}, nil)
	shows("packing")
	waiting(1)
	d.exit(t)
	shows("packing, stale")
	b.await(`No answer from Caddy`)
}
