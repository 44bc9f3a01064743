package tap

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestPatience has the time run out while the handlers are blocked: what there is goes
// out then, and the rest and the trailers follow when they come.
func TestPatience(t *testing.T) {
	for _, test := range []struct {
		script script
		at     time.Duration // when the head comes
		want   string        // of the calls
		body   string
		late   string // the trailer
	}{
		{"HWFSWTt", patience, "begin 200 late", "five five ", "announced"},
		{"WFSRt", patience, "begin 200 late", "five read,", ""},
		{"HWFSFT", patience, "begin 200 late", "five ", "announced"},
		{"FSHW", patience, "begin 200 late", "five ", ""},
		{"SHWFT", time.Second, "begin 200 end", "five ", "announced"}, // silence before the head is as it was
		{"HWSWT", time.Second, "begin 200 late", "five five ", "announced"},
		{"HWT", 0, "begin 200 end", "five ", "announced"},
		{"HLLT", 0, "begin 200 late", "long ", "announced"},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := &plan{need: true}
			began := time.Now()
			answer, end := ask(t, owned(test.script, 4000, x))
			defer end()
			resp, err := http.ReadResponse(answer, nil)
			if err != nil {
				t.Fatal(err)
			}
			if at := time.Since(began); at != test.at {
				t.Errorf("%q: head after %v, want %v", test.script, at, test.at)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || !strings.HasPrefix(string(body), test.body) {
				t.Errorf("%q: %v, body %q", test.script, err, body)
			}
			if got := resp.Trailer.Get("X-Late"); got != test.late {
				t.Errorf("%q: trailer %q, want %q", test.script, got, test.late)
			}
			if got := strings.Join(x.calls, " "); got != test.want {
				t.Errorf("%q: calls %q, want %q", test.script, got, test.want)
			}
		})
	}
}

// TestSlowSource has the time run out in the middle of a ReadFrom.
func TestSlowSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &plan{need: true}
		source, feed := io.Pipe()
		began := time.Now()
		answer, end := ask(t, owned(caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusOK)
			http.NewResponseController(w).Flush()
			n, err := w.(io.ReaderFrom).ReadFrom(source)
			if n != 6 {
				t.Errorf("%d bytes read", n)
			}
			return err
		}), 100, x))
		defer end()
		go func() {
			io.WriteString(feed, "one")
			time.Sleep(2 * patience)
			io.WriteString(feed, "two")
			feed.Close()
		}()
		resp, err := http.ReadResponse(answer, nil)
		if err != nil || time.Since(began) != patience {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		piece := make([]byte, 3)
		if _, err := io.ReadFull(resp.Body, piece); err != nil || string(piece) != "one" || time.Since(began) != patience {
			t.Errorf("%q %v after %v", piece, err, time.Since(began))
		}
		rest, err := io.ReadAll(resp.Body)
		if string(rest) != "two" || err != nil || time.Since(began) != 2*patience {
			t.Errorf("%q %v after %v", rest, err, time.Since(began))
		}
	})
}

// client is a response writer that notes what is done to it.
type client struct {
	header http.Header
	did    []string
	write  func() // called with each piece
}

func (c *client) Header() http.Header    { return c.header }
func (c *client) WriteHeader(status int) { c.did = append(c.did, http.StatusText(status)) }
func (c *client) FlushError() error      { c.did = append(c.did, "flush"); return nil }
func (c *client) Write(p []byte) (int, error) {
	if c.write != nil {
		c.write()
	}
	c.did = append(c.did, string(p))
	return len(p), nil
}

func (c *client) ReadFrom(r io.Reader) (int64, error) {
	p, err := io.ReadAll(r)
	c.did = append(c.did, "from "+string(p))
	return int64(len(p)), err
}

