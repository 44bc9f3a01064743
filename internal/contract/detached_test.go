package contract_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/detach"
)

// detaches says that this process tests the rules with `detach` in each site, and with
// clients that come to a server of net/http, by connections that have no descriptor.
var detaches = os.Getenv("TEST_DETACHED") != ""

// The rules hold for who is parked without a goroutine as well (contract 15.2).
func TestRulesDetached(t *testing.T) {
	if testing.Short() || detaches {
		t.Skip("runs the tests of the rules once more")
	}
	// Ordinary exchanges are never detached, and the others that are left out look at what a
	// writer of their own was told.
	cmd := exec.Command(os.Args[0], "-test.skip", "^Test.*(Ordinary|Shadow|Cluster|Bench|Bypassed|LongPollField|ManyEntityTags|FieldsOfOneClient)|^Test(Header|AdminStats)$|^Fuzz")
	cmd.Env = append(os.Environ(), "TEST_DETACHED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// It is without a goroutine of its request that a poll waits here, and it is counted.
func TestDetachedIsCounted(t *testing.T) {
	if !detaches {
		t.Skip("detaches nobody")
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, steady)
		c := s.get("/", has("1"))
		c.mustWait()
		n := gathered(t, ourRegistry(t))["caddy_long_poll_detached_requests"].GetMetric()[0].GetGauge().GetValue()
		if waiting := stacks("park.(*Spot).wait("); n != 1 || len(waiting) > 0 {
			t.Errorf("%v are detached, and there are %v", n, waiting)
		}
		s.backend.say(tagged("2"))
		c.wants("200 changed state 2")
	})
}

// It is without a goroutine of its request that a stream waits here, from its first silence
// to its end, and then its connection is idle.
func TestStreamIsDetached(t *testing.T) {
	if !detaches {
		t.Skip("detaches nobody")
	}
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nstream_timeout 1m")
		c := s.get("/", events).hears("1 state 1")
		ndjson := s.get("/", lines)
		for _, version := range []string{"2", "3"} {
			synctest.Wait()
			if waiting := stacks("park.(*Spot).follow("); s.gauge("caddy_long_poll_detached_requests") != 2 || len(waiting) > 0 {
				t.Errorf("%v are detached, and there are %v", s.gauge("caddy_long_poll_detached_requests"), waiting)
			}
			if n := s.gauge("caddy_long_poll_streams"); n != 2 || s.lot.Parked() != 2 {
				t.Errorf("%v streams are open, and %d are parked; want 2", n, s.lot.Parked())
			}
			s.backend.say(tagged(version))
			settle(1100 * time.Millisecond)
		}
		c.hears("1 state 1 | 2 state 2 | 3 state 3").wants("200 streamed").within(time.Minute, time.Minute)
		ndjson.wants("200 streamed \"state 1\"\n\"state 2\"\n\"state 3\"\n\n\n\n").within(time.Minute, time.Minute)
		synctest.Wait()
		for _, name := range []string{"caddy_long_poll_detached_requests", "caddy_long_poll_streams", "caddy_long_poll_parked_requests"} {
			if n := s.gauge(name); n != 0 {
				t.Errorf("%s is %v; want 0", name, n)
			}
		}
	})(t)
}

// withoutServer skips a test that looks at what Caddy's server gives to handlers: here it is
// the one of net/http, and internal/integration has the tests of both.
func withoutServer(t *testing.T) {
	t.Helper()
	if detaches {
		t.Skip("has a server of its own")
	}
}

// doors are the connections that come to a server.
type doors struct {
	come chan net.Conn
	once sync.Once
	done chan struct{}
}

func (d *doors) Accept() (net.Conn, error) {
	select {
	case c := <-d.come:
		return c, nil
	case <-d.done:
		return nil, net.ErrClosed
	}
}

func (d *doors) Close() error {
	d.once.Do(func() { close(d.done) })
	return nil
}

func (d *doors) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

// door is a connection that tells whose it is by its address. Its client is as picky and as
// slow as the response says.
type door struct {
	net.Conn
	from addr
	of   *response
}

func (d door) RemoteAddr() net.Addr { return d.from }

