package contract_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// listens has a real server serve a site whose polls are detached. Its connections are what
// wrap makes of them, as listener wrappers do.
func listens(t *testing.T, wrap func(*net.TCPConn) net.Conn, more ...string) (s *site, addr string) {
	t.Helper()
	if detaches {
		t.Skip("has a server of its own")
	}
	t.Cleanup(func() { // what it counts late, the next test would take for its own
		until(t, "nobody is answered any more", func() bool {
			return len(stacks("caddy-longpoll/internal/detach.")) == 0 && len(stacks("caddy-longpoll.(*Handler).ServeHTTP(")) == 0
		})
	})
	s = realSite(t, "interval 10ms\ndetach\n"+strings.Join(more, "\n"))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ConnContext: tlsOfWrapper, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = s.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s.server), s.backend)
	})}
	go server.Serve(wrapped{ln, wrap})
	t.Cleanup(func() { server.Close() })
	return s, ln.Addr().String()
}

// secure is a connection of which a listener wrapper has taken off TLS.
type secure struct{ *net.TCPConn }

// tlsOfWrapper does as Caddy does for such a connection.
func tlsOfWrapper(ctx context.Context, c net.Conn) context.Context {
	if _, ok := c.(secure); ok {
		return context.WithValue(ctx, caddy.CtxKey("tls_connection_state_func"), func() *tls.ConnectionState { return new(tls.ConnectionState) })
	}
	return ctx
}

// Who comes by TLS does so with the next request too: what Caddy would not know that of,
// once it has come back, is parked as ever (contract 15.1).
func TestDetachedKeepsTLSOfWrappers(t *testing.T) {
	s, addr := listens(t, func(c *net.TCPConn) net.Conn { return secure{c} })
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"1\"\r\n\r\n")
	// Those of the test before may take a while to leave.
	until(t, "it is parked, and nobody is detached", func() bool {
		return s.lot.Parked() == 1 && len(stacks("park.(*Spot).wait(")) == 1 && detached(t) == 0
	})
}

// wrapped is a listener around a listener.
type wrapped struct {
	net.Listener
	wrap func(*net.TCPConn) net.Conn
}

func (l wrapped) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.wrap(conn.(*net.TCPConn)), nil
}

// detached is how many polls of all sites are.
func detached(t *testing.T) int {
	return int(gathered(t, ourRegistry(t))["caddy_long_poll_detached_requests"].GetMetric()[0].GetGauge().GetValue())
}

// sealed is a connection that has its descriptor's methods, but what goes over it is not
// what is written.
type sealed struct{ *net.TCPConn }

func (c sealed) Write(b []byte) (int, error) {
	seal := make([]byte, len(b))
	for i := range b {
		seal[i] = b[i] ^ 1
	}
	return c.TCPConn.Write(seal)
}

// unsealed reads what such a connection has written.
type unsealed struct{ io.Reader }

func (r unsealed) Read(b []byte) (n int, err error) {
	n, err = r.Reader.Read(b)
	for i := range b[:n] {
		b[i] ^= 1
	}
	return n, err
}

// What a listener wrapper does to what is written is done to the answers of detached polls
// too (contract 15.1).
func TestDetachedWritesByTheConnection(t *testing.T) {
	s, addr := listens(t, func(c *net.TCPConn) net.Conn { return sealed{c} })
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"1\"\r\n\r\n")
	until(t, "it is detached", func() bool { return detached(t) == 1 && s.lot.Parked() == 1 })
	s.backend.say(tagged("2"))
	resp, err := http.ReadResponse(bufio.NewReader(unsealed{conn}), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("got %v, %v", resp, err)
	}
}

// Streams that are opened, left, cut short and read slowly all the time, while what they are
// told changes and they say that they live, hear what only grows, and leave nothing behind.
func TestDetachedStreamsChurn(t *testing.T) {
	for name, wrap := range map[string]func(*net.TCPConn) net.Conn{
		"bare":    func(c *net.TCPConn) net.Conn { return c },
		"wrapped": func(c *net.TCPConn) net.Conn { return sealed{c} },
	} {
		t.Run(name, func(t *testing.T) {
			s, addr := listens(t, wrap, "stream", "heartbeat 7ms", "stream_timeout 100ms", "hold 1m 90%")
			var n atomic.Int64
			padding := strings.Repeat("x", 64<<10)
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				now := n.Add(1)
				return reply(200, fmt.Sprint(now, " ", padding[:now%7*now*97%(64<<10)]))(w, r)
			})
			var clients sync.WaitGroup
			for i := range 24 {
				clients.Go(func() {
					for j := range 8 {
						streamOnce(t, addr, i+j, name == "wrapped")
					}
				})
			}
			clients.Wait()
			until(t, "nobody is left", func() bool {
				return s.lot.Parked() == 0 && detached(t) == 0 && s.gauge("caddy_long_poll_streams") == 0 &&
					s.gauge("caddy_long_poll_parked_requests") == 0 // another test's too, whose last waiter may be about to leave
			})
		})
	}
}