// TestPanicOfTheClient has what is in front panic while the time is up: on the timer's
// goroutine nobody would recover.
func TestPanicOfTheClient(t *testing.T) {
	for _, rest := range []script{"W", "F", "R", ""} {
		synctest.Test(t, func(t *testing.T) {
			c := &client{header: make(http.Header), write: func() { panic("no") }}
			defer func() {
				if p := recover(); p != "no" {
					t.Errorf("%q: panicked with %v", rest, p)
				}
			}()
			Serve(c, httptest.NewRequest("GET", "/", nil), "HWS"+rest, 100, &plan{need: true})
			t.Errorf("%q: returned", rest)
		})
	}
}

// TestBrokenOff has the handlers fail or panic before the head is out: the client's
// writer is as it was, and the timer does nothing more.
func TestBrokenOff(t *testing.T) {
	for _, sc := range []script{"HWFE", "HWFX", "IHE", "IWX"} {
		synctest.Test(t, func(t *testing.T) {
			c := &client{header: http.Header{"X-Preset": {"1"}}}
			func() {
				defer func() {
					if p := recover(); (p != nil) != strings.HasSuffix(string(sc), "X") {
						t.Errorf("%q: panicked with %v", sc, p)
					}
				}()
				if err := Serve(c, httptest.NewRequest("GET", "/", nil), sc, 100, &plan{need: true}); err != errScript {
					t.Errorf("%q: error %v", sc, err)
				}
			}()
			time.Sleep(2 * patience)
			did := strings.Join(c.did, " ")
			if did != "" && did != "Early Hints" || len(c.header) != 1 {
				t.Errorf("%q: did %q, header %v", sc, did, c.header)
			}
		})
	}
}

// TestFieldsOfAnError keeps what a handler has set before it failed.
func TestFieldsOfAnError(t *testing.T) {
	c := &client{header: http.Header{"X-Preset": {"1"}}}
	err := Serve(c, httptest.NewRequest("GET", "/", nil), caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Add("Allow", "GET, HEAD")
		return errScript
	}), 100, &plan{need: true})
	if err != errScript || c.header.Get("Allow") == "" || c.header.Get("X-Preset") == "" || len(c.did) > 0 {
		t.Errorf("%v, header %v, did %v", err, c.header, c.did)
	}
}

// TestNotModified has the end answer 304.
func TestNotModified(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		g := newServer(t, http2).get(t, owned(script("HWFTt"), 100, &plan{need: true, status: http.StatusNotModified}))
		if g.Status != 304 || g.Body != "" || g.Broken || len(g.Trailer) > 0 || g.Header.Get("X-Ended") == "" || g.Header.Get("X-Own") == "" {
			t.Errorf("got %v", g)
		}
	}
}

// TestNoWait holds what never waits, whatever Begin says.
func TestNoWait(t *testing.T) {
	for _, test := range []struct {
		method, length string
		status         int
		want           string
	}{
		{"GET", "101", 200, "begin 200 late"},
		{"GET", "99999999999999999999", 200, "begin 200 late"},
		{"GET", "100", 200, "begin 200"},
		{"GET", "-1", 200, "begin 200"},
		{"GET", "x", 200, "begin 200"},
		{"GET", "", 204, "begin 204 end"},
		{"GET", "", 304, "begin 304 late"},
		{"GET", "", 101, "begin 101 late"},
		{"HEAD", "5", 200, "begin 200 late"},
	} {
		c, x := &client{header: make(http.Header)}, &plan{need: true}
		err := Serve(c, httptest.NewRequest(test.method, "/", nil), caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			if test.length != "" {
				w.Header().Set("Content-Length", test.length)
			}
			w.WriteHeader(test.status)
			if got := strings.Join(x.calls, " "); got != test.want {
				t.Errorf("%v: calls %q", test, got)
			}
			if out := len(c.did) > 0; out != (test.want != "begin 200") {
				t.Errorf("%v: did %q", test, c.did)
			}
			return nil
		}), 100, x)
		if err != nil {
			t.Error(err)
		}
	}
}

// counted is a source without an end.
type counted int64

func (c *counted) Read(p []byte) (int, error) {
	*c += counted(len(p))
	return len(p), nil
}

