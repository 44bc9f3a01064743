package tap

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// script is a handler that does what its letters say.
type script string

var errScript = errors.New("the script fails")

// ServeHTTP follows the script:
//
//	H  200, with a field and an announced trailer     I  103 with a link
//	C  200 with Content-Length: 5                     F  flush
//	W  write five bytes                               f  flush by http.Flusher
//	L  write three thousand                           T  set the announced trailer
//	R  ReadFrom, of a source of three reads           t  set one that was not announced
//	E  fail                                           X  panic
//	S  be silent for a second                         P  as long as one waits
func (s script) ServeHTTP(w http.ResponseWriter, _ *http.Request) error {
	header := w.Header() // kept, as handlers may
	for _, letter := range s {
		if o, ok := w.(*own); ok && o.shown {
			header = w.Header() // see ServeShown
		}
		switch letter {
		case 'H':
			header.Set("X-Own", "1")
			header.Set("Trailer", "X-Late")
			w.WriteHeader(http.StatusOK)
		case 'C':
			header.Set("Content-Length", "5")
			w.WriteHeader(http.StatusOK)
		case 'W':
			w.Write([]byte("five "))
		case 'L':
			w.Write([]byte(strings.Repeat("long ", 600)))
		case 'R':
			io.Copy(w, source("read, ", strings.Repeat("and ", 200), "read "))
		case 'E':
			return errScript
		case 'F':
			http.NewResponseController(w).Flush()
		case 'f':
			if flusher, ok := w.(http.Flusher); ok {
				flusher.Flush()
			}
		case 'I':
			header.Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			header.Del("Link")
		case 'T':
			header.Set("X-Late", "announced")
		case 't':
			header.Set(http.TrailerPrefix+"X-Later", "not announced")
		case 'X':
			panic(http.ErrAbortHandler)
		case 'S', 'P': // in a bubble
			time.Sleep(map[rune]time.Duration{'S': time.Second, 'P': patience}[letter])
		}
	}
	return nil
}

// source is a reader of the pieces, and nothing else: io.Copy would have others write.
func source(pieces ...string) io.Reader {
	var all []io.Reader
	for _, piece := range pieces {
		all = append(all, strings.NewReader(piece))
	}
	return struct{ io.Reader }{io.MultiReader(all...)}
}

// plan is an Exchange for tests.
type plan struct {
	need   bool
	status int // at the end, if not 0
	calls  []string
	body   string
}

func (p *plan) Begin(status int, header http.Header) bool {
	p.calls = append(p.calls, "begin "+strconv.Itoa(status))
	header.Set("X-Begun", "1")
	return p.need
}

func (p *plan) End(status int, header http.Header, body []byte) int {
	p.calls = append(p.calls, "end")
	p.body = string(body)
	header.Set("X-Ended", "1")
	if p.status != 0 {
		return p.status
	}
	return status
}

func (p *plan) Late(_ int, header http.Header) {
	p.calls = append(p.calls, "late")
	header.Set("X-Delayed", "1")
}

// got is what a client has got.
type got struct {
	Early   []string
	Status  int
	Header  http.Header
	Body    string
	Trailer http.Header
	Broken  bool
	Length  int64
}

func (g got) String() string {
	return fmt.Sprintf("early %v, %d %v, %d bytes %.20q, trailers %v, broken %v, length %d", g.Early, g.Status, g.Header, len(g.Body), g.Body, g.Trailer, g.Broken, g.Length)
}

// without is g less some fields.
func (g got) without(names ...string) string {
	g.Header = maps.Clone(g.Header)
	for _, name := range names {
		delete(g.Header, name)
	}
	return g.String()
}

// get asks the server of url.
func get(t testing.TB, client *http.Client, url string) (g got) {
	t.Helper()
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			g.Early = append(g.Early, fmt.Sprint(code, header.Get("Link"), header.Get("X-Preset")))
			return nil
		},
	})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		return got{Broken: true, Early: g.Early}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	resp.Header.Del("Date")
	resp.Header.Del("Trailer")
	g.Status, g.Header, g.Body, g.Trailer, g.Broken, g.Length = resp.StatusCode, resp.Header, string(body), maps.Clone(resp.Trailer), err != nil, resp.ContentLength
	return g
}

// site is an http.Handler that sets a field, has h answer, and makes a 500 of an error.
func site(h caddyhttp.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Preset", "1")
		if err := h.ServeHTTP(w, r); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
}

// owned is h behind Serve.
func owned(h caddyhttp.Handler, limit int64, x Exchange) caddyhttp.Handler {
	return caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return Serve(w, r, h, limit, x)
	})
}

// shown is h behind ServeShown.
func shown(h caddyhttp.Handler, limit int64, x Exchange) caddyhttp.Handler {
	return caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return ServeShown(w, r, h, limit, x)
	})
}

// server is a real server whose handler can be changed.
type server struct {
	*httptest.Server

	mu      sync.Mutex // held while the handler runs; protects it
	handler http.Handler
}

func newServer(t testing.TB, http2 bool) *server {
	s := new(server)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.handler.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of second heads
	if http2 {
		s.EnableHTTP2 = true
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func (s *server) get(t testing.TB, h caddyhttp.Handler) got {
	t.Helper()
	s.mu.Lock()
	s.handler = site(h)
	s.mu.Unlock()
	g := get(t, s.Client(), s.URL)
	s.mu.Lock() // once the handler has returned
	defer s.mu.Unlock()
	return g
}

// alone is get of h, which follows the script, by a connection on which no other answer
// comes if net/http may send more of this one than it has announced.
func (s *server) alone(t testing.TB, sc script, h caddyhttp.Handler) got {
	t.Helper()
	g := s.get(t, h)
	if strings.Contains(string(sc), "C") && strings.Contains(string(sc), "R") {
		s.Client().CloseIdleConnections()
	}
	return g
}

// pipes is a listener without a network, so that a server can run in a bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { close(l.done); return nil }
func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// ask sends a GET to h, in a bubble, and gives what comes of its answer.
func ask(t *testing.T, h caddyhttp.Handler) (answer *bufio.Reader, end func()) {
	l := &pipes{make(chan net.Conn), make(chan struct{})}
	s := &http.Server{Handler: site(h), ErrorLog: log.New(io.Discard, "", 0), TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	go s.Serve(l)
	conn, far := net.Pipe()
	l.conns <- far
	go io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	return bufio.NewReader(conn), func() { conn.Close(); s.Close() }
}

// every gives all scripts of up to n of the letters.
func every(letters string, n int) []script {
	all, last := []script{""}, []script{""}
	for range n {
		var next []script
		for _, s := range last {
			for _, letter := range letters {
				next = append(next, s+script(letter))
			}
		}
		all, last = append(all, next...), next
	}
	return slices.Clip(all)
}
