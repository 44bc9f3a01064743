package integration_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// testHangingPaths has more requests than there are checks at once ask for what hangs,
// and their clients leave: nobody else notices.
func testHangingPaths(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	stuck := serveBackend(t, http.HandlerFunc(hang))
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	long_poll {
		interval 100ms
		check_timeout 10m
	}
	reverse_proxy /hang/* `+stuck.addr+`
	reverse_proxy `+b.addr))
	c := newClient(t, port)

	for name, fields := range map[string][]string{
		"ordinary":    nil,
		"poll":        {"Prefer: wait=20"},
		"conditional": {`If-None-Match: "one"`},
	} {
		t.Run(name, func(t *testing.T) {
			before := stuck.asked.Load()
			all := crowd(64, func(i int) *pending { return c.poll(fmt.Sprintf("/hang/%s/%d", name, i), fields...) })
			waitFor(t, "the backend to be asked", func() bool { return stuck.asked.Load() == before+int64(len(all)) })
			if name == "ordinary" {
				c.get("/fast/with", `If-None-Match: "zero"`).want(t, 200, "answered") // ordinary requests take no check's place
			}
			for _, p := range all {
				p.leave()
			}
			c.get("/fast/"+name).want(t, 200, "answered")
			c.get("/fast/"+name, `If-None-Match: "zero"`).want(t, 200, "answered")
			p := c.poll("/fast/"+name, `If-None-Match: "`+b.get()+`"`)
			s.waitParked(1)
			b.set("news of " + name)
			p.wait().want(t, 200, "changed")
		})
	}
}

// testSlowReports has a backend take longer over its answers than a check may: whoever
// does not poll waits for them as without us.
func testSlowReports(t *testing.T, caddy binary) {
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(700 * time.Millisecond):
		case <-r.Context().Done():
			return
		}
		io.WriteString(w, "a report of "+r.URL.Path)
	}))
	port := freePort(t)
	caddy.start(t, "", site(port, "\tlong_poll {\n\t\tcheck_timeout 200ms\n\t}\n\treverse_proxy "+b.addr))
	c := newClient(t, port)
	all := crowd(5, func(i int) *pending { return c.poll(fmt.Sprint("/", i)) })
	for i, p := range all {
		p.wait().want(t, 200, "answered").wantBody(t, fmt.Sprint("a report of /", i))
	}
	if n := b.asked.Load(); n != int64(len(all)) {
		t.Errorf("the backend was asked %d times for %d reports", n, len(all))
	}
}

// testStalledBodies has many polls begin to send a large body, and stop: those for
// whom there is no place are refused unread.
func testStalledBodies(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	const places, size = 10, 1 << 20
	s := caddy.start(t, "", site(port, fmt.Sprintf(`
	long_poll {
		methods GET POST
		max_parked %d
	}
	reverse_proxy %s`, places, b.addr)))
	before := s.metric("go_memstats_heap_inuse_bytes")

	part := strings.Repeat("x", size/2)
	answers := make(chan string, 150)
	for range cap(answers) {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(2 * deadline))
		go func() {
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nPrefer: wait=20\r\nContent-Length: %d\r\n\r\n", port, size)
			go io.WriteString(conn, part) // which nobody may read
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				answers <- err.Error()
				return
			}
			answers <- fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Long-Poll"), " ", resp.Close)
		}()
	}
	for range cap(answers) - places {
		select {
		case got := <-answers:
			if got != "503 refused;held=0.000 true" {
				t.Errorf("got %q", got)
			}
		case <-time.After(deadline):
			t.Fatal("those for whom there is no place are not answered")
		}
	}
	select {
	case got := <-answers:
		t.Errorf("one that has a place got %q", got)
	default:
	}
	if grown := s.metric("go_memstats_heap_inuse_bytes") - before; grown > 64<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	if n := b.asked.Load(); n > 0 {
		t.Errorf("the backend was asked %d times", n)
	}
	newClient(t, port).get("/", `If-None-Match: "zero"`).want(t, 200, "answered")
}
