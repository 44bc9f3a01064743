package contract_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// shadowed is what is counted for shadow since before.
func shadowed(t testing.TB, before stats) shadowStats {
	t.Helper()
	now := readStats(t).Shadow
	now.Polls -= before.Shadow.Polls
	now.WouldPark -= before.Shadow.WouldPark
	now.WouldCheck -= before.Shadow.WouldCheck
	now.WouldSave -= before.Shadow.WouldSave
	now.Unseen -= before.Shadow.Unseen
	return now
}

func TestShadowCounts(t *testing.T) {
	gzipped := func(text string) string {
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		io.WriteString(w, text)
		w.Close()
		return buf.String()
	}
	for name, test := range map[string]struct {
		block string
		says  caddyhttp.HandlerFunc
		do    func(s *site)
		want  string // polls, would park, would check, unseen
	}{
		"the client has it, says the backend": {"", tagged("1"), func(s *site) { s.get("/", has("1")).wants("304 ") }, "1 1 1 0"},
		"the client has it, but the backend does not look": {"", reply(200, "x", `ETag: "1"`), func(s *site) {
			s.get("/", has("1")).wants("200  x")
		}, "1 1 1 0"},
		"the client has something else": {"", tagged("2"), func(s *site) { s.get("/", has("1")).wants("200  state 2") }, "1 0 0 0"},
		"the client names nothing":      {"", tagged("1"), func(s *site) { s.get("/").wants("200  state 1") }, "0 0 0 0"},
		"nothing, but that it waits":    {"", tagged("1"), func(s *site) { s.get("/", waits(5)).wants("200  state 1") }, "1 0 0 0"},
		"a browser's cache":             {"", tagged("1"), func(s *site) { s.get("/", has("1"), "Sec-Fetch-Site: same-origin").wants("304 ") }, "0 0 0 0"},
		"polls asked":                   {"polls asked", tagged("1"), func(s *site) { s.get("/", has("1")).wants("304 "); s.get("/", has("1"), waits(5)).wants("304 ") }, "1 1 1 0"},
		"unversioned park":              {"unversioned park", tagged("1"), func(s *site) { s.get("/").wants("200  state 1") }, "1 1 1 0"},
		"the client does not want to":   {"", tagged("1"), func(s *site) { s.get("/", has("1"), "Wait: 0").answer() }, "1 0 0 0"},
		"a wait that is none":           {"wait {query.w}", tagged("1"), func(s *site) { s.get("/?w=x", has("1")).wants("304 ") }, "1 0 0 0"},
		"by date":                       {"", reply(200, "x", "Last-Modified: Mon, 02 Jan 2006 15:04:05 GMT"), func(s *site) { s.get("/", "If-Modified-Since: Mon, 02 Jan 2006 15:04:05 GMT").answer() }, "1 1 1 0"},
		"not by date":                   {"", reply(200, "x", "Last-Modified: Mon, 02 Jan 2007 15:04:05 GMT"), func(s *site) { s.get("/", "If-Modified-Since: Mon, 02 Jan 2006 15:04:05 GMT").answer() }, "1 0 0 0"},
		"since and version":             {"since {query.v}\nversion {lp.json.v}", reply(200, `{"v":7}`), func(s *site) { s.get("/?v=7").wants(`200  {"v":7}`); s.get("/?v=8").answer() }, "2 1 1 0"},
		"version in a compressed body":  {"since {query.v}\nversion {lp.json.v}", reply(200, gzipped(`{"v":7}`), "Content-Encoding: gzip"), func(s *site) { s.get("/?v=7").answer() }, "1 1 1 0"},
		"since a hash":                  {"since {query.v}\nversion {lp.hash}", reply(200, `x`), func(s *site) { s.get("/?v=2d711642b726b04401627ca9fbac32f5").answer() }, "1 1 1 0"},
		"hold_while":                    {"hold_while {lp.json.status} is queued", reply(200, `{"status":"queued"}`), func(s *site) { s.get("/").answer() }, "1 1 1 0"},
		"hold_while no more":            {"hold_while {lp.json.status} is queued", reply(200, `{"status":"done"}`), func(s *site) { s.get("/").answer() }, "1 0 0 0"},
		"hold_while on a 404":           {"hold_while {lp.status} is 404", reply(404, ``), func(s *site) { s.get("/").answer() }, "1 1 1 0"},
		"an error that it has":          {"", reply(500, "x", `ETag: "1"`), func(s *site) { s.get("/", has("1")).answer() }, "1 0 0 0"},
		"an error of a handler":         {"", unreachable, func(s *site) { s.get("/", has("1")).answer() }, "0 0 0 0"},
		"a stream":                      {"unversioned park", reply(200, "data: x\n\n", "Content-Type: text/event-stream"), func(s *site) { s.get("/").answer() }, "0 0 0 1"},
		"a large answer":                {"hold_while {lp.json.x} empty\nmax_body 10", reply(200, "01234567890"), func(s *site) { s.get("/").wants("200  01234567890") }, "0 0 0 1"},
		"a large answer that says so":   {"unversioned park\nmax_body 10", reply(200, "01234567890", "Content-Length: 11"), func(s *site) { s.get("/").wants("200  01234567890") }, "0 0 0 1"},
		"a probe":                       {"since {query.v}\nprobe /x\nversion {lp.json.v}", reply(200, `{"v":7}`), func(s *site) { s.get("/?v=7").answer() }, "0 0 0 1"},
		"no poll":                       {"unversioned park", tagged("1"), func(s *site) { s.post("/", "x").answer(); s.get("/", "Range: bytes=0-").answer() }, "0 0 0 0"},
		"a poll by POST":                {"methods POST\nsince {lp.request.json.v}\nversion {lp.json.v}", reply(200, `{"v":7}`), func(s *site) { s.post("/", `{"v":"7"}`).answer(); s.post("/", `{"v":"8"}`).answer() }, "2 1 1 0"},
		"a poll by POST that is large":  {"methods POST\nmax_body 10\nunversioned park", reply(200, "x"), func(s *site) { s.post("/", "01234567890").answer() }, "0 0 0 1"},
		"ten at once cost one":          {"", tagged("1"), times(10, "/"), "10 10 1 0"},
		"ten things at once cost ten": {"", tagged("1"), func(s *site) {
			for i := range 10 {
				s.get(fmt.Sprintf("/%d", i), has("1")).answer()
			}
		}, "10 10 10 0"},
		"whose answers vary": {"", tagged("1", "Vary: X-User"), func(s *site) {
			for i := range 10 {
				s.get("/", has("1"), fmt.Sprintf("X-User: %d", i%2)).answer()
			}
		}, "10 10 2 0"},
		"ten users cost ten": {"", tagged("1"), func(s *site) {
			for i := range 10 {
				s.get("/", has("1"), fmt.Sprintf("Cookie: u=%d", i)).answer()
			}
		}, "10 10 10 0"},
		"a client that asks every second": {"", tagged("1"), every(time.Second, 61), "61 61 61 0"},
		"ten a second":                    {"", tagged("1"), every(100*time.Millisecond, 601), "601 601 61 0"},
		"a longer interval":               {"interval 10s", tagged("1"), every(time.Second, 61), "61 61 7 0"},
		// It would be parked for the 5 seconds between, which is five checks.
		"a client that asks every 5 seconds": {"", tagged("1"), every(5*time.Second, 11), "11 11 51 0"},
		// It would be parked for 25 seconds of each minute.
		"a client that asks every minute": {"", tagged("1"), every(time.Minute, 3), "3 3 53 0"},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			before := readStats(t)
			s := newSite(t, steady+"shadow\n"+test.block)
			s.backend.say(test.says)
			test.do(s)
			got := shadowed(t, before)
			if text := fmt.Sprint(got.Polls, got.WouldPark, got.WouldCheck, got.Unseen); text != test.want {
				t.Errorf("got %s; want %s (polls, would park, would check, unseen)", text, test.want)
			}
			if got.WouldSave != got.WouldPark-got.WouldCheck || got.Handlers != 1 {
				t.Errorf("got %+v", got)
			}
			if s.lot.Parked()+s.lot.Len() != 0 {
				t.Errorf("%d are parked, %d resources are known", s.lot.Parked(), s.lot.Len())
			}
		}))
	}
}

