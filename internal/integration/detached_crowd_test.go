package integration_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// spareFiles is how many descriptors this process and the Caddy each need beside those of
// the clients.
const spareFiles = 500

// roomForFiles is how many connections two processes, of which this is one, can each have at
// once: n, or what is possible.
func roomForFiles(t *testing.T, n int) int {
	t.Helper()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	want := syscall.Rlimit{Cur: max(was.Cur, uint64(n+spareFiles)), Max: max(was.Max, uint64(n+spareFiles))}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want) != nil { // only root may go beyond Max
		want = syscall.Rlimit{Cur: was.Max, Max: was.Max}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was) })
	if room := int(min(want.Cur, 1<<20)) - spareFiles; room < n {
		t.Logf("%d descriptors are all that this process and Caddy may each have: %d connections instead of %d", want.Cur, room, n)
		return room
	}
	return n
}

// goroutines is how many the process has.
func (s *sidecar) goroutines() int {
	s.t.Helper()
	text := s.tells("/debug/pprof/goroutine?debug=1")
	var n int
	if _, err := fmt.Sscanf(text, "goroutine profile: total %d", &n); err != nil {
		s.t.Fatalf("reading %.40q: %v", text, err)
	}
	return n
}

// testDetachedResets has as many detached connections as there can be reset at once, up to
// twenty thousand: nobody else notices, and nothing of them is left.
func testDetachedResets(t *testing.T, caddy binary) {
	n := roomForFiles(t, 20_000)
	state := &backend{value: "one"}
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			text, _ := io.ReadAll(r.Body)
			state.set(string(text))
			return
		}
		state.ServeHTTP(w, r)
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	long_poll {
		hold 5m
		interval 5m
		wake writes
		detach
	}
	reverse_proxy `+b.addr))
	c := newClient(t, port)
	c.get("/").want(t, 200, "answered")
	put := func(path, text string) {
		w := dialWire(t, port) // to the host that the others ask
		defer w.Close()
		w.say(fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", path, len(text), text))
		w.want(200, "bypassed")
	}
	files, goroutines := s.files(), s.goroutines()

	// More than one address: there are some 28,000 ports on each.
	const onEach, dialing = 10_000, 16
	conns := make([]net.Conn, n)
	each := func(do func(i int) error) {
		var all sync.WaitGroup
		for first := range dialing {
			all.Go(func() {
				for i := first; i < n; i += dialing {
					if err := do(i); err != nil {
						t.Errorf("connection %d: %v", i, err)
						return
					}
				}
			})
		}
		all.Wait()
	}
	defer each(func(i int) error {
		if conns[i] != nil {
			conns[i].Close()
		}
		return nil
	})
	began := time.Now()
	each(func(i int) (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i/onEach))}}
		if conns[i], err = d.Dial("tcp", "127.0.0.1:"+port); err != nil {
			return err
		}
		_, err = io.WriteString(conns[i], ask(fmt.Sprint("/", i%100), "one"))
		return err
	})
	if t.Failed() {
		return
	}
	stays := dialWire(t, port)
	stays.say(ask("/0", "one"))
	s.waitDetached(n + 1)
	t.Logf("%d were detached after %v", n, time.Since(began))

	began = time.Now()
	var resets sync.WaitGroup
	resets.Go(func() {
		each(func(i int) error {
			_ = conns[i].(*net.TCPConn).SetLinger(0)
			return conns[i].Close()
		})
	})
	for i := range 5 { // and the others ask meanwhile
		path, next := fmt.Sprint("/of-others/", i), fmt.Sprint("state-", i)
		waits := dialWire(t, port)
		waits.say(ask(path, state.get()))
		c.get(path).want(t, 200, "answered")
		put(path, next)
		resp := waits.answer() // it may have come after the write
		if got, _, _ := strings.Cut(resp.Header.Get("Long-Poll"), ";"); resp.StatusCode != 200 || got != "changed" && got != "answered" {
			t.Errorf("got %s, %q", resp.Status, got)
		}
		waits.Close()
	}
	resets.Wait()
	s.waitDetached(1)
	t.Logf("they had left after %v", time.Since(began))
	waitUntil(t, func() string { return fmt.Sprintf("%d have left instead of %d", s.outcomes("left"), n) }, func() bool {
		return s.outcomes("left") == n
	})
	put("/0", "the-last")
	stays.want(200, "changed")
	stays.Close()
	s.waitDetached(0)

	// What may be left is connections to the backend, and of this client and the admin's.
	const others = 100
	waitUntil(t, func() string { return fmt.Sprintf("%d files are open; %d were at the beginning", s.files(), files) }, func() bool {
		return s.files() <= files+others
	})
	waitUntil(t, func() string {
		return fmt.Sprintf("there are %d goroutines; %d were at the beginning", s.goroutines(), goroutines)
	}, func() bool {
		return s.goroutines() <= goroutines+2*others
	})
}

// testDetachedReloads reloads five times in a row while two thousand are detached, and come
// back at once: each is answered.
func testDetachedReloads(t *testing.T, caddy binary) {
	n := roomForFiles(t, 2*many)
	b := serveBackend(t, nil)
	port := freePort(t)
	sites := site(port, `
	log
	long_poll {
		hold 5m
		interval 200ms
		detach
	}
	reverse_proxy `+b.addr)
	s := caddy.start(t, "", sites)

	type failure struct {
		err    error
		read   bool // a part of an answer
		reused bool // the connection had an answer before
	}
	var mu sync.Mutex // protects what follows
	failed := make(map[string]failure)
	outcomes := make(map[string]int)
	var done atomic.Bool
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			var conn net.Conn
			var from *bufio.Reader
			reused := false
			defer func() {
				if conn != nil {
					conn.Close()
				}
			}()
			for turn := 0; ; turn++ {
				if conn == nil {
					var err error
					if conn, err = net.Dial("tcp", "127.0.0.1:"+port); err != nil {
						conn = nil
						time.Sleep(time.Millisecond) // a listener is being replaced
						continue
					}
					from, reused = bufio.NewReaderSize(conn, 512), false
				}
				_ = conn.SetDeadline(time.Now().Add(deadline))
				id := fmt.Sprintf("%d-%d", i, turn)
				var resp *http.Response
				_, err := io.WriteString(conn, ask(fmt.Sprint("/", i%10), "one", "X-Id: "+id))
				read := false
				if err == nil {
					_, err = from.Peek(1)
				}
				if err == nil {
					read = true
					if resp, err = http.ReadResponse(from, &http.Request{Method: "GET"}); err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
					}
				}
				outcome := ""
				mu.Lock()
				if err != nil {
					failed[id] = failure{err, read, reused}
				} else {
					outcome, _, _ = strings.Cut(resp.Header.Get("Long-Poll"), ";")
					outcomes[strconv.Itoa(resp.StatusCode)+" "+outcome]++
				}
				mu.Unlock()
				if outcome == "changed" || outcome == "answered" || done.Load() {
					return // it has what it waits for
				}
				if reused = true; err != nil || resp.Close {
					conn.Close()
					conn = nil
				}
			}
		})
	}
	count := func(what string) int {
		mu.Lock()
		defer mu.Unlock()
		return outcomes[what]
	}
	s.waitDetached(n)
	s.reload(t, sites) // all of them are parked
	waitUntil(t, func() string { return fmt.Sprintf("%d of %d were drained", count("304 drained"), n) }, func() bool {
		return count("304 drained") >= n
	})
	for range 4 { // and now they are anywhere
		s.reload(t, sites)
	}
	s.waitDetached(n)
	b.set("two")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		clients.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(deadline):
		done.Store(true)
		t.Error("some have no answer")
		<-ended // at the deadline of the connections
	}
	s.waitDetached(0)
	s.exit(t)

	logged := make(map[string]any)
	for _, entry := range s.logs.entries("handled request") {
		headers := entry["request"].(map[string]any)["headers"].(map[string]any)
		logged[headers["X-Id"].([]any)[0].(string)] = entry["status"]
	}
	for id, f := range failed {
		var late net.Error
		switch status, arrived := logged[id]; {
		case f.read:
			t.Errorf("%s: the connection ends within an answer: %v", id, f.err)
		case errors.As(f.err, &late) && late.Timeout():
			t.Errorf("%s: there is no answer (on a connection that had one before: %t)", id, f.reused)
		case arrived:
			t.Errorf("%s was answered %v, and failed with %v", id, status, f.err)
		}
	}
	for what, of := range outcomes {
		switch what {
		case "304 drained", "200 changed":
		case "304 bypassed":
			// Who finds a retired configuration on a connection that has outlived it is not
			// parked there, and is told to come back by another one.
			if of > 5*n {
				t.Errorf("%d were bypassed by 5 reloads", of)
			}
		default:
			t.Errorf("%d got %s", of, what)
		}
	}
	if got := outcomes["200 changed"]; got != n {
		t.Errorf("%d were told of the change in place of %d: %v", got, n, outcomes)
	}
	t.Logf("%d requests did not arrive; the others: %v", len(failed), outcomes)
}
