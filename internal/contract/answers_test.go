package contract_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// Section 5 of the contract: what is answered. And those parts of section 3 that
// are about which requests are parked at all, and for how long.

func TestBypassed(t *testing.T) {
	for name, r := range map[string]*http.Request{
		"method":           newRequest("DELETE", "/", ""),
		"no GET":           newRequest("POST", "/", "body"),
		"no HEAD":          newRequest("HEAD", "/", ""),
		"Upgrade":          newRequest("GET", "/", "", "Connection: Upgrade", "Upgrade: websocket", has("1")),
		"Range":            newRequest("GET", "/", "", "Range: bytes=0-9", has("1")),
		"event stream":     newRequest("GET", "/", "", "Accept: text/event-stream", has("1")),
		"Event-Stream":     newRequest("GET", "/", "", "Accept: Text/Event-Stream"),
		"one of two lines": newRequest("GET", "/", "", "Accept: */*", "Accept: text/event-stream"),
		"in a list":        newRequest("GET", "/", "", "Accept: text/html, text/event-stream;q=0.5"),
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, "header X-Ours yes")
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				w.Header().Set("Link", "</a>")
				w.WriteHeader(http.StatusEarlyHints)
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Set-Cookie", "a=b")
				w.Header().Set("Connection", "x")
				w.WriteHeader(299)
				if r.Method != http.MethodHead {
					io.WriteString(w, "as it is")
				}
				return nil
			})
			method, fields := r.Method, r.Header.Clone()
			c := s.send(r).answer()
			if c.w.status != 299 || c.field("Long-Poll") != "bypassed" || method != "HEAD" && c.w.body.String() != "as it is" {
				t.Errorf("got %v with Long-Poll %q", c, c.field("Long-Poll"))
			}
			c.wantsField("Cache-Control", "max-age=60").wantsField("Set-Cookie", "a=b").wantsField("Connection", "x").wantsField("X-Ours", "")
			if !slices.Equal(c.w.informed, []int{103}) {
				t.Errorf("got informational answers %v", c.w.informed)
			}
			if got := s.backend.last(); got.method != method || !equalFields(got.header, fields) {
				t.Errorf("the backend got %+v; want the request as it was", got)
			}
		}))
	}

	t.Run("it streams", virtual(func(t *testing.T) {
		s := newSite(t, "")
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			for range 10 {
				io.WriteString(w, "x")
				if err := http.NewResponseController(w).Flush(); err != nil {
					return err
				}
				time.Sleep(time.Minute)
			}
			return nil
		})
		c := s.get("/", "Accept: text/event-stream")
		c.wants("200 bypassed xxxxxxxxxx").within(10*time.Minute, 10*time.Minute)
	}))

	for name, test := range map[string]struct {
		says   caddyhttp.HandlerFunc
		status int
		body   string
		after  time.Duration // check_timeout at most
	}{
		"larger than max_body": {reply(200, strings.Repeat("x", 101)), 200, strings.Repeat("x", 101), 0},
		"said to be larger":    {reply(200, "x", "Content-Length: 101"), 200, "x", 0},
		"an event stream":      {reply(200, "data: 1\n\n", "Content-Type: text/event-stream"), 200, "data: 1\n\n", 0},
		"an Event-Stream":      {reply(200, "data: 1\n\n", "Content-Type: Text/Event-Stream; charset=utf-8"), 200, "data: 1\n\n", 0},
		"switching protocols":  {reply(101, "", "Upgrade: x"), 101, "", 0},
		"without an end": {func(w http.ResponseWriter, r *http.Request) error {
			for range 20 {
				io.WriteString(w, "x")
				select {
				case <-time.After(time.Second):
				case <-r.Context().Done():
					panic(http.ErrAbortHandler)
				}
			}
			return nil
		}, 200, strings.Repeat("x", 20), 5 * time.Second},
	} {
		t.Run("answer "+name, virtual(func(t *testing.T) {
			s := newSite(t, "max_body 100B\ncheck_timeout 5s\nlinger 10m")
			s.backend.say(test.says)
			c := s.get("/", has("1")).answer()
			if c.w.status != test.status || c.w.body.String() != test.body || c.field("Long-Poll") != "bypassed" {
				t.Errorf("got %v with Long-Poll %q", c, c.field("Long-Poll"))
			}
			if got := s.backend.last().header.Get("If-None-Match"); got != `"1"` {
				t.Errorf("the backend got If-None-Match %q; want the client's", got)
			}
			took := c.took - test.after
			// It is remembered for a while: no more checks in vain.
			before := s.backend.checks()
			for range 5 {
				s.get("/", has("1")).within(took, took).wantsField("Long-Poll", "bypassed")
			}
			if n := s.backend.checks() - before; n != 5 {
				t.Errorf("got %d requests to the backend for 5; want one each", n)
			}
			// But not for ever.
			settle(time.Hour)
			s.backend.say(tagged("1"))
			s.get("/", has("1"), "Wait: 1").wants("304 expired")
		}))
	}

	t.Run("answer of max_body exactly", virtual(func(t *testing.T) {
		s := newSite(t, "max_body 100B")
		s.backend.say(reply(200, strings.Repeat("x", 100)))
		s.get("/", waits(5)).wants("200 answered " + strings.Repeat("x", 100))
	}))

	t.Run("those who are parked when the answer grows", virtual(func(t *testing.T) {
		s := newSite(t, "max_body 100B")
		var all []*client
		for range 10 {
			all = append(all, s.get("/", has("1")))
		}
		settle(time.Second / 2)
		s.backend.say(reply(200, strings.Repeat("x", 1000)))
		at := make(map[time.Duration]bool)
		for _, c := range all {
			c.wants("200 bypassed "+strings.Repeat("x", 1000)).within(time.Second, 2100*time.Millisecond)
			at[c.took] = true
		}
		if len(at) < 5 {
			t.Errorf("got %d moments for %d clients; want the backend spared all of them at once", len(at), len(all))
		}
	}))
}

