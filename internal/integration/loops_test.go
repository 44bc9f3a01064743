package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	longpoll "github.com/caddy-longpoll/caddy-longpoll"
)

// loops are the programs of docs/clients.md, by language: the file that each is written
// to, what is added to it, and the commands that have it run.
var loops = map[string]struct {
	file, more string
	commands   [][]string
}{
	"sh":     {"loop.sh", "", [][]string{{"bash", "loop.sh"}}},
	"js":     {"loop.mjs", "\nwatch('http://localhost:8090/api/order.json', order => console.log(order.status))\n", [][]string{{"node", "loop.mjs"}}},
	"python": {"loop.py", "", [][]string{{"python3", "loop.py"}}},
	"go":     {"loop.go", "", [][]string{{"go", "build", "-o", "loop", "loop.go"}, {"./loop"}}},
}

// TestDocsLoops runs the clients of the manual: they show each change, and never ask
// again and again, whatever stands at the other end.
func TestDocsLoops(t *testing.T) {
	if testing.Short() {
		t.Skip("runs real clients")
	}
	for _, b := range fenced.FindAllStringSubmatch(read(t, "docs/clients.md"), -1) {
		loop, known := loops[b[1]]
		if !known {
			continue
		}
		t.Run(b[1], func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			site := newOrders(t)
			code := strings.ReplaceAll(b[2]+loop.more, "http://localhost:8090", site.server.URL)
			if err := os.WriteFile(filepath.Join(dir, loop.file), []byte(code), 0o600); err != nil {
				t.Fatal(err)
			}
			said := site.run(t, dir, loop.commands)
			until(t, "the loop shows the order", func() bool { return strings.Contains(said.String(), "packing") })
			until(t, "it waits", func() bool { return site.parked() == 1 })
			site.set("shipped")
			until(t, "it shows the change", func() bool { return strings.Contains(said.String(), "shipped") })
			until(t, "it waits again", func() bool { return site.parked() == 1 })
			if n := site.asked.Load(); n > 4 {
				t.Errorf("it took %d requests to be told once and to wait", n)
			}
			for _, answers := range []struct {
				what string
				http.HandlerFunc
				most int32 // requests in two seconds
			}{
				{"a 200 with the tag that was sent", func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("ETag", `"same"`)
					io.WriteString(w, `{"status":"same"}`)
				}, 8},
				{"a 200 without a tag", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"status":"bare"}`) }, 8},
				{"a 304 at once", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }, 8},
				{"a 503 that says when to come back", func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Retry-After", "4")
					w.WriteHeader(http.StatusServiceUnavailable)
				}, 2},
			} {
				site.instead.Store(&answers.HandlerFunc)
				site.set(answers.what) // so that it does not wait for what there was
				asked := site.asked.Load()
				until(t, "it asks again", func() bool { return site.asked.Load() > asked })
				asked = site.asked.Load()
				<-time.After(2 * time.Second)
				if n := site.asked.Load() - asked; n > answers.most {
					t.Errorf("%s: asked %d times in two seconds", answers.what, n)
				}
			}
			site.instead.Store(nil)
			until(t, "it waits after all", func() bool { return site.parked() == 1 })
		})
	}
}

// TestDemoPage: the page of the demo shows the order and each change, waits in between,
// and says so when what it shows may be old.
func TestDemoPage(t *testing.T) {
	b := newBrowser(t)
	site := newOrders(t)
	site.page = read(t, "testdata/demo/page/index.html")
	b.call("Page.navigate", map[string]any{"url": site.server.URL}, nil)
	b.await(`packing`)
	until(t, "it waits", func() bool { return site.parked() == 1 })
	site.set("delivered")
	wantText(t, b.await(`delivered`), `answered;held`, `changed;held`)
	until(t, "it waits again", func() bool { return site.parked() == 1 })
	if len(b.said) > 0 {
		t.Errorf("the browser complains: %v", b.said)
	}
	const stale = "document.getElementById('status').classList.contains('stale')"
	broken := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	site.instead.Store(&broken)
	site.set("lost") // who waits is still told so
	b.await(`502`)
	if b.eval(stale) != "true" {
		t.Error("after an error the status looks as if it were so")
	}
	site.set("found")
	site.instead.Store(nil)
	b.await(`found`)
	if b.eval(stale) != "false" {
		t.Error("after the error the status looks old")
	}
}

// orders is a site with one order, behind long_poll or something else.
type orders struct {
	server  *httptest.Server
	handler *handler
	page    string // at the root
	asked   atomic.Int32
	instead atomic.Pointer[http.HandlerFunc] // of long_poll

	mu     sync.Mutex // protects status
	status string
}

func newOrders(t *testing.T) *orders {
	interval := caddy.Duration(50 * time.Millisecond)
	o := &orders{handler: newHandler(t, &longpoll.Handler{Interval: &interval}), status: "packing"}
	o.server = httptest.NewServer(o)
	t.Cleanup(o.server.Close)
	return o
}

func (o *orders) set(status string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.status = status
}

func (o *orders) parked() int { return o.handler.seen.Lot.Parked() }

func (o *orders) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/" {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, o.page)
		return
	}
	o.asked.Add(1)
	if instead := o.instead.Load(); instead != nil {
		(*instead)(w, r)
		return
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
	if err := o.handler.ServeHTTP(w, r, caddyhttp.HandlerFunc(o.backend)); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
	}
}

// backend knows nothing of waiting or versions.
func (o *orders) backend(w http.ResponseWriter, _ *http.Request) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, err := fmt.Fprintf(w, `{"status":%q}`, o.status)
	return err
}

// run runs a client until the end of the test, and gives what it says; the last of the
// commands is the one that does not end.
func (o *orders) run(t *testing.T, dir string, commands [][]string) *output {
	t.Helper()
	said := new(output)
	for i, command := range commands {
		path := command[0]
		if !strings.HasPrefix(path, "./") {
			found, err := exec.LookPath(path)
			if err != nil {
				t.Skipf("%s is not installed", path)
			}
			path = found
		}
		cmd := exec.Command(path, command[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, said, said
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // bash has children of its own
		if i < len(commands)-1 {
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v: %v\n%s", command, err, said)
			}
			continue
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			cmd.Wait()
			if t.Failed() {
				t.Logf("the loop said:\n%s", said)
			}
		})
	}
	return said
}

// output is what a process has said.
type output struct {
	mu  sync.Mutex // protects buf
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
