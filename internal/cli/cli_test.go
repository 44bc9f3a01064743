package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// screen is what a command prints.
type screen struct {
	mu   sync.Mutex // protects text
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// lines are those printed, without their times.
func (s *screen) lines() (lines []string) {
	for line := range strings.Lines(s.String()) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), "  ")
		lines = append(lines, rest)
	}
	return lines
}

// watching is a watch of a server that handler is.
func watching(t *testing.T, handler http.HandlerFunc) (*watch, *screen) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	out := new(screen)
	w := &watch{wait: time.Minute, out: out}
	if err := w.read(server.URL + "/orders/42"); err != nil {
		t.Fatal(err)
	}
	return w, out
}

// attempts is how often something is tried that a machine can spoil by standing still in
// its midst.
const attempts = 5

func TestWatchPolls(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	w, out := watching(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		switch n := asked.Add(1); n {
		case 1:
			if r.Header.Get("If-None-Match") != "" || r.Header.Get("Prefer") != "wait=60" || r.Header.Get("X-Who") != "me" {
				t.Errorf("the first request has %v", r.Header)
			}
			w.Header().Set("Long-Poll", "answered;held=0.000")
			io.WriteString(w, "{\"status\":\"new\",\n\"a\":\"\x1b[2J\"}")
		case 2:
			if r.Header.Get("If-None-Match") != `"1"` {
				t.Errorf("the second request has %v", r.Header)
			}
			w.Header().Set("Long-Poll", "expired;held=24.100")
			w.WriteHeader(http.StatusNotModified)
		case 3:
			w.Header().Del("ETag")
			http.Error(w, "down", http.StatusServiceUnavailable)
		default:
			if r.Header.Get("If-None-Match") != `"1"` {
				t.Error("the version is forgotten by a failure")
			}
			w.Header().Set("ETag", `"2"`)
			io.WriteString(w, `{"status":"paid"}`)
		}
	})
	w.lines, w.count = []string{"X-Who: me"}, 4
	if err := w.read(w.url); err != nil {
		t.Fatal(err)
	}
	if err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`200  answered  0.000s  "1"  24 B  {"status":"new", "a":"�[2J"}`,
		`304  expired   24.100s  "1"  0 B`,
		`503  -         -  -  5 B  down`,
		`200  -         -  "2"  17 B  {"status":"paid"}`,
	}
	got := out.lines()
	want[0] = strings.Replace(want[0], "24 B", fmt.Sprint(len("{\"status\":\"new\",\n\"a\":\"\x1b[2J\"}"), " B"), 1)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWatchShowsAMember(t *testing.T) {
	t.Parallel()
	w, out := watching(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"order":{"status":"paid"}}`) })
	w.member, w.count = "order.status", 1
	if err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := out.lines(); len(got) != 1 || !strings.HasSuffix(got[0], " 27 B  paid") {
		t.Errorf("got %q", got)
	}
}

// A server that says when to come back is not asked sooner; nor is one that holds nothing
// asked without end.
func TestWatchWaits(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"Retry-After": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		},
		"no ETag": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") },
		"same": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", `"1"`)
			w.WriteHeader(http.StatusNotModified)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			least := 500 * time.Millisecond
			if name == "Retry-After" {
				least = time.Second
			}
			var pause time.Duration
			for range attempts { // what was on its way while the machine stood still counts as held
				var mu sync.Mutex
				var at []time.Time
				w, _ := watching(t, func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					at = append(at, time.Now())
					mu.Unlock()
					answer(w, r)
				})
				w.count, w.etag = 2, `"1"`
				if err := w.run(context.Background()); err != nil {
					t.Fatal(err)
				}
				if pause = at[1].Sub(at[0]); pause >= least-50*time.Millisecond {
					return
				}
			}
			t.Errorf("asked again after %v", pause)
		})
	}
}

// A site that holds nothing and has another version for each answer is not asked without end.
func TestWatchWaitsWhereEachVersionIsNew(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	w, _ := watching(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, asked.Add(1)))
	})
	w.count = 3
	began := time.Now()
	if err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < firstPause/2 {
		t.Errorf("asked three times within %v", took)
	}
}

// What Retry-After says has bounds on both sides.
func TestWatchComesBackAfterAll(t *testing.T) {
	t.Parallel()
	for after, want := range map[string]time.Duration{
		"2147483647": time.Hour, "99999999999999999999": 0, "Fri, 31 Dec 9999 23:59:59 GMT": time.Hour,
		"Thu, 01 Jan 1970 00:00:00 GMT": 0, "-5": 0, "0": 0, "2": 2 * time.Second,
	} {
		w, _ := watching(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", after)
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		client, end := w.client(0)
		got := w.once(t.Context(), client)
		end()
		if want == 0 && (got < firstPause/2 || got > firstPause) || want > 0 && got != want {
			t.Errorf("Retry-After %s: comes back after %v; want %v", after, got, want)
		}
	}
}

func TestBackOff(t *testing.T) {
	t.Parallel()
	w := new(watch)
	for i := range 100 {
		d := w.backOff()
		if most := min(firstPause<<min(i, 10), mostPause); d < most/2 || d > most {
			t.Errorf("pause %d is %v", i, d)
		}
	}
}

func TestWatchShowsAFailure(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"closed": {func(w http.ResponseWriter, _ *http.Request) { hijack(w).Close() }, "closed without an answer"},
		"reset": {func(w http.ResponseWriter, _ *http.Request) {
			conn := hijack(w).(*net.TCPConn)
			conn.SetLinger(0)
			conn.Close()
		}, "reset"},
		"broken": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "x")
		}, "closed without an answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, out := watching(t, test.handler)
			w.count = 1
			if err := w.run(context.Background()); err != nil {
				t.Fatal(err)
			}
			if got := out.lines(); len(got) != 1 || !strings.HasPrefix(got[0], "---  "+test.want+" after ") {
				t.Errorf("got %q", got)
			}
		})
	}
}

func hijack(w http.ResponseWriter) net.Conn {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	return conn
}

// A stream is taken where one is offered, resumed where it broke off, and polled for where
// none is offered any more.
func TestWatchStream(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	w, out := watching(t, func(w http.ResponseWriter, r *http.Request) {
		n, accept, last := asked.Add(1), r.Header.Get("Accept"), r.Header.Get("Last-Event-ID")
		if strings.HasPrefix(accept, "text/event-stream") != (n < 4) {
			t.Errorf("request %d asks for %q", n, accept)
		}
		switch n {
		case 1:
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "retry: 100\nid: one\ndata: {\"a\":\ndata: 1}\n\n:\n\nevent: status\nid: two\ndata: {\"status\":404}\n\ndata: not the end")
		case 2:
			if last != "two" || r.Header.Get("If-None-Match") != "" {
				t.Errorf("resumes with Last-Event-ID %q, If-None-Match %q", last, r.Header.Get("If-None-Match"))
			}
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			io.WriteString(w, "id: three\r\ndata: 3\r\n\r\n")
		case 3:
			if last != "three" {
				t.Errorf("Last-Event-ID %q", last)
			}
			w.Header().Set("ETag", `"4"`)
			io.WriteString(w, "4")
		default:
			if last != "" || r.Header.Get("If-None-Match") != `"4"` {
				t.Errorf("polls with Last-Event-ID %q, If-None-Match %q", last, r.Header.Get("If-None-Match"))
			}
			io.WriteString(w, "5")
		}
	})
	w.stream, w.count = true, 5
	if err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`200  message   -  one  8 B  {"a": 1}`,
		`200  status    -  two  14 B  {"status":404}`,
		`200  message   -  three  1 B  3`,
		`200  -         -  "4"  1 B  4`,
		`200  -         -  -  1 B  5`,
	}
	if got := out.lines(); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What a server calls a version, and no request can bear, is not sent back for ever.
func TestWatchGetsOverAVersionThatIsNone(t *testing.T) {
	t.Parallel()
	for name, said := range map[string]string{
		"tag":   "HTTP/1.1 200 OK\r\nETag: \"a\x01\"\r\nContent-Length: 1\r\n\r\nx",
		"event": "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nid: a\x01\ndata: x\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			w, out := watching(t, func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				conn := hijack(w)
				_, _ = io.WriteString(conn, said)
				conn.Close()
			})
			w.count, w.stream = 2, name == "event"
			if err := w.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if asked.Load() != 2 {
				t.Errorf("asked %d times: %s", asked.Load(), out)
			}
		})
	}
}

func TestReadEvents(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ stream, want string }{
		{"data: a\n\n", "[ a]"},
		{"data:a\rdata: b\r\r", "[ a\nb]"},
		{"data\n\n", "[ ]"},
		{"id: 1\n\ndata: a\n\n", "[1 a]"},
		{"id: 1\ndata: a\n\nid\ndata: b\n\n", "[1 a][ b]"},
		{": hello\n\n:\n\n", ""},
		{"data: a", ""},
		{"data: a\n", ""},
		{"unknown: a\ndata:  b\n\n", "[  b]"},
	} {
		for _, whole := range []bool{true, false} {
			stream := io.Reader(strings.NewReader(test.stream))
			if !whole {
				stream = bytewise{stream}
			}
			var got strings.Builder
			err := readEvents(stream, func(e event) bool {
				fmt.Fprintf(&got, "[%s %s]", e.id, e.data)
				return true
			})
			if !errors.Is(err, io.EOF) || got.String() != test.want {
				t.Errorf("%q: got %q, %v; want %q", test.stream, got.String(), err, test.want)
			}
		}
	}
	if err := readEvents(strings.NewReader("data: "+strings.Repeat("x", maxRead)+"\n\n"), func(event) bool { return true }); !errors.Is(err, errLongEvent) {
		t.Errorf("a line without end: %v", err)
	}
}

type bytewise struct{ io.Reader }

func (b bytewise) Read(p []byte) (int, error) { return b.Reader.Read(p[:min(1, len(p))]) }

func TestTarget(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"localhost:8080/a?b=c":  "http://localhost:8080/a?b=c",
		"https://x.example":     "https://x.example",
		"x.example/?u=http://y": "http://x.example/?u=http://y",
		"ftp://x.example/":      "",
		"http://":               "",
		"http://[::1":           "",
	} {
		var target target
		if err := target.read(text); (err == nil) != (want != "") || err == nil && target.url != want {
			t.Errorf("%s: got %q, %v", text, target.url, err)
		}
	}
	// What no request can be made with is said at once, and not tried again and again.
	for _, line := range []string{"no colon", ": x", "X Y: x", "X\x1b: x", "X: a\r\nb"} {
		if err := (&target{lines: []string{line}}).read("localhost"); err == nil {
			t.Errorf("header %q is taken", line)
		}
	}
}