// equalFields reports whether two headers are equal, but for what we mark a request
// with.
func equalFields(a, b http.Header) bool {
	for name := range b {
		if !slices.Equal(a[name], b[name]) {
			return false
		}
	}
	return len(a) == len(b)
}

func TestWait(t *testing.T) {
	for name, test := range map[string]struct {
		block   string
		target  string
		fields  []string
		want    string
		after   time.Duration
		applied string
	}{
		"hold":                      {"", "/", nil, "304 expired", 25 * time.Second, ""},
		"Prefer":                    {"", "/", []string{"Prefer: wait=5"}, "304 expired", 5 * time.Second, "wait=5"},
		"Prefer more than hold":     {"", "/", []string{"Prefer: wait=500"}, "304 expired", 25 * time.Second, "wait=500"},
		"Prefer quoted":             {"", "/", []string{`Prefer: wait="5"`}, "304 expired", 5 * time.Second, "wait=5"},
		"Prefer spaced":             {"", "/", []string{"Prefer: wait = 5"}, "304 expired", 5 * time.Second, "wait=5"},
		"Prefer WAIT":               {"", "/", []string{"Prefer: WAIT=5"}, "304 expired", 5 * time.Second, "wait=5"},
		"Prefer among others":       {"", "/", []string{"Prefer: respond-async, wait=5, handling=lenient"}, "304 expired", 5 * time.Second, "wait=5"},
		"Prefer in a second line":   {"", "/", []string{"Prefer: respond-async", "Prefer: wait=5"}, "304 expired", 5 * time.Second, "wait=5"},
		"Prefer with parameters":    {"", "/", []string{"Prefer: wait=5;index=7"}, "304 expired", 5 * time.Second, "wait=5"},
		"of another preference":     {"", "/", []string{"Prefer: modes=snapshot,delta;wait=5"}, "304 expired", 5 * time.Second, "wait=5"},
		"quoted, of another":        {"", "/", []string{`Prefer: modes="snapshot,delta"; wait="5"`}, "304 expired", 5 * time.Second, "wait=5"},
		"its own before that":       {"", "/", []string{"Prefer: modes=delta;wait=7, wait=5"}, "304 expired", 5 * time.Second, "wait=5"},
		"that of another malformed": {"", "/", []string{"Prefer: modes=delta;wait=soon"}, "304 expired", 25 * time.Second, ""},
		"the first Prefer counts":   {"", "/", []string{"Prefer: wait=5, wait=7"}, "304 expired", 5 * time.Second, "wait=5"},
		"Prefer inside of quotes":   {"", "/", []string{`Prefer: a="b, wait=1", wait=5`}, "304 expired", 5 * time.Second, "wait=5"},
		"Prefer before Wait":        {"", "/", []string{"Prefer: wait=5", "Wait: 3"}, "304 expired", 5 * time.Second, "wait=5"},
		"Prefer 0":                  {"", "/", []string{"Prefer: wait=0"}, "304 answered", 0, "wait=0"},
		"Prefer malformed":          {"", "/", []string{"Prefer: wait=soon"}, "304 expired", 25 * time.Second, ""},
		"Prefer negative":           {"", "/", []string{"Prefer: wait=-1"}, "304 expired", 25 * time.Second, ""},
		"Prefer without value":      {"", "/", []string{"Prefer: wait"}, "304 expired", 25 * time.Second, ""},
		"Prefer of another":         {"", "/", []string{"Prefer: await=5"}, "304 expired", 25 * time.Second, ""},
		"malformed, then Wait":      {"", "/", []string{"Prefer: wait=soon", "Wait: 3"}, "304 expired", 3 * time.Second, ""},
		"Wait":                      {"", "/", []string{"Wait: 3"}, "304 expired", 3 * time.Second, ""},
		"Wait with unit":            {"", "/", []string{"Wait: 1500ms"}, "304 expired", 1500 * time.Millisecond, ""},
		"Wait malformed":            {"", "/", []string{"Wait: a while"}, "304 expired", 25 * time.Second, ""},
		"Wait negative":             {"", "/", []string{"Wait: -3"}, "304 expired", 25 * time.Second, ""},
		"Wait 0":                    {"", "/", []string{"Wait: 0"}, "304 answered", 0, ""},
		"Wait endless":              {"", "/", []string{"Wait: 99999999999999999999"}, "304 expired", 25 * time.Second, ""},
		"Wait infinite":             {"", "/", []string{"Wait: inf"}, "304 expired", 25 * time.Second, ""},
		"value":                     {"wait {query.wait}", "/?wait=4", nil, "304 expired", 4 * time.Second, ""},
		"value with unit":           {"wait {query.wait}", "/?wait=4s", nil, "304 expired", 4 * time.Second, ""},
		"value in minutes":          {"wait {query.wait}", "/?wait=5m", nil, "304 expired", 25 * time.Second, ""},
		"value in ms":               {"wait {query.wait} ms", "/?wait=4500", nil, "304 expired", 4500 * time.Millisecond, ""},
		"value in ms with unit":     {"wait {query.wait} ms", "/?wait=4s", nil, "304 expired", 4 * time.Second, ""},
		"value missing":             {"wait {query.wait}", "/", nil, "304 expired", 25 * time.Second, ""},
		"value 0":                   {"wait {query.wait}", "/?wait=0", nil, "304 answered", 0, ""},
		"value replaces Prefer":     {"wait {query.wait}", "/?wait=4", []string{"Prefer: wait=1", "Wait: 1"}, "304 expired", 4 * time.Second, ""},
		"value malformed":           {"wait {query.wait}", "/?wait=soon", nil, "400 answered", 0, ""},
		"value negative":            {"wait {query.wait}", "/?wait=-1", nil, "400 answered", 0, ""},
		"value negative unit":       {"wait {query.wait}", "/?wait=-1s", nil, "400 answered", 0, ""},
		"value NaN":                 {"wait {query.wait}", "/?wait=NaN", nil, "400 answered", 0, ""},
		"value hexadecimal":         {"wait {query.wait}", "/?wait=0x10", nil, "400 answered", 0, ""},
		"value of the body":         {"wait {lp.request.json.timeout}", "/", nil, "304 expired", 25 * time.Second, ""},
		"replay instead of 304":     {"on_timeout replay", "/", []string{"Wait: 0"}, "200 answered state 1", 0, ""},
		"interval is longer":        {"interval 1m", "/", []string{"Wait: 0"}, "304 answered", 0, ""},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+test.block)
			c := s.get(test.target, append(test.fields, has("1"))...).wants(test.want).within(test.after, test.after)
			c.wantsField("Preference-Applied", test.applied)
			if c.w.status == 400 {
				if text := c.w.body.String(); !strings.Contains(text, "wait") || !strings.Contains(text, "number") || !strings.Contains(text, "duration") {
					t.Errorf("got %q; want a sentence that says what is accepted", text)
				}
				c.wantsField("Content-Type", "text/plain; charset=utf-8")
			}
		}))
	}

	t.Run("jitter", virtual(func(t *testing.T) {
		for block, want := range map[string][2]time.Duration{
			"hold 60s":      {54 * time.Second, 60 * time.Second},
			"hold 60s 50%":  {30 * time.Second, 60 * time.Second},
			"hold 60s 0%":   {60 * time.Second, 60 * time.Second},
			"hold 60s 100%": {0, 60 * time.Second},
		} {
			s := newSite(t, block)
			shortest, longest := time.Hour, time.Duration(0)
			var all []*client
			for range 300 {
				all = append(all, s.get("/", has("1")))
			}
			for _, c := range all {
				c.wants("304 expired").within(want[0], want[1])
				shortest, longest = min(shortest, c.took), max(longest, c.took)
			}
			if width := want[1] - want[0]; longest-shortest < width*8/10 {
				t.Errorf("%s: got answers from %v to %v; want them spread over %v", block, shortest, longest, width)
			}
			// A client's own wish is jittered too, and never lengthened.
			s.get("/", has("1"), "Wait: 10").wants("304 expired").within(want[0]/6, 10*time.Second)
		}
	}))

	t.Run("jitter is the default", virtual(func(t *testing.T) {
		s := newSite(t, "")
		s.get("/", has("1")).wants("304 expired").within(22500*time.Millisecond, 25*time.Second-1)
	}))
}

