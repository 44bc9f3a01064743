package integration_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// hop is what stands between the clients and Caddy: its arguments, what it reads, and the
// limit that it sets to silence. %[1]s is its directory, %[2]s its port, %[3]s Caddy's.
type hop struct {
	name   string
	args   []string
	config string
	limit  time.Duration
}

var (
	nginx = hop{"nginx", []string{"-p", "%[1]s", "-e", "%[1]s/error.log", "-c", "%[1]s/hop.conf"}, `
daemon off;
pid %[1]s/pid;
worker_processes 1;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path %[1]s;
	proxy_temp_path %[1]s;
	fastcgi_temp_path %[1]s;
	uwsgi_temp_path %[1]s;
	scgi_temp_path %[1]s;
	server {
		listen 127.0.0.1:%[2]s;
		location / {
			proxy_pass http://127.0.0.1:%[3]s;
			proxy_read_timeout 4s;
		}
	}
}
`, 4 * time.Second}
	haproxy = hop{"haproxy", []string{"-db", "-q", "-f", "%[1]s/hop.conf"}, `
defaults
	mode http
	timeout connect 5s
	timeout client 60s
	timeout server 6s
frontend f
	bind 127.0.0.1:%[2]s
	default_backend b
backend b
	server s 127.0.0.1:%[3]s
`, 6 * time.Second}
)

// start runs the hop until the end of the test, and returns its port.
func (h hop) start(t *testing.T, behind string) string {
	t.Helper()
	path, err := exec.LookPath(h.name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + h.name) // which is not everybody's to look in
	}
	if err != nil {
		t.Skipf("%s is not here: install it to have this tested", h.name)
	}
	dir, port := shortTempDir(t), freePort(t)
	if err := os.WriteFile(filepath.Join(dir, "hop.conf"), fmt.Appendf(nil, h.config, dir, port, behind), 0o600); err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, arg := range h.args {
		args = append(args, fmt.Sprintf(arg+"%[2]s%[3]s", dir, "", ""))
	}
	cmd := exec.Command(path, args...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(deadline):
			cmd.Process.Kill()
			<-exited
		}
	})
	waitFor(t, h.name+" to listen", func() bool {
		select {
		case <-exited:
			t.Fatalf("%s ended:\n%s", h.name, output.String())
		default:
		}
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return port
}

func TestHoldAutoBehindNginx(t *testing.T) { testHoldAutoBehind(t, nginx) }

func TestHoldAutoBehindHAProxy(t *testing.T) { testHoldAutoBehind(t, haproxy) }

// Behind a hop of an unknown limit, `hold auto` finds out what it is, and then nobody is
// cut any more (contract 10).
func testHoldAutoBehind(t *testing.T, h hop) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	caddy := buildCaddy(t)
	port := freePort(t)
	sites := fmt.Sprintf(":%s {\n\tlong_poll {\n\t\thold auto\n\t}\n\treverse_proxy %s\n}\n", port, serveBackend(t, nil).addr)
	s := caddy.start(t, "", sites)
	client := newClient(t, h.start(t, port))

	const clients = 60
	var (
		all   sync.WaitGroup
		found atomic.Bool // the cut, by the module
		ended = make(chan struct{})
		polls atomic.Int64
		cuts  atomic.Int64
		worst atomic.Int64 // nanoseconds of the longest that was cut

		// Of requests that began when it was found.
		held  [clients]atomic.Int64
		kept  atomic.Int64 // the sum of these
		after atomic.Int64
	)
	for i := range clients {
		all.Go(func() {
			for {
				knew := found.Load()
				p := client.send("GET", "/", "", `If-None-Match: "one"`)
				select {
				case <-p.done:
				case <-ended:
					p.leave()
					<-p.done
					return
				}
				polls.Add(1)
				switch {
				case p.reply.status == 504:
					cuts.Add(1)
					for was := worst.Load(); int64(p.reply.took) > was && !worst.CompareAndSwap(was, int64(p.reply.took)); was = worst.Load() {
					}
					if knew {
						after.Add(1)
					}
					pause(ended, time.Duration(500+10*i)*time.Millisecond)
				case p.reply.status == 304 && knew:
					held[i].Add(1)
					kept.Add(1)
				}
			}
		})
	}
	defer all.Wait()
	defer close(ended)

	patience := time.Now().Add(3 * deadline) // some hundred requests take a while
	for s.metric("caddy_long_poll_cut_seconds") == 0 {
		if time.Now().After(patience) {
			t.Fatalf("nothing was found to cut in %d polls, %d of them cut", polls.Load(), cuts.Load())
		}
		pause(ended, 100*time.Millisecond)
	}
	// On a machine that is slow, Caddy begins to count later than the hop; and where it stood
	// still, the hop has cut later than it should.
	if got := time.Duration(s.metric("caddy_long_poll_cut_seconds")) * time.Second; got > max(h.limit, time.Duration(worst.Load())) || got < h.limit-time.Second {
		t.Errorf("found a cut after %v; it is one after %v, and %v at most", got, h.limit, time.Duration(worst.Load()))
	}
	t.Logf("found after %d polls, %d of them cut", polls.Load(), cuts.Load())
	warned := func() int { return strings.Count(s.logs.String(), `"something cuts silent connections after `) }
	waitFor(t, "the warning", func() bool { return warned() > 0 })
	if n := warned(); n != 1 {
		t.Errorf("warned %d times", n)
	}
	s.reload(t, sites) // which forgets nothing
	if s.metric("caddy_long_poll_cut_seconds") == 0 {
		t.Error("a reload forgets what cuts")
	}
	found.Store(true)
	for i := range held {
		waitFor(t, "two answers for each client", func() bool { return held[i].Load() >= 2 })
	}
	// The tenth by which an answer comes before the limit can pass on a machine that is busy,
	// with all at once where it stands still, but not again and again.
	patience = time.Now().Add(3 * deadline)
	for after.Load() > max(clients, kept.Load())/10 {
		if time.Now().After(patience) {
			t.Fatalf("%d requests were cut although it was known by what, and %d were held", after.Load(), kept.Load())
		}
		pause(ended, 100*time.Millisecond)
	}
}

// pause lets d pass, or less if it ends.
func pause(ended <-chan struct{}, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ended:
	}
}
