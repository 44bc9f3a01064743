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

// loop is a client of docs/clients.md: the file that its program is written to, the files
// that it needs beside it, and the commands that have it run, of which the last does not
// end by itself.
type loop struct {
	file     string
	beside   []string
	commands [][]string
}

// loops are the clients, by the language that their programs are fenced as.
var loops = map[string]loop{
	"sh":     {"loop.sh", nil, [][]string{{"bash", "loop.sh"}}},
	"js":     {"loop.js", []string{"clients/js/long_poll.js", "clients/js/package.json"}, [][]string{{"node", "loop.js"}}},
	"python": {"loop.py", []string{"clients/python/long_poll.py"}, [][]string{{"python3", "loop.py"}}},
	"go":     {"loop.go", []string{"clients/go/watch.go", "clients/go/go.mod"}, [][]string{{"go", "build", "-o", "loop", "loop.go"}, {"./loop"}}},
}

// programs are those of the manual, by their language.
func programs(t *testing.T) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, b := range fenced.FindAllStringSubmatch(read(t, "docs/clients.md"), -1) {
		if _, known := loops[b[1]]; known {
			found[b[1]] += b[2]
		}
	}
	if len(found) != len(loops) {
		t.Fatalf("docs/clients.md has programs in %d languages; want %d", len(found), len(loops))
	}
	return found
}

// mistreatments are what a client may get at a site without long_poll, or from anything
// else on the way: it must not ask again and again. It need not pause after an answer that
// took a second, as the first one can on a busy machine before the request has arrived.
var mistreatments = []struct {
	what string
	from int           // the first request that counts
	asks int           // so many requests
	take time.Duration // at least, from that first one to the last of them
	says func(n int64, w http.ResponseWriter)
}{
	{"a 200 with the same tag", 1, 4, 2 * time.Second, func(_ int64, w http.ResponseWriter) {
		w.Header().Set("ETag", `"same"`)
		io.WriteString(w, `{"status":"same"}`)
	}},
	{"a 200 without a tag", 1, 3, 2 * time.Second, func(_ int64, w http.ResponseWriter) { io.WriteString(w, `{"status":"bare"}`) }},
	{"a 200 with another tag each time", 2, 4, 2 * time.Second, func(n int64, w http.ResponseWriter) {
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, n))
		io.WriteString(w, `{"status":"another"}`)
	}},
	{"a 200 that breaks off", 1, 2, time.Second, func(_ int64, w http.ResponseWriter) {
		w.Header().Set("ETag", `"broken"`)
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, `{"status":`)
	}},
	{"a 304 at once", 2, 3, 2 * time.Second, func(_ int64, w http.ResponseWriter) { w.WriteHeader(http.StatusNotModified) }},
	{"a 503", 1, 3, 3 * time.Second, func(_ int64, w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }},
	{"a 503 that says for how long", 1, 2, 4 * time.Second, func(_ int64, w http.ResponseWriter) {
		w.Header().Set("Retry-After", "4")
		w.WriteHeader(http.StatusServiceUnavailable)
	}},
	{"a 503 that says until when", 1, 2, 4 * time.Second, func(_ int64, w http.ResponseWriter) {
		// less the part of a second, or of the machine's Date, which may be later
		now := time.Now().UTC()
		w.Header().Set("Date", now.Format(http.TimeFormat))
		w.Header().Set("Retry-After", now.Add(5*time.Second).Format(http.TimeFormat))
		w.WriteHeader(http.StatusServiceUnavailable)
	}},
}

// TestDocsLoops: the clients of the manual show each change, and pause wherever nobody
// has waited for them.
func TestDocsLoops(t *testing.T) {
	if testing.Short() {
		t.Skip("runs real clients")
	}
	t.Parallel()
	type began struct {
		*orders
		said *output
	}
	for language, program := range programs(t) {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			if missing := loops[language].missing(); missing != "" {
				t.Skipf("%s is not installed: the client in %s is not tested", missing, language)
			}
			run := func(base string) *output { return loops[language].run(t, base, program) }
			var all []began // at the same time, for they pause more than they work
			for _, m := range mistreatments {
				o := newOrders(t)
				instead := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { m.says(o.asked.Load(), w) })
				o.instead.Store(&instead)
				all = append(all, began{o, run(o.server.URL)})
			}
			site := newOrders(t)
			said := run(site.server.URL)
			until(t, "the loop shows the order", func() bool { return strings.Contains(said.String(), "packing") })
			until(t, "it waits", func() bool { return site.parked() == 1 })
			site.set("shipped")
			until(t, "it shows the change", func() bool { return strings.Contains(said.String(), "shipped") })
			until(t, "it waits again", func() bool { return site.parked() == 1 })
			if n := site.asked.Load(); n > 4 {
				t.Errorf("it took %d requests to be told once and to wait", n)
			}
			for i, m := range mistreatments {
				b := all[i]
				var took time.Duration
				for n := range attempts / 2 { // a request that takes a second to arrive is no reason to pause
					from := m.from + n*m.asks
					last := from + m.asks - 1
					until(t, m.what+" is asked for again", func() bool { return b.asked.Load() >= int64(last) })
					if took = b.askedAt(last).Sub(b.askedAt(from)); took >= m.take {
						break
					}
				}
				if took < m.take {
					t.Errorf("%s: %d requests within %v, again and again; want at least %v", m.what, m.asks, took, m.take)
				}
				b.instead.Store(nil)
			}
			for i, m := range mistreatments {
				b := all[i]
				until(t, "it waits after "+m.what, func() bool { return b.parked() == 1 })
				until(t, "it shows what there is after "+m.what, func() bool { return strings.Contains(b.said.String(), "packing") })
			}
		})
	}
}

// orders is a site with one order, behind long_poll or something else.
type orders struct {
	server  *httptest.Server
	handler *handler
	asked   atomic.Int64
	instead atomic.Pointer[http.HandlerFunc] // of long_poll

	mu     sync.Mutex // protects what follows
	status string
	times  []time.Time // of requests
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

// askedAt is when the nth request came.
func (o *orders) askedAt(n int) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.times[n-1]
}

func (o *orders) parked() int { return o.handler.seen.Lot.Parked() }

func (o *orders) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.times = append(o.times, time.Now())
	o.mu.Unlock()
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

// missing is the first of its commands that is not installed.
func (l loop) missing() string {
	if _, err := exec.LookPath(l.commands[0][0]); err != nil {
		return l.commands[0][0]
	}
	return ""
}

// run runs a client until the end of the test, and gives what it says.
func (l loop) run(t *testing.T, base, program string) *output {
	t.Helper()
	dir := t.TempDir()
	program = strings.ReplaceAll(program, "http://localhost:8090", base)
	if err := os.WriteFile(filepath.Join(dir, l.file), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range l.beside {
		to := filepath.Join(dir, filepath.Base(file))
		if filepath.Ext(l.file) == ".go" {
			to = filepath.Join(dir, "client", filepath.Base(file))
			if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
				t.Fatal(err)
			}
			module := "module loop\n\ngo 1.23\n\nrequire " + root + "/clients/go v0.0.0\n\nreplace " + root + "/clients/go => ./client\n"
			if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(module), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(to, []byte(read(t, file)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	said := new(output)
	for i, command := range l.commands {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, said, said
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // bash has children of its own
		if i < len(l.commands)-1 {
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