func TestOnChange(t *testing.T) {
	for name, test := range map[string]struct {
		says caddyhttp.HandlerFunc
		want string
		body string
	}{
		"200":        {reply(200, "new"), "200 changed", "new"},
		"201":        {reply(201, "new"), "201 changed", "new"},
		"204":        {reply(204, ""), "204 changed", ""},
		"301":        {reply(301, "", "Location: /b"), "301 changed", ""},
		"404":        {reply(404, "gone"), "404 changed", "gone"},
		"410":        {reply(410, "gone"), "410 changed", "gone"},
		"empty body": {reply(200, ""), "200 changed", ""},
		"binary":     {reply(200, "\x00\xff\r\n"), "200 changed", "\x00\xff\r\n"},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			c := s.get("/", has("1"))
			c.mustWait()
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				w.Header().Add("X-Two", "1")
				w.Header().Add("X-Two", "2")
				w.Header().Set("Content-Type", "text/x")
				return test.says(w, r)
			})
			c.wants(test.want+" "+test.body).wantsField("X-Two", "1 | 2").wantsField("Content-Type", "text/x")
			if httphdr.HasBody(c.w.status) {
				c.wantsField("Content-Length", fmt.Sprint(len(test.body)))
			} else {
				c.wantsField("Content-Length", "")
			}
			if c.w.status == 301 {
				c.wantsField("Location", "/b")
			}
		}))
	}

	t.Run("each client has its own copy", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1h")
		s.backend.say(tagged("1", "X-A: 1"))
		// Handlers around us change values in place.
		s.get("/").answer().w.header["X-A"][0] = "spoiled"
		s.get("/").wants("200 answered state 1").wantsField("X-A", "1")
		c := s.get("/", has("1"), "Wait: 1").answer()
		c.w.header["Etag"][0] = "spoiled"
		s.get("/").wants("200 answered state 1").wantsField("ETag", `"1"`)
	}))

	t.Run("what is set on the way to us", virtual(func(t *testing.T) {
		// A request's own id stays its own; what handlers behind us replace or take
		// away, they do for all.
		s := newSite(t, steady+"freshness 1h\nstrip_query 1 2")
		s.before = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Request-Id", r.URL.RawQuery)
			w.Header().Set("Server", "Caddy")
			w.Header().Set("X-Mode", "before")
		}
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Del("Server")
			w.Header().Set("X-Mode", "behind")
			return tagged("1")(w, r)
		})
		for _, id := range []string{"1", "2"} {
			s.get("/?"+id).wantsField("X-Request-Id", id).wantsField("Server", "").wantsField("X-Mode", "behind")
			s.get("/?"+id, has("1"), "Wait: 1").wants("304 expired").wantsField("X-Request-Id", id)
		}
	}))

	t.Run("HEAD", virtual(func(t *testing.T) {
		s := newSite(t, steady+"methods GET HEAD")
		c := s.send(newRequest(http.MethodHead, "/", "", has("1")))
		c.mustWait()
		s.backend.say(tagged("2"))
		c.wants("200 changed ").wantsField("ETag", `"2"`).wantsField("Content-Length", "")
		s.backend.say(tagged("3", "Content-Length: 7"))
		s.send(newRequest(http.MethodHead, "/", "", has("2"))).wants("200 changed ").wantsField("Content-Length", "7")
		s.send(newRequest(http.MethodHead, "/", "", has("3"), waits(5))).wants("304 expired").wantsField("Content-Length", "")
	}))

	// What there is no tag of, and no body to make one of, would seem never to change.
	for name, block := range map[string]string{"HEAD without a tag": "", "HEAD whose tag is no use": "ignore at", "HEAD whose version is in a body": "version {lp.json.a}"} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"methods GET HEAD\n"+block)
			fields := []string{"Content-Type: application/json"}
			if block == "ignore at" {
				fields = append(fields, `ETag: "1"`)
			}
			s.backend.say(reply(200, `{"a":1}`, fields...))
			tag := s.get("/").field("ETag")
			for _, tag := range []string{tag, `W/"other"`} {
				c := s.send(newRequest(http.MethodHead, "/", "", "If-None-Match: "+tag, waits(9))).wants("200 bypassed ").within(0, 0)
				if tag := c.field("ETag"); tag != "" {
					s.send(newRequest(http.MethodHead, "/", "", "If-None-Match: "+tag, waits(9))).wants("200 bypassed ").within(0, 0)
				}
			}
			s.get("/", "If-None-Match: "+tag, waits(9)).wants("304 expired").within(9*time.Second, 9*time.Second)
		}))
	}
}