func times(n int, target string) func(*site) {
	return func(s *site) {
		for range n {
			s.get(target, has("1")).wants("304 ")
		}
	}
}

func every(d time.Duration, n int) func(*site) {
	return func(s *site) {
		for range n {
			s.get("/", has("1")).wants("304 ")
			settle(d)
		}
	}
}

// What a client gets is what it would get without us, whatever it is.
func TestShadowChangesNothing(t *testing.T) {
	large := strings.Repeat("0123456789", 200000)
	for name, says := range map[string]caddyhttp.HandlerFunc{
		"tagged": tagged("1"), "untagged": reply(200, "x", "X-Y: z", "Set-Cookie: a=b", "Cache-Control: max-age=60"),
		"large": reply(200, large), "nothing": silent, "no content": reply(204, ""), "an error": reply(503, "x", "Retry-After: 5"),
		"early hints": func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			return tagged("2")(w, r)
		},
		"in pieces": func(w http.ResponseWriter, r *http.Request) error {
			for range 10 {
				io.WriteString(w, "piece ")
				http.NewResponseController(w).Flush()
			}
			return nil
		},
		"copied": func(w http.ResponseWriter, r *http.Request) error {
			_, err := io.Copy(w, strings.NewReader(large))
			return err
		},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			plain, s := newSite(t, ""), newSite(t, "shadow\nsince {query.v}\nhold_while {lp.json.x} is y")
			s.backend.say(says)
			for _, fields := range [][]string{{}, {has("1")}, {"Wait: 5"}} {
				want := newResponse()
				err := says(want, caddyhttp.PrepareRequest(newRequest(http.MethodGet, "/", "", fields...), caddy.NewReplacer(), want, plain.server))
				want.end()
				got := s.get("/", fields...).answer()
				if got.err != err || got.w.status != want.status || got.w.body.String() != want.body.String() ||
					fmt.Sprint(got.w.informed) != fmt.Sprint(want.informed) || !maps.EqualFunc(got.w.sent, want.sent, func(a, b []string) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
					t.Errorf("%v: got %d %v %d bytes, %v; want %d %v %d bytes, %v", fields,
						got.w.status, got.w.sent, got.w.body.Len(), got.err, want.status, want.sent, want.body.Len(), err)
				}
				if asked := s.backend.last(); asked.header.Get("If-None-Match") != newRequest(http.MethodGet, "/", "", fields...).Header.Get("If-None-Match") {
					t.Errorf("%v: the backend got %v", fields, asked.header)
				}
			}
		}))
	}
	t.Run("an error of a handler", virtual(func(t *testing.T) {
		s := newSite(t, "shadow")
		oops := errors.New("oops")
		s.backend.say(func(http.ResponseWriter, *http.Request) error { return oops })
		if c := s.get("/").answer(); c.err != oops {
			t.Errorf("got %v", c.err)
		}
	}))
	t.Run("an abort", virtual(func(t *testing.T) {
		before := readStats(t)
		s := newSite(t, "shadow\nmax_checks 1\nhold_while {lp.json.x} is y")
		s.backend.say(aborted)
		if c := s.get("/").answer(); !c.broken {
			t.Errorf("got %v; want it broken", c)
		}
		// It has given its slot back: the next one is looked at.
		s.backend.say(reply(200, `{"x":"y"}`))
		s.get("/").answer()
		if got := shadowed(t, before); got.WouldPark != 1 || got.Unseen != 0 {
			t.Errorf("got %+v; want the second one looked at", got)
		}
	}))
	t.Run("a body that is not read", virtual(func(t *testing.T) {
		before := readStats(t)
		s := realSite(t, "shadow\nmethods POST\nunversioned park")
		w := newResponse()
		r := caddyhttp.PrepareRequest(newRequest(http.MethodPost, "/", "body"), caddy.NewReplacer(), w, s.server)
		if err := s.ServeHTTP(w, r, tagged("1")); err != nil || w.body.String() != "state 1" {
			t.Errorf("got %q, %v", w.body.String(), err)
		}
		if got := shadowed(t, before); got.Unseen != 1 {
			t.Errorf("got %+v; want it unseen", got)
		}
	}))
}