func (d door) Write(b []byte) (int, error) {
	if d.of.breaks.Load() {
		panic(http.ErrAbortHandler)
	}
	if time.Sleep(time.Duration(d.of.each.Load())); d.of.stalls() {
		return 0, os.ErrDeadlineExceeded
	}
	return d.Conn.Write(b)
}

func (d door) SetDeadline(t time.Time) error {
	_ = d.of.SetWriteDeadline(t)
	return d.Conn.SetDeadline(t)
}

func (d door) SetWriteDeadline(t time.Time) error {
	_ = d.of.SetWriteDeadline(t)
	return d.Conn.SetWriteDeadline(t)
}

type addr string

func (addr) Network() string  { return "pipe" }
func (a addr) String() string { return string(a) }

// open has a server serve the site, until the end of the test.
func (s *site) open() {
	s.doors = &doors{come: make(chan net.Conn), done: make(chan struct{})}
	s.std = &http.Server{Handler: http.HandlerFunc(s.serve), ConnContext: detach.ConnContext, ConnState: detach.ConnState}
	go s.std.Serve(s.doors)
	s.t.Cleanup(func() { s.std.Close() })
}

// serve does with the request of a client what Caddy's server does with it.
func (s *site) serve(w http.ResponseWriter, come *http.Request) {
	s.mu.Lock()
	c := s.calls[come.RemoteAddr]
	s.mu.Unlock()
	r := c.asked.Clone(come.Context())
	r.Body, r.RemoteAddr = c.asked.Body, come.RemoteAddr
	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, w, s.server)
	if s.before != nil {
		s.before(w, r)
	}
	defer func() {
		// The server reuses what it has.
		if caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar) == nil {
			r.Header.Set("Reused", "yes")
			r.URL.Path = "/reused"
		}
		repl.Set("reused", "yes")
	}()
	c.err = s.ServeHTTP(w, r, s.backend)
	if c.err != nil {
		w.WriteHeader(statusOf(c.err))
	}
}

// call has a client ask by a connection of its own.
func (s *site) call(r *http.Request) *client {
	ctx, cancel := context.WithCancel(context.Background())
	c := &client{t: s.t, w: newResponse(), leave: cancel, done: make(chan struct{}), began: time.Now(), r: r.WithContext(ctx), asked: r}
	here, there := net.Pipe()
	s.mu.Lock()
	s.clients = append(s.clients, c)
	name := r.RemoteAddr // of a Unix socket
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = net.JoinHostPort(host, fmt.Sprint(len(s.clients)))
	}
	if s.calls == nil {
		s.calls = make(map[string]*client)
	}
	s.calls[name] = c
	s.mu.Unlock()
	go func() {
		defer close(c.done)
		defer cancel()
		defer func() {
			c.took = time.Since(c.began)
			here.Close()
			if ctx.Err() != nil {
				time.Sleep(time.Nanosecond) // until the server has noticed, in virtual time
			}
		}()
		select {
		case s.doors.come <- door{there, addr(name), c.w}:
		case <-s.doors.done:
			return
		}
		stop := context.AfterFunc(ctx, func() { here.Close() })
		defer stop()
		io.WriteString(here, r.Method+" / HTTP/1.1\r\nHost: x\r\n\r\n")
		c.receive(bufio.NewReader(here))
	}()
	return c
}

// receive reads the answer, as it comes.
func (c *client) receive(from *bufio.Reader) {
	for {
		resp, err := http.ReadResponse(from, c.r)
		switch {
		case err != nil:
			c.w.WriteHeader(499)
			c.broken = true
			return
		case resp.StatusCode < 200:
			c.w.WriteHeader(resp.StatusCode)
			continue
		}
		resp.Header.Del("Date")
		if resp.Close {
			resp.Header.Set("Connection", "close")
		}
		c.w.header = resp.Header
		c.w.WriteHeader(resp.StatusCode)
		for piece := make([]byte, 4<<10); ; {
			n, err := resp.Body.Read(piece)
			c.w.mu.Lock()
			c.w.body.Write(piece[:n])
			c.w.mu.Unlock()
			if err != nil {
				c.broken = err != io.EOF
				return
			}
		}
	}
}