func TestOnTimeout(t *testing.T) {
	const since = "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT"
	for name, test := range map[string]struct {
		block  string
		target string
		field  string
		want   string
	}{
		"If-None-Match":                 {"", "/", has("1"), "304 expired "},
		"If-Modified-Since":             {"", "/", since, "304 expired "},
		"since":                         {"since {query.v}", "/?v=1", "", "200 expired state 1"},
		"since, and a conditional":      {"since {query.v}", "/?v=1", has("1"), "200 expired state 1"},
		"replay":                        {"on_timeout replay", "/", has("1"), "200 expired state 1"},
		"a status":                      {"on_timeout 204", "/", has("1"), "204 expired "},
		"a status for since":            {"since {query.v}\non_timeout 304", "/?v=1", "", "304 expired "},
		"a status and text":             {"on_timeout 202 `come again`", "/", has("1"), "202 expired come again"},
		"placeholders":                  {"on_timeout 200 `{lp.status} {lp.version}`", "/", has("1"), "200 expired 200 \"1\""},
		"no change held by hold_while":  {"hold_while {lp.status} is 200", "/", has("0"), "200 expired state 1"},
		"both":                          {"hold_while {lp.status} is 200", "/", has("1"), "304 expired "},
		"unversioned":                   {"unversioned park", "/", "", "200 expired state 1"},
		"on_change is not for timeouts": {"on_change 200 changed", "/", has("1"), "304 expired "},
		"on_change is not for replays":  {"on_change 200 changed\nsince {query.v}", "/?v=1", "", "200 expired state 1"},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+test.block)
			s.backend.say(tagged("1", "Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT"))
			s.get(test.target, test.field).wants(test.want).within(25*time.Second, 25*time.Second)
		}))
	}

	t.Run("304 has what a cache needs", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("1", "Cache-Control: private", "Content-Location: /x", "Expires: 0", "Vary: Accept",
			"Content-Type: text/x", "Content-Encoding: x", "Content-Language: en", "Set-Cookie: a=b"))
		c := s.get("/", has("1")).wants("304 expired ")
		for name, want := range map[string]string{
			"ETag": `"1"`, "Content-Location": "/x", "Expires": "0", "Vary": "Accept",
			"Content-Type": "", "Content-Encoding": "", "Content-Language": "", "Content-Length": "", "Set-Cookie": "",
		} {
			c.wantsField(name, want)
		}
		if cc := c.field("Cache-Control"); !strings.Contains(cc, "private") || !strings.Contains(cc, "no-cache") {
			t.Errorf("got Cache-Control %q", cc)
		}
	}))

	t.Run("the latest answer, not the first", virtual(func(t *testing.T) {
		s := newSite(t, steady+"ignore now\nsince {query.v} unset 0\nhold_while {lp.json.id} is 1")
		var n atomic.Int32
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			return reply(200, fmt.Sprintf(`{"id":1,"now":%d}`, n.Add(1)))(w, r)
		})
		c := s.get("/?v=0").answer()
		if got := n.Load(); got < 20 {
			t.Fatalf("got %d checks", got)
		}
		c.wants(fmt.Sprintf(`200 expired {"id":1,"now":%d}`, n.Load()))
	}))
}