// No answer is delayed: what the backend has said is with the client before the
// backend goes on; and what a connection can do it can still do.
func TestShadowStreams(t *testing.T) {
	s := realSite(t, "shadow\nhold_while {lp.json.x} is y")
	proceed := make(chan struct{})
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if r.URL.Path == "/hijack" {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = io.WriteString(conn, "HTTP/1.1 418 I am a teapot\r\nContent-Length: 0\r\n\r\n")
			return err
		}
		io.WriteString(w, "first\n")
		if err := http.NewResponseController(w).Flush(); err != nil {
			return err
		}
		<-proceed
		_, err := io.WriteString(w, "second\n")
		return err
	})
	var handling sync.WaitGroup // the server does not wait for who has hijacked
	defer handling.Wait()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handling.Add(1)
		defer handling.Done()
		if err := s.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s.server), next); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	client := server.Client()

	resp, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := bufio.NewReader(resp.Body)
	if line, err := body.ReadString('\n'); line != "first\n" {
		t.Errorf("got %q, %v while the backend still speaks", line, err)
	}
	close(proceed)
	if line, err := body.ReadString('\n'); line != "second\n" {
		t.Errorf("got %q, %v", line, err)
	}
	if resp, err := client.Get(server.URL + "/hijack"); err != nil || resp.StatusCode != http.StatusTeapot {
		t.Errorf("hijacked: got %v, %v", resp, err)
	}
}