// TestBounded reads no more of a source than shows that it is too large.
func TestBounded(t *testing.T) {
	const limit = 10_000
	var source counted
	c := &client{header: make(http.Header)}
	c.write = func() { panic(http.ErrAbortHandler) } // the first piece says how much was kept
	defer func() {
		if recover() == nil || source > limit+1 {
			t.Errorf("%d bytes read", source)
		}
	}()
	Serve(c, httptest.NewRequest("GET", "/", nil), caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		_, err := io.Copy(w, &source)
		return err
	}), limit, &plan{need: true})
}

// TestAnnouncedLength leaves a body that is longer than announced to net/http, and one
// that is shorter.
func TestAnnouncedLength(t *testing.T) {
	for want, pieces := range map[string][]string{
		"OK|five |from ":     {"five "},        // it goes out with its last byte
		"OK|five|-s|from ix": {"five", "-six"}, // as much was read as shows that it is
		"OK|fiv":             {"fiv"},
	} {
		c, x := &client{header: make(http.Header)}, &plan{need: true}
		Serve(c, httptest.NewRequest("GET", "/", nil), caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Length", "5")
			w.WriteHeader(http.StatusOK)
			for _, piece := range pieces {
				io.Copy(w, source(piece))
			}
			return nil
		}), 100, x)
		if got := strings.Join(c.did, "|"); got != want {
			t.Errorf("did %q, want %q", got, want)
		}
		if whole := x.calls[1] == "end"; whole != (len(pieces[0]) == 5) {
			t.Errorf("%q: calls %q", pieces, x.calls)
		}
	}
}

// TestSameInstant has everything happen when the time is up.
func TestSameInstant(t *testing.T) {
	for range 20 {
		for _, sc := range []script{"HPTWT", "HWPTFW", "HFPTR", "HWPT"} {
			synctest.Test(t, func(t *testing.T) {
				x := &plan{need: true}
				answer, end := ask(t, owned(sc, 4000, x))
				defer end()
				resp, err := http.ReadResponse(answer, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil || resp.Trailer.Get("X-Late") != "announced" || len(body)%5 != strings.Count(string(sc), "R") || len(x.calls) != 2 {
					t.Errorf("%q: %v, body %q, trailers %v, calls %v", sc, err, body, resp.Trailer, x.calls)
				}
			})
		}
	}
}

// TestHijack hands the connection over, with and without something kept back.
func TestHijack(t *testing.T) {
	for _, kept := range []bool{false, true} {
		x := &plan{need: true}
		g := newServer(t, false).get(t, owned(caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			said := "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
			if kept {
				w.Header().Set("Content-Length", "4")
				w.WriteHeader(http.StatusOK)
				said = ""
			}
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return err
			}
			defer conn.Close()
			return errors.Join(write(rw, said+"mine"), rw.Flush())
		}), 100, x))
		if g.Body != "mine" || g.Broken || (len(x.calls) > 0) != kept {
			t.Errorf("kept %v: got %v, calls %v", kept, g, x.calls)
		}
	}
}

func write(w *bufio.ReadWriter, text string) error {
	_, err := w.WriteString(text)
	return err
}

// TestPassing keeps ReadFrom and what is found by Unwrap, where nothing is kept back.
func TestPassing(t *testing.T) {
	c := &client{header: make(http.Header)}
	long := strings.Repeat("x", sniffLen)
	Serve(c, httptest.NewRequest("GET", "/", nil), caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		if w.(interface{ Unwrap() http.ResponseWriter }).Unwrap() != c {
			t.Error("does not unwrap")
		}
		w.WriteHeader(http.StatusOK)
		io.Copy(w, io.LimitReader(strings.NewReader("all of it"), 9))
		w.(http.Flusher).Flush()
		return nil
	}), 100, new(plan))
	Serve(c, httptest.NewRequest("GET", "/", nil), caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		_, err := io.Copy(w, source(long, "rest"))
		return err
	}), 100, new(plan))
	if got := strings.Join(c.did, "|"); got != "OK|from all of it|flush|"+long+"|from rest" {
		t.Errorf("did %q", got)
	}
}