func TestErrorsAreHandedOn(t *testing.T) {
	// handle_errors and the access log see what they would see without us.
	t.Run("a handler's error", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(unreachable)
		for _, c := range []*client{s.get("/", waits(5)).wants("502 failed "), s.get("/").wants("502 answered ")} {
			if c.err == nil || !strings.Contains(c.err.Error(), "connection refused") {
				t.Errorf("got error %v; want the backend's", c.err)
			}
		}
	}))
	t.Run("an error that is an answer", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(func(http.ResponseWriter, *http.Request) error {
			return caddyhttp.Error(http.StatusNotFound, fmt.Errorf("no such file"))
		})
		c := s.get("/", has("1")).wants("404 answered ")
		if c.err == nil {
			t.Error("got no error; want the backend's")
		}
	}))
	t.Run("a bound", virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_parked 1")
		s.get("/", has("1")).mustWait()
		c := s.get("/", has("1")).wants("503 refused ")
		if c.err == nil {
			t.Error("got no error")
		}
	}))
}

func TestCacheControl(t *testing.T) {
	for backend, want := range map[string]string{
		"":                          "no-cache",
		"max-age=60":                "no-cache",
		"public, max-age=60":        "no-cache",
		"max-age=0":                 "no-cache",
		"s-maxage=60":               "no-cache",
		"no-cache":                  "no-cache",
		"no-store":                  "no-store",
		"No-Store":                  "No-Store",
		"no-store, max-age=0":       "no-store, max-age=0",
		"private":                   "private no-cache",
		"private, max-age=60":       "private no-cache",
		"private, no-cache":         "private no-cache",
		`no-cache="Set-Cookie"`:     "no-cache",
		"must-revalidate":           "no-cache",
		"immutable":                 "no-cache",
		"stale-while-revalidate=60": "no-cache",
	} {
		t.Run(backend, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			fields := []string{"Cache-Control: " + backend}
			if backend == "" {
				fields = nil
			}
			s.backend.say(tagged("1", fields...))
			for _, c := range []*client{s.get("/", waits(5)), s.get("/", has("1"), "Wait: 1")} {
				got := strings.Join(strings.Fields(strings.ReplaceAll(c.field("Cache-Control"), ",", " ")), " ")
				if want := strings.ReplaceAll(want, ",", ""); got != want {
					t.Errorf("%v: got Cache-Control %q; want %q", c, c.field("Cache-Control"), want)
				}
			}
		}))
	}

	t.Run("Expires alone", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("1", "Expires: Thu, 01 Jan 2099 00:00:00 GMT"))
		s.get("/", waits(5)).wantsField("Cache-Control", "no-cache")
	}))

	t.Run("on_change and on_timeout", virtual(func(t *testing.T) {
		s := newSite(t, steady+"on_change 200 yes\non_timeout 200 no")
		s.get("/", has("1"), "Wait: 1").wants("200 expired no").wantsField("Cache-Control", "no-cache")
		s.get("/", has("0")).wants("200 answered yes").wantsField("Cache-Control", "no-cache")
	}))
}