// A copy from a connection goes the short way where nobody needs to look.
func TestShadowReadFrom(t *testing.T) {
	for block, needed := range map[string]bool{"": false, "hold_while {lp.json.x} is y": true} {
		s := realSite(t, "shadow\n"+block)
		w := &readerFrom{response: newResponse()}
		r := caddyhttp.PrepareRequest(newRequest(http.MethodGet, "/", "", has("1")), caddy.NewReplacer(), w, s.server)
		source := &net.TCPConn{}
		err := s.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Etag", `"2"`)
			w.WriteHeader(http.StatusOK)
			_, err := w.(io.ReaderFrom).ReadFrom(source)
			return err
		}))
		if err != nil {
			t.Fatal(err)
		}
		if direct := w.from == io.Reader(source); direct == needed {
			t.Errorf("%q: read from %T", block, w.from)
		}
	}
}

// readerFrom notes what it was to read from.
type readerFrom struct {
	*response
	from io.Reader
}

func (w *readerFrom) ReadFrom(r io.Reader) (int64, error) {
	w.from = r
	return 0, nil
}

// A copy of a body is only kept of so many at once.
func TestShadowBounds(t *testing.T) {
	t.Run("bodies", virtual(func(t *testing.T) {
		before := readStats(t)
		s := newSite(t, steady+"shadow\nmax_checks 3\nhold_while {lp.json.x} is y")
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			io.WriteString(w, `{"x":`)
			time.Sleep(time.Second)
			io.WriteString(w, `"y"}`)
			return nil
		})
		for round := int64(1); round <= 3; round++ { // every slot comes back
			for range 10 {
				s.get("/")
			}
			settle(2 * time.Second)
			if got := shadowed(t, before); got.WouldPark != 3*round || got.Unseen != 7*round {
				t.Errorf("after %d rounds: got %+v; want 3 looked at in each", round, got)
			}
		}
	}))
	t.Run("from everywhere", func(t *testing.T) {
		before := readStats(t)
		s := realSite(t, "shadow\nsince {query.v}\nversion {lp.json.v}")
		s.backend.say(reply(200, `{"v":7}`))
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for i := range 50 {
					w := newResponse()
					r := newRequest(http.MethodGet, fmt.Sprintf("/%d?v=7", i), "")
					s.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s.server), s.backend)
				}
			})
		}
		wg.Wait()
		if got := shadowed(t, before); got.WouldPark != 400 || got.WouldCheck < 50 {
			t.Errorf("got %+v", got)
		}
	})
}

// A handler behind us may change the request, and placeholders tell nothing of us.
func TestShadowLooksAtTheRequestAsItCame(t *testing.T) {
	virtual(func(t *testing.T) {
		before := readStats(t)
		s := newSite(t, steady+"shadow")
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			r.Header.Del("If-None-Match")
			r.URL.Path, r.Host = "/elsewhere", "elsewhere"
			return reply(200, "x", `ETag: "1"`)(w, r)
		})
		c := s.get("/", has("1")).answer()
		if got := shadowed(t, before); got.WouldPark != 1 {
			t.Errorf("got %+v", got)
		}
		repl := c.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		if got := repl.ReplaceAll("{lp.outcome}{lp.status}{lp.json.v}", ""); got != "" {
			t.Errorf("placeholders say %q", got)
		}
	})(t)
}
