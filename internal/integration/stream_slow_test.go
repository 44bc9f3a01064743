package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// testStreamSlowReaders has clients take little, and nothing at all, of 200 changes.
func testStreamSlowReaders(t *testing.T, caddy binary) {
	for range attempts {
		if slowReaders(t, caddy) {
			return
		}
	}
	t.Error("the machine stands still again and again")
}

// slowReaders reports whether the slow one has taken something all the time: who takes
// little for ten seconds, since the machine stands still, is cut, for its system takes what
// is written in portions of up to a third of its buffer, which can be ten states.
func slowReaders(t *testing.T, caddy binary) (took bool) {
	const changes, size = 200, 128 << 10
	var n atomic.Int64
	padding := strings.Repeat("x", size)
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, n.Load()))
		fmt.Fprintf(w, `{"value":"%d","padding":%q}`, n.Load(), padding)
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	long_poll {
		interval 20ms
		stream
	}
	reverse_proxy `+b.addr))
	c := newClient(t, port)
	fast, slow, dead := c.listen("/", acceptEvents), dialSmall(t, port), dialSmall(t, port)
	s.waitStreams(3)
	events := func() int { return s.metric(`caddy_long_poll_events_total{format="sse"}`) }
	waitFor(t, "the first events", func() bool { return events() >= 3 })

	var heard bytes.Buffer // by the slow one: half of a state for each change
	at := []time.Time{time.Now()}
	stoodStill := func() bool {
		at := append(at, time.Now())
		for i := range at {
			if at[min(i+20, len(at)-1)].Sub(at[i]) > 7*time.Second {
				return true
			}
		}
		return false
	}
	for i := 1; i <= changes; i++ {
		n.Store(int64(i))
		mark := fmt.Sprintf(`"value":"%d"`, i)
		waitUntil(t, func() string { return fmt.Sprintf("the fast one does not hear of %d", i) }, func() bool {
			fast.mu.Lock()
			defer fast.mu.Unlock()
			return bytes.Contains(fast.text[max(0, len(fast.text)-2*size):], []byte(mark))
		})
		slow.SetReadDeadline(time.Now().Add(deadline))
		if _, err := io.CopyN(&heard, slow, size/2); err != nil {
			if stoodStill() {
				return false
			}
			t.Fatalf("reading slowly: %v", err)
		}
		at = append(at, time.Now())
	}
	// The slow one gets to the last state, and not by each of them.
	slow.SetReadDeadline(time.Now().Add(deadline))
	last := []byte(fmt.Sprintf(`"value":"%d"`, changes))
	buf := make([]byte, 64<<10)
	for !bytes.Contains(heard.Bytes()[max(0, heard.Len()-2*size):], last) || !bytes.HasSuffix(heard.Bytes(), []byte("\n\n\r\n")) {
		k, err := slow.Read(buf)
		if heard.Write(buf[:k]); err != nil {
			if stoodStill() {
				return false
			}
			t.Fatalf("reading slowly: %v", err)
		}
	}
	if told := bytes.Count(heard.Bytes(), []byte(`"value":`)); told > changes*3/4 {
		t.Errorf("the slow one was told %d of %d states", told, changes)
	}
	waitFor(t, "the last event", func() bool { return strings.HasSuffix(fast.heard(), "\n\n") })
	values := fast.values()
	for i := range changes + 1 {
		if i >= len(values) || values[i] != fmt.Sprint(i) {
			t.Fatalf("the fast one has heard %s; want each of %d", values, changes)
		}
	}

	// The dead one is cut, and has heard the first states and the beginning of another.
	s.waitStreams(2)
	dead.SetReadDeadline(time.Now().Add(deadline))
	rest, _ := io.ReadAll(dead)
	if told := bytes.Count(rest, []byte(`"value":`)); told == 0 || told > changes/2 {
		t.Errorf("the dead one was told %d of %d states", told, changes)
	}
	if got := s.outcomes("streamed"); got != 1 {
		t.Errorf("%d have ended as streamed; want the dead one", got)
	}
	return true
}

// dialSmall opens a stream on a connection that takes little at a time.
func dialSmall(t *testing.T, port string) net.Conn {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) }); e != nil {
			return e
		}
		return err
	}}
	conn, err := dialer.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: 127.0.0.1:%s\r\n%s\r\n\r\n", port, acceptEvents); err != nil {
		t.Fatal(err)
	}
	return conn
}

// testStreamStalls has a client take nothing of one stream of a connection that it shares
// with another one: that one is cut alone.
func testStreamStalls(t *testing.T, caddy binary) {
	for _, protocol := range protocols[1:] {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			padding := strings.Repeat("x", 256<<10)
			b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", fmt.Sprintf(`"%d"`, n.Load()))
				fmt.Fprintf(w, `{"value":"%d","padding":%q}`, n.Load(), padding)
			}))
			port := freePort(t)
			s := caddy.start(t, "", tlsSite(port, `
	long_poll {
		interval 20ms
		stream
	}
	reverse_proxy `+b.addr))
			c := s.newTLSClient(t, protocol, port)
			fast := c.listen("/", acceptEvents)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, "GET", c.base+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Accept", "text/event-stream")
			dead, err := c.http.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer dead.Body.Close()
			heard := func() bool {
				fast.mu.Lock()
				defer fast.mu.Unlock()
				mark := fmt.Sprintf(`"value":"%d"`, n.Load())
				return bytes.Contains(fast.text[max(0, len(fast.text)-2*len(padding)):], []byte(mark))
			}
			// Until the windows of both are full: what a client buffers for itself is its own.
			waitFor(t, "the dead one to be cut", func() bool {
				if heard() {
					n.Add(1)
				}
				return s.outcomes("streamed") == 1
			})
			waitFor(t, "the fast one", heard)
			n.Add(1)
			waitFor(t, "the fast one to hear on", heard)
			if _, err := io.ReadAll(dead.Body); err == nil {
				t.Error("the dead one sees an end like any other")
			}
			for i, value := range fast.values() {
				if value != fmt.Sprint(i) {
					t.Fatalf("event %d of the fast one is %s", i, value)
				}
			}
		})
	}
}