func TestHopByHop(t *testing.T) {
	fields := []string{
		"Connection: X-Hop, keep-alive", "Connection: X-Hop2", "X-Hop: 1", "X-Hop2: 1", "Keep-Alive: timeout=5", "Proxy-Connection: x",
		"Transfer-Encoding: chunked", "Te: x", "Trailer: X", "Upgrade: h2c", "Date: Thu, 01 Jan 1970 00:00:00 GMT",
	}
	for name, asks := range map[string][]string{"answer": {waits(5)}, "304": {has("1"), waits(1)}} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(tagged("1", fields...))
			c := s.get("/", asks...)
			for _, field := range fields {
				name, _, _ := strings.Cut(field, ":")
				c.wantsField(name, "")
			}
		}))
	}
}

func TestHeader(t *testing.T) {
	const block = steady + `
		header X-Index {lp.json.index}
		header X-Outcome {lp.outcome}
		header Content-Type text/ours
		header X-Two 1
		header X-Two 2
		header X-Client {query.q}
		on_error release
		max_parked 1
		`
	body := reply(200, `{"index":7}`, `ETag: "1"`, "X-Two: 0", "Content-Type: application/json")
	check := func(c *client) {
		c.wantsField("X-Index", "7").wantsField("X-Two", "1 | 2").wantsField("X-Outcome", c.outcome()).wantsField("Content-Type", "text/ours")
	}
	for name, test := range map[string]struct {
		block, want string
		fields      []string
	}{
		"ordinary":   {"", "200 answered", nil},
		"answered":   {"", "200 answered", []string{waits(5)}},
		"304":        {"", "304 expired", []string{has("1"), "Wait: 1"}},
		"at once":    {"", "304 answered", []string{has("1"), "Wait: 0"}},
		"on_change":  {"on_change 200 x", "200 answered", []string{has("0")}},
		"on_timeout": {"on_timeout 200 x", "200 expired", []string{has("1"), "Wait: 1"}},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, block+test.block)
			s.backend.say(body)
			check(s.get("/", test.fields...).wants(test.want))
		}))
	}

	t.Run("changed, drained and refused", virtual(func(t *testing.T) {
		s := newSite(t, block)
		s.backend.say(reply(200, `{"index":6}`, `ETag: "0"`))
		parked := s.get("/", has("0"))
		parked.mustWait()
		s.get("/", has("0")).wants("503 refused").wantsField("X-Outcome", "refused").wantsField("X-Two", "1 | 2")
		s.backend.say(body)
		check(parked.wants("200 changed"))
		parked = s.get("/", has("1"))
		parked.mustWait()
		s.drain()
		check(parked.wants("304 drained"))
	}))

	t.Run("failed", virtual(func(t *testing.T) {
		s := newSite(t, block)
		s.backend.say(unreachable)
		s.get("/", waits(5)).wants("502 failed").wantsField("X-Outcome", "failed").wantsField("X-Two", "1 | 2")
		s.get("/").wants("502 answered").wantsField("X-Outcome", "answered").wantsField("X-Two", "1 | 2")
	}))

	t.Run("values that are no field values", virtual(func(t *testing.T) {
		s := newSite(t, block)
		s.backend.say(body)
		got := s.get("/?q=" + "a%0d%0aSet-Cookie:%20x").field("X-Client")
		if strings.ContainsAny(got, "\r\n\x00") {
			t.Errorf("got X-Client %q", got)
		}
	}))
}