// streamOnce opens a stream, or two on one connection, and leaves it in one of several ways.
func streamOnce(t *testing.T, addr string, way int, seals bool) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	const ask = "GET / HTTP/1.1\r\nHost: x\r\n" + events + "\r\n\r\n"
	io.WriteString(conn, ask)
	var from io.Reader = conn
	if seals {
		from = unsealed{conn}
	}
	read := bufio.NewReader(from)
	var last int
	for range 2 {
		resp, err := http.ReadResponse(read, nil)
		if err != nil {
			t.Error(err)
			return
		}
		lines := bufio.NewReader(resp.Body)
		for told := 0; ; {
			line, err := lines.ReadString('\n')
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Errorf("got %v after %d", err, last)
				return
			}
			var now int
			if k, _ := fmt.Sscanf(line, "data: %d ", &now); k == 0 {
				continue
			}
			if now <= last {
				t.Errorf("got %d after %d", now, last)
			}
			last = now
			switch told++; {
			case told < 3:
			case way%5 == 0:
				_ = conn.(*net.TCPConn).SetLinger(0)
				return
			case way%5 == 1:
				return
			case way%5 == 2:
				time.Sleep(time.Millisecond)
			}
		}
		io.WriteString(conn, ask)
	}
}

// certified is how a server speaks TLS, whatever its clients think of its name.
func certified() *tls.Config {
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	defer server.Close()
	return &tls.Config{Certificates: server.TLS.Certificates}
}

// stuck is a connection that takes nothing any more, once it is told so.
type stuck struct {
	*net.TCPConn
	full *atomic.Bool
	at   chan struct{} // gets one whenever a write begins that has to wait
	end  chan struct{}
}

func (c stuck) Write(b []byte) (int, error) {
	if c.full.Load() {
		c.at <- struct{}{}
		<-c.end
		return 0, net.ErrClosed
	}
	return c.TCPConn.Write(b)
}

// Who has left without reading what there was to read keeps nobody from being noticed: the
// farewell of TLS waits for a place in the buffers of its connection.
func TestDetachedFarewellWaitsAlone(t *testing.T) {
	var full atomic.Bool
	at, end := make(chan struct{}, 16), make(chan struct{})
	config := certified()
	s, addr := listens(t, func(c *net.TCPConn) net.Conn { return tls.Server(stuck{c, &full, at, end}, config) })
	defer close(end)
	var all []*net.TCPConn
	for range 2 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), "GET / HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"1\"\r\n\r\n")
		all = append(all, conn.(*net.TCPConn))
	}
	until(t, "both are detached", func() bool { return detached(t) == 2 && s.lot.Parked() == 2 })
	full.Store(true)
	all[0].CloseWrite()
	<-at
	all[1].CloseWrite()
	until(t, "the other one is noticed", func() bool { return s.lot.Parked() == 0 })
}

// Who says farewell in TLS has left, though its connection is still there; who has sent the
// next request has not, and nor has one of whose record a part has come.
func TestDetachedFarewell(t *testing.T) {
	config := certified()
	s, addr := listens(t, func(c *net.TCPConn) net.Conn { return tls.Server(c, config) })
	dial := func() (*tls.Conn, *pieces) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		p := &pieces{Conn: conn}
		return tls.Client(p, &tls.Config{InsecureSkipVerify: true}), p
	}
	const ask = "GET / HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"1\"\r\n\r\n"
	leaves, _ := dial()
	whole, _ := dial()
	part, of := dial()
	for _, c := range []*tls.Conn{leaves, whole, part} {
		io.WriteString(c, ask)
	}
	until(t, "all are detached", func() bool { return detached(t) == 3 && s.lot.Parked() == 3 })
	io.WriteString(whole, ask)
	of.keep.Store(true)
	io.WriteString(part, ask)
	leaves.CloseWrite()
	until(t, "one has left", func() bool { return s.lot.Parked() == 2 })
	s.backend.say(tagged("2"))
	of.finish()
	for _, c := range []*tls.Conn{whole, part} {
		from := bufio.NewReader(c)
		for range 2 {
			resp, err := http.ReadResponse(from, nil)
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("got %v, %v", resp, err)
			}
			io.Copy(io.Discard, resp.Body)
		}
	}
}

// pieces is a connection over which some of what is written comes later.
type pieces struct {
	net.Conn
	keep atomic.Bool
	kept []byte
}

func (p *pieces) Write(b []byte) (int, error) {
	if !p.keep.Load() {
		return p.Conn.Write(b)
	}
	p.kept = append(p.kept, b[7:]...)
	_, err := p.Conn.Write(b[:7])
	return len(b), err
}

// finish sends the rest.
func (p *pieces) finish() { p.Conn.Write(p.kept) }
