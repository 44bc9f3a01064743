package integration_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

var protocols = []string{"HTTP/1.1", "HTTP/2.0", "HTTP/3.0"}

// newTLSClient speaks one of the protocols, to a port on the loopback address that
// has a certificate for localhost by the sidecar's own authority.
func (s *sidecar) newTLSClient(t *testing.T, protocol, port string) *client {
	t.Helper()
	address := "127.0.0.1:" + port
	config := &tls.Config{RootCAs: s.authority(t), ServerName: "localhost"}
	waitFor(t, "the certificate", func() bool {
		conn, err := tls.Dial("tcp", address, config)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	c := &client{t: t, protocol: protocol, base: "https://localhost:" + port}
	if protocol == "HTTP/3.0" {
		transport := &http3.Transport{
			TLSClientConfig:    config,
			DisableCompression: true,
			Dial: func(ctx context.Context, _ string, config *tls.Config, settings *quic.Config) (*quic.Conn, error) {
				return quic.DialAddrEarly(ctx, address, config, settings)
			},
		}
		t.Cleanup(func() { transport.Close() })
		c.http = &http.Client{Transport: transport}
	} else {
		transport := &http.Transport{
			TLSClientConfig:     config,
			DisableCompression:  true,
			MaxIdleConnsPerHost: 2000,
			Protocols:           new(http.Protocols),
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", address)
			},
		}
		transport.Protocols.SetHTTP1(protocol == "HTTP/1.1")
		transport.Protocols.SetHTTP2(protocol == "HTTP/2.0")
		t.Cleanup(transport.CloseIdleConnections)
		c.http = &http.Client{Transport: transport}
	}
	return c
}

// authority is the root certificate of `tls internal`.
func (s *sidecar) authority(t *testing.T) *x509.CertPool {
	t.Helper()
	resp, err := s.admin.Get("http://admin/pki/ca/local")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var ca struct {
		Root string `json:"root_certificate"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&ca); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(ca.Root)) {
		t.Fatalf("no certificate in %q", ca.Root)
	}
	return pool
}

// tlsSite is a site for newTLSClient.
func tlsSite(port, directives string) string {
	return fmt.Sprintf("https://localhost:%s {\n\tbind 127.0.0.1\n\ttls internal\n%s\n}\n", port, directives)
}

// site is a site for newClient.
func site(port, directives string) string {
	return fmt.Sprintf("http://127.0.0.1:%s {\n\tbind 127.0.0.1\n%s\n}\n", port, directives)
}

// testProtocols does on each protocol what long-polling is about.
func testProtocols(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", tlsSite(port, `
	long_poll /api/* {
		hold 3m
		interval 100ms
		linger 100ms
	}
	reverse_proxy `+b.addr))

	for i, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			c := s.newTLSClient(t, protocol, port)
			now, next := b.get(), fmt.Sprintf("value %d", i)

			c.get("/other").want(t, 200, "")
			first := c.get("/api/a").want(t, 200, "answered").wantBody(t, fmt.Sprintf(`{"value":%q}`, now))
			version := "If-None-Match: " + first.header.Get("ETag")
			c.get("/api/a", version, "Prefer: wait=0").want(t, 304, "answered").wantFields(t, "Preference-Applied: wait=0")
			r := c.expires("/api/a", version, "Prefer: wait=3").
				wantFields(t, "Preference-Applied: wait=3", "ETag: "+first.header.Get("ETag"))
			if r.took < 2700*time.Millisecond { // and without a wait it would be late for any deadline
				t.Errorf("waited %v for wait=3", r.took)
			}

			parked := []*pending{c.poll("/api/a", version), c.poll("/api/a", version), c.poll("/api/b", version)}
			s.waitParked(len(parked))
			parked[0].leave()
			s.waitParked(len(parked) - 1)
			wantWaiting(t, parked[1:])
			b.set(next)
			for _, p := range parked[1:] {
				p.wait().want(t, 200, "changed").wantBody(t, fmt.Sprintf(`{"value":%q}`, next))
			}
			if left := s.outcomes("left"); left != 2*i+1 {
				t.Errorf("%d have left instead of %d", left, 2*i+1)
			}

			// When all have left the backend is left alone, and nothing stays.
			alone := c.poll("/api/c", "If-None-Match: "+c.get("/api/c").header.Get("ETag"))
			s.waitParked(1)
			alone.leave()
			s.waitParked(0)
			waitFor(t, "the resources to be forgotten", func() bool {
				return s.metric("caddy_long_poll_resources") == 0
			})
			asked := b.asked.Load()
			c.get("/other").want(t, 200, "")
			if n := b.asked.Load() - asked; n != 1 {
				t.Errorf("the backend was asked %d times while nobody waited", n-1)
			}
		})
	}
}

// testTimeouts parks requests for longer than the server lets anything last.
func testTimeouts(t *testing.T, caddy binary) {
	large := strings.Repeat("0123456789", 2000)
	b := serveBackend(t, nil)
	var options, sites strings.Builder
	ports := make(map[string]string) // by what is cut short there
	for name, timeouts := range map[string]string{
		// which are for the handshake too: less than a busy machine may take for it is too little
		"write":                 "write 12s",
		"read":                  "read_body 12s\nread_header 12s",
		"write idle":            "write_idle 3s 10000",
		"read idle":             "read_body_idle 3s 10000",
		"idle":                  "idle 3s",
		"all":                   "write 12s\nwrite_idle 3s 10000\nread_body 12s\nread_body_idle 3s 10000\nread_header 12s\nidle 3s",
		"the timeouts handler":  "idle 5m",
		"the handler and write": "write 12s\nread_body 12s",
	} {
		port := freePort(t)
		ports[name] = port
		fmt.Fprintf(&options, "\tservers 127.0.0.1:%s {\n\t\ttimeouts {\n%s\n\t\t}\n\t}\n", port, timeouts)
		var handler string
		if strings.Contains(name, "handler") {
			handler = "\ttimeouts {\n\t\twrite_timeout 3s 10000\n\t\tread_timeout 3s 10000\n\t}\n"
		}
		sites.WriteString(tlsSite(port, handler+`
	log
	long_poll /api/* {
		hold 2m
		methods GET POST
		interval 100ms
	}
	reverse_proxy `+b.addr))
	}
	s := caddy.start(t, options.String(), sites.String())

	type poll struct {
		name string
		*pending
	}
	var expiring, changing []poll
	for name, port := range ports {
		for _, protocol := range protocols {
			c := s.newTLSClient(t, protocol, port)
			name := name + ", " + protocol
			add := func(polls *[]poll, method, path, body string, fields ...string) {
				*polls = append(*polls, poll{name + ", " + method, c.send(method, path, body, append(fields, `If-None-Match: "one"`)...)})
			}
			add(&expiring, "GET", "/api/expiring", "", "Prefer: wait=18")
			add(&expiring, "POST", "/api/expiring", "a body", "Prefer: wait=18")
			add(&changing, "GET", "/api/changing", "")
			add(&changing, "POST", "/api/changing", "a body")
		}
	}
	for _, p := range expiring {
		r := p.wait()
		if r.err != nil || r.status != 304 || r.outcome() != "expired" {
			t.Errorf("%s: got %v, want 304 expired", p.name, r)
		}
	}
	for _, p := range changing {
		if !p.waiting() {
			t.Errorf("%s: got %v before the change", p.name, p.reply)
		}
	}
	b.set(large)
	for _, p := range changing {
		r := p.wait()
		if r.err != nil || r.status != 200 || r.outcome() != "changed" || r.body != fmt.Sprintf(`{"value":%q}`, large) {
			t.Errorf("%s: got %d bytes of %v, want the change", p.name, len(r.body), r)
		}
	}
}

// testWebSocket has an upgraded connection go through untouched.
func testWebSocket(t *testing.T, caddy binary) {
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
		for {
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(conn, "echo of "+line)
		}
	}))
	port := freePort(t)
	s := caddy.start(t, "", site(port, "\tlong_poll\n\treverse_proxy "+b.addr))

	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(deadline))
	io.WriteString(conn, "GET /socket HTTP/1.1\r\nHost: 127.0.0.1:"+port+"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Long-Poll") != "bypassed" {
		t.Fatalf("got %s with Long-Poll: %q", resp.Status, resp.Header.Get("Long-Poll"))
	}
	for _, word := range []string{"hello\n", "again\n"} {
		io.WriteString(conn, word)
		if line, err := r.ReadString('\n'); err != nil || line != "echo of "+word {
			t.Fatalf("got %q, %v", line, err)
		}
	}
	conn.Close()
	waitFor(t, "the end of the connection", func() bool { return s.outcomes("bypassed") == 1 })
	if n := b.asked.Load(); n != 1 {
		t.Errorf("the backend was asked %d times for one connection", n)
	}
}

// testStreams has streams go through at once, piece by piece: those that the
// client asks for by name, and those that only turn out to be streams.
func testStreams(t *testing.T, caddy binary) {
	var steps sync.Map // of channels by query: closed when the second piece is due
	step := func(query string) chan struct{} {
		c, _ := steps.LoadOrStore(query, make(chan struct{}))
		return c.(chan struct{})
	}
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := "text/event-stream"
		if r.URL.Path == "/endless" {
			kind = "application/json"
		}
		w.Header().Set("Content-Type", kind)
		io.WriteString(w, "data: first\n\n")
		w.(http.Flusher).Flush()
		select {
		case <-step(r.URL.RawQuery):
		case <-r.Context().Done():
			return
		}
		io.WriteString(w, "data: second\n\n")
	}))
	port := freePort(t)
	s := caddy.start(t, "", tlsSite(port, `
	long_poll {
		check_timeout 2s # a stream that nobody has asked for must have begun by then
	}
	reverse_proxy `+b.addr+` {
		flush_interval -1
	}`))

	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			c := s.newTLSClient(t, protocol, port)
			for _, stream := range []struct{ name, path, accept string }{
				{"asked for", "/stream", "text/event-stream"},
				{"by Content-Type", "/stream", "*/*"},
				{"without end", "/endless", "*/*"},
			} {
				t.Run(stream.name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), deadline)
					defer cancel()
					query := url.QueryEscape(t.Name())
					req, err := http.NewRequestWithContext(ctx, "GET", c.base+stream.path+"?"+query, nil)
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set("Accept", stream.accept)
					req.Header.Set("Prefer", "wait=20")
					resp, err := c.http.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					if resp.StatusCode != 200 || resp.Proto != protocol || resp.Header.Get("Long-Poll") != "bypassed" {
						t.Errorf("got %s %s with Long-Poll: %q", resp.Proto, resp.Status, resp.Header.Get("Long-Poll"))
					}
					first := make([]byte, len("data: first\n\n"))
					if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "data: first\n\n" {
						t.Fatalf("got %q, %v", first, err)
					}
					close(step(query))
					if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "data: second\n\n" {
						t.Errorf("got %q, %v", rest, err)
					}
				})
			}
		})
	}
}