func TestLongPollField(t *testing.T) {
	t.Run("changed", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 1h")
		c := s.get("/", has("1"))
		settle(12345 * time.Millisecond)
		s.backend.say(tagged("2"))
		s.wake("/")
		c.wantsField("Long-Poll", "changed;held=12.345")
	}))
	form := regexp.MustCompile(`^[a-z]+;held=[0-9]+\.[0-9]{3}$`)
	t.Run("the backend's own is replaced", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("1", "Long-Poll: nonsense"))
		for _, c := range []*client{s.get("/"), s.get("/", waits(5))} {
			if got := c.field("Long-Poll"); !form.MatchString(got) {
				t.Errorf("got %q", got)
			}
		}
	}))
	t.Run("placeholders for logs", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		log := func(c *client) string {
			<-c.done
			repl := c.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			return repl.ReplaceAll("{lp.outcome} {http.long_poll.outcome} {lp.held} {http.long_poll.held}", "?")
		}
		for want, c := range map[string]*client{
			"expired expired 2.000 2.000":     s.get("/", has("1"), "Wait: 2"),
			"answered answered 0.000 0.000":   s.get("/"),
			"bypassed bypassed 0.000 0.000":   s.get("/", "Range: bytes=0-"),
			"answered answered 0.000  0.000 ": nil,
		} {
			if c == nil {
				continue
			}
			if got := log(c); got != want {
				t.Errorf("got %q; want %q", got, want)
			}
		}
		gone := s.get("/", has("1"))
		settle(3 * time.Second)
		gone.leave()
		if got := log(gone); got != "left left 3.000 3.000" {
			t.Errorf("got %q; want left", got)
		}
	}))
}

