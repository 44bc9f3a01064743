package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a subject or a backend.
type process struct {
	addr  string
	cmd   *exec.Cmd
	ended chan struct{}
	group bool // it has children: what it costs is what all of them do
}

// start starts a command whose process listens on addr.
func start(addr, name string, args ...string) (*process, error) {
	p := &process{addr: addr, cmd: exec.Command(name, args...), ended: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %q: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	deadline := time.Now().Add(30 * time.Second)
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return p, c.Close()
		}
		select {
		case <-p.ended:
			return nil, fmt.Errorf("waiting for %q to listen: it has ended: %s", name, p.cmd.ProcessState)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.stop()
			return nil, fmt.Errorf("waiting for %q to listen: %w", name, err)
		}
	}
}

// child starts this program as another one: serve or backend.
func child(role string, s spec) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("looking for this program: %w", err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding spec: %w", err)
	}
	return start(s.Addr, exe, role, string(text))
}

func (p *process) stop() {
	if p == nil {
		return
	}
	if p.group {
		// It ends its children, and nobody else would.
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	} else {
		_ = p.cmd.Process.Kill()
	}
	<-p.ended
}

// each calls f with the directory in /proc of each process that belongs to p.
func (p *process) each(f func(dir string)) {
	leader := strconv.Itoa(p.cmd.Process.Pid)
	if !p.group {
		f("/proc/" + leader)
		return
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		text, _ := os.ReadFile(dir + "/stat") // it may have ended
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest) // state, parent, ...
		if dir == "/proc/"+leader || len(fields) > 1 && fields[1] == leader {
			f(dir)
		}
	}
}

// cpu is the CPU time used so far.
func (p *process) cpu() (used time.Duration) {
	p.each(func(dir string) {
		threads, _ := filepath.Glob(dir + "/task/*/schedstat")
		for _, thread := range threads {
			text, _ := os.ReadFile(thread)
			ns, _, _ := strings.Cut(string(text), " ")
			n, _ := strconv.ParseInt(ns, 10, 64)
			used += time.Duration(n)
		}
	})
	return used
}

// pss is the proportional set size in KiB.
func (p *process) pss() (total float64) {
	p.each(func(dir string) { total += field(dir+"/smaps_rollup", "Pss:") })
	return total
}

// peak is the largest resident set in KiB since resetPeak.
func (p *process) peak() (total float64) {
	p.each(func(dir string) { total += field(dir+"/status", "VmHWM:") })
	return total
}

func (p *process) resetPeak() {
	p.each(func(dir string) { _ = os.WriteFile(dir+"/clear_refs", []byte("5"), 0) })
}

// field is a number in one of the files of /proc.
func field(file, name string) float64 {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return n
		}
	}
	return 0
}

// settled waits until the process has stopped working, and returns when that was.
func (p *process) settled() time.Time {
	const look, quiet = 20 * time.Millisecond, 15
	last, at := p.cpu(), time.Now()
	for still := 0; still < quiet && time.Since(at) < time.Minute; still++ {
		time.Sleep(look)
		now := p.cpu()
		if now-last > look/20 { // more than a runtime in the background
			at, still = time.Now(), 0
		}
		last = now
	}
	return at
}

// eventually waits until a condition is met, and reports whether it is within a while.
func eventually(met func() bool) bool {
	for deadline := time.Now().Add(30 * time.Second); !met(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// holds says what a child holds after a collection.
func holds(s spec) (h held, err error) {
	text, err := call("GET", "http://"+s.Debug+"/stats", "")
	if err != nil {
		return h, err
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	return h, json.Unmarshal(text, &h)
}

// freeAddr is an address that nobody listens on, and that was not given before. Its port is
// below those that connections are given as a rule, or one of the clients' could take it
// before the process listens.
func freeAddr() string {
	given.Lock()
	defer given.Unlock()
	for {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(10000+rand.IntN(20000)))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		fatal(l.Close())
		if given.addrs[addr] {
			continue
		}
		given.addrs[addr] = true
		return addr
	}
}

// given are the addresses that freeAddr has given.
var given = struct {
	sync.Mutex // protects addrs
	addrs      map[string]bool
}{addrs: make(map[string]bool)}

// load gives a Caddy another configuration, over a connection of its own: one that is left
// over from the last time may just be closed, and a POST is not sent twice.
func load(admin string, config []byte) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Post("http://"+admin+"/load", "application/json", bytes.NewReader(config))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("loading a configuration: %s: %s", resp.Status, text)
	}
	return err
}

// call sends a request the usual way, outside of what is measured.
func call(method, url, body string) ([]byte, error) {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text)
	}
	return text, nil
}