func TestReplyBodies(t *testing.T) {
	nasty := "a\"b\\c\n</script>{lp.status}\u2028\x00"
	state, _ := json.Marshal(map[string]any{"text": nasty, "n": 7, "list": []int{1, 2}, "obj": map[string]any{"a": "b"}, "nil": nil})
	s := func(t *testing.T, block string) *site {
		s := newSite(t, steady+block)
		s.backend.say(reply(200, string(state), `ETag: "1"`))
		return s
	}
	for name, test := range map[string]struct {
		body, want, kind string
	}{
		"JSON":              {`{"a":"{lp.json.text}","n":{lp.json.n},"s":{lp.json.text}}`, "", "application/json"},
		"JSON text":         {`"{lp.json.n}"`, `"7"`, "application/json"},
		"JSON literal":      {`{"a":{"b":[{}, {"c":true}]}}`, `{"a":{"b":[{}, {"c":true}]}}`, "application/json"},
		"JSON structures":   {`{"l":{lp.json.list},"o":{lp.json.obj}}`, `{"l":[1,2],"o":{"a":"b"}}`, "application/json"},
		"JSON missing":      {`{"a":{lp.json.none},"b":"{lp.json.none}"}`, `{"a":"","b":""}`, "application/json"},
		"text":              {`n is {lp.json.n}, {not one} {} { lp.json.n }`, `n is 7, {not one} {} { lp.json.n }`, "text/plain; charset=utf-8"},
		"text is no JSON":   {`{lp.json.n} and "{lp.json.text}"`, `7 and "` + nasty + `"`, "text/plain; charset=utf-8"},
		"almost JSON":       {`{"a":1{lp.json.n}}`, `{"a":17}`, "text/plain; charset=utf-8"},
		"request":           {`{"q":"{query.q}","m":"{method}"}`, `{"q":"x\"y","m":"GET"}`, "application/json"},
		"escape before one": {`{"a":"\"{lp.json.n}"}`, `{"a":"\"7"}`, "application/json"},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := s(t, "on_change 200 `"+test.body+"`")
			c := s.get(`/?q=x"y`, has("0")).wants("200 answered").wantsField("Content-Type", test.kind)
			got := c.w.body.String()
			if test.want != "" && got != test.want {
				t.Errorf("got %s; want %s", got, test.want)
			}
			if test.want != "" {
				return
			}
			var v map[string]any
			if err := json.Unmarshal([]byte(got), &v); err != nil {
				t.Fatalf("got %s: %v", got, err)
			}
			if v["a"] != nasty || v["s"] != nasty || v["n"] != 7.0 {
				t.Errorf("got %q", v)
			}
		}))
	}

	t.Run("no body", virtual(func(t *testing.T) {
		s := s(t, "on_change 202")
		s.get("/", has("0")).wants("202 answered ").wantsField("Content-Type", "").wantsField("Content-Length", "0")
	}))
	t.Run("who asks for all gets it", virtual(func(t *testing.T) {
		s := s(t, "on_change 200 changed")
		s.get("/").wants("200 answered " + string(state))
	}))
	t.Run("what is no answer is handed on", virtual(func(t *testing.T) {
		s := s(t, "on_change 200 changed")
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(reply(http.StatusUnauthorized, "who are you?"))
		c.wants("401 changed who are you?")
	}))
	t.Run("each client its own", virtual(func(t *testing.T) {
		s := s(t, "on_change 200 `{query.q}:{lp.version}`\nstrip_query q")
		a, b := s.get("/?q=a", has("1")), s.get("/?q=b", has("1"))
		a.mustWait()
		b.mustWait()
		s.backend.say(tagged("2"))
		a.wants(`200 changed a:"2"`)
		b.wants(`200 changed b:"2"`)
		if n := s.backend.checks(); n != 2 {
			t.Errorf("got %d checks; want 2", n)
		}
	}))
}

// A cookie that is set in front of us is the client's own.
func TestCookieFromInFront(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "")
		n := 0
		s.before = func(w http.ResponseWriter, r *http.Request) {
			n++
			w.Header().Add("Set-Cookie", "front="+strconv.Itoa(n))
		}
		s.backend.say(tagged("1", "Set-Cookie: behind=1"))
		s.get("/").wants("200 answered state 1").wantsField("Set-Cookie", "front=1 | behind=1")
		s.get("/", waits(5)).wants("200 answered state 1").wantsField("Set-Cookie", "front=2")
		s.get("/", has("1"), waits(5)).wants("304 expired").wantsField("Set-Cookie", "front=3")
	})(t)
}

// An answer that is a stream and too large as well is passed through, and nothing
// panics over it.
func TestStreamThatIsTooLarge(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "max_body 10")
		s.backend.say(reply(200, "data: 1", "Content-Type: text/event-stream", "Content-Length: 5000"))
		s.get("/", waits(5)).wants("200 bypassed data: 1")
		if n := s.logs.FilterLevelExact(zapcore.ErrorLevel).Len(); n != 0 {
			t.Errorf("got %d errors logged", n)
		}
	})(t)
}

// An answer that ends before its Content-Length is none, whoever swallows the error.
func TestShortAnswer(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "methods GET HEAD")
		s.backend.say(reply(200, "half", "Content-Length: 8", `ETag: "1"`))
		s.get("/", waits(5)).wants("502 failed")
		s.send(newRequest("HEAD", "/", "", waits(5))).wants("200 answered")
	})(t)
}
