package contract_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Contract 3.8: a request that names no version and says nothing of waiting costs
// nothing.

// piece is a part of a body, and how long it takes until it is said.
type piece struct {
	after time.Duration
	text  string // empty is a flush
}

// inPieces says what it has one after the other, and notices, like reverse_proxy, that
// nobody listens any more.
func inPieces(status int, fields []string, pieces ...piece) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ":")
			w.Header().Add(name, strings.TrimSpace(value))
		}
		w.WriteHeader(status)
		for _, p := range pieces {
			select {
			case <-time.After(p.after):
			case <-r.Context().Done():
				panic(http.ErrAbortHandler)
			}
			if p.text == "" {
				http.NewResponseController(w).Flush()
				continue
			}
			if _, err := io.WriteString(w, p.text); err != nil {
				return err
			}
		}
		return nil
	}
}

// arrived is what the client has got so far, in the words of wants but without the outcome.
func (c *client) arrived() string {
	synctest.Wait()
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return strings.TrimSpace(fmt.Sprint(c.w.status, " ", c.w.body.String()))
}

func TestOrdinaryRequest(t *testing.T) {
	t.Run("is as its client has sent it", virtual(func(t *testing.T) {
		s := newSite(t, steady+"methods GET POST HEAD\nmax_body 3")
		fields := []string{
			"User-Agent: test/1.0", "Cookie: sid=0123456789abcdef", "Authorization: Basic x", "X-Forwarded-For: 198.51.100.7", "Accept-Encoding: br",
			"Referer: /a", "Traceparent: 00-1-2-01", "Cache-Control: no-cache", "Prefer: respond-async", "TE: trailers", "X-Other: 1",
		}
		for _, method := range []string{"GET", "POST", "HEAD"} {
			before := s.backend.checks()
			r := newRequest(method, "http://a.example/x%2Fy?q=1&q=2", "a body that is larger than max_body", fields...)
			want := r.Header.Clone()
			s.send(r).wants("200 answered")
			got := s.backend.last()
			if got.method != method || got.host != "a.example" || got.uri != "/x%2Fy?q=1&q=2" || !equalFields(got.header, want) || got.body != "a body that is larger than max_body" {
				t.Errorf("the backend got %+v", got)
			}
			if n := s.backend.checks() - before; n != 1 {
				t.Errorf("got %d requests to the backend; want exactly one", n)
			}
		}
		s.wantsUntouched(3)
	}))

	t.Run("is not shared", virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_checks 1\nmax_parked 1\nmax_resources 1\nmax_parked_per_client 1")
		s.backend.say(slowly(3*time.Second, tagged("1")))
		var all []*client
		for range 100 {
			all = append(all, s.get("/"))
		}
		synctest.Wait()
		if now, _ := s.backend.inFlight(); now != 100 {
			t.Errorf("got %d requests at the backend; want all 100 at once", now)
		}
		for _, c := range all {
			c.wants("200 answered state 1").within(3*time.Second, 3*time.Second)
		}
		s.wantsUntouched(100)
	}))

	t.Run("is not cut by check_timeout", virtual(func(t *testing.T) {
		s := newSite(t, "hold 2s 0%\ncheck_timeout 1s")
		s.backend.say(slowly(5*time.Minute, reply(200, "at last")))
		s.get("/").wants("200 answered at last").within(5*time.Minute, 5*time.Minute)
		s.wantsUntouched(1)
	}))

	t.Run("is not counted by max_checks", virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_checks 1")
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			if r.URL.Path == "/slow" {
				return slowly(time.Minute, tagged("1"))(w, r)
			}
			return tagged("1")(w, r)
		})
		slow := []*client{s.get("/slow"), s.get("/slow"), s.get("/slow", waits(5))}
		synctest.Wait()
		s.get("/").wants("200 answered state 1").within(0, 0) // the only place is taken
		slow[2].leave()
		synctest.Wait()
		s.get("/", waits(5)).wants("200 answered state 1").within(0, 0)
		slow[0].wants("200 answered state 1").within(time.Minute, time.Minute)
	}))

	t.Run("asks for itself in an outage", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(unreachable)
		s.get("/", waits(5)).wants("502 failed")
		before := s.backend.checks()
		for range 10 {
			s.get("/").wants("502 answered").within(0, 0).wantsField("Retry-After", "")
		}
		if n := s.backend.checks() - before; n != 10 {
			t.Errorf("got %d requests to the backend; want 10", n)
		}
		s.backend.say(tagged("1"))
		s.get("/").wants("200 answered state 1").within(0, 0)
	}))

	t.Run("is answered after a drain", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.drain()
		s.get("/").wants("200 answered state 1").wantsField("Connection", "close")
	}))

	t.Run("has strip_query applied", virtual(func(t *testing.T) {
		s := newSite(t, steady+"strip_query index wait")
		s.get("/x%2F?index=7&a=1&wait=5s&a=2").wants("200 answered")
		if got := s.backend.last().uri; got != "/x%2F?a=1&a=2" {
			t.Errorf("the backend got %s", got)
		}
		s.get("/?index=7").wants("200 answered")
		if got := s.backend.last().uri; got != "/" {
			t.Errorf("the backend got %s", got)
		}
		s.get("/", browser, has("1")).wants("304 answered")
		s.get("/?index=7", "Range: bytes=0-9").wants("200 bypassed")
		if got := s.backend.last().uri; got != "/?index=7" {
			t.Errorf("the backend got %s; want what is passed through as it was", got)
		}
	}))

	for _, status := range []int{200, 201, 204, 206, 301, 304, 400, 401, 404, 429, 500, 503} {
		t.Run(fmt.Sprint("is answered with ", status), virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(reply(status, "", "Retry-After: 7", "Cache-Control: max-age=9", "WWW-Authenticate: x", "Location: /b"))
			s.get("/").wants(fmt.Sprint(status, " answered ")).wantsField("Long-Poll", "answered;held=0.000").
				wantsField("Retry-After", "7").wantsField("Cache-Control", "max-age=9").wantsField("WWW-Authenticate", "x").wantsField("Location", "/b")
			s.wantsUntouched(1)
		}))
	}

	t.Run("ends as its handlers do", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Allow", "GET")
			return caddyhttp.Error(http.StatusMethodNotAllowed, fmt.Errorf("not so"))
		})
		if c := s.get("/").wants("405 answered ").wantsField("Allow", "GET"); c.err == nil {
			t.Error("got no error; want that of the handler")
		}
		s.backend.say(silent)
		if c := s.get("/").wants("200 answered "); c.err != nil {
			t.Errorf("got error %v", c.err)
		}
	}))

	t.Run("whose body had to be read sends it on", virtual(func(t *testing.T) {
		s := newSite(t, steady+"methods POST\nwait {lp.request.json.timeout}\nsince {lp.request.json.since}\nmax_parked 1\nmax_body 30")
		for _, body := range []string{`{"limit":7}`, `{"timeout":"","since":""}`, "no JSON", strings.Repeat("x", 100)} {
			c := s.post("/", body, "Content-Type: application/json").answer()
			if got := s.backend.last(); c.w.status != 200 || got.body != body || got.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: got %v; the backend got %q", body, c, got.body)
			}
		}
		s.wantsUntouched(4)
		// The place that was kept for each of them is free again.
		s.post("/", `{"timeout":5,"since":"\"1\""}`).wants("200 expired").within(5*time.Second, 5*time.Second)
	}))

	t.Run("that freshness concerns is shared", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1m")
		for range 10 {
			s.get("/").wants("200 answered state 1")
		}
		if n := s.backend.checks(); n != 1 {
			t.Errorf("got %d requests to the backend; want 1", n)
		}
	}))

	t.Run("is untouched by what polls know", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 1h")
		poll := s.get("/", has("1"))
		settle(time.Second)
		s.backend.say(tagged("2"))
		s.get("/").wants("200 answered state 2")
		settle(time.Second)
		poll.mustWait() // what it has seen is nobody else's
		poll.wants("304 expired")
	}))
}

// What is said in passing reaches the client: informational answers, cookies, trailers.
func TestOrdinaryExchangeInPassing(t *testing.T) {
	for name, fields := range map[string][]string{"with a tag": {`ETag: "1"`}, "that gets a tag": nil} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				w.Header().Set("Link", "</a>")
				w.WriteHeader(http.StatusEarlyHints)
				time.Sleep(100 * time.Millisecond)
				w.WriteHeader(http.StatusProcessing)
				w.Header().Add("Set-Cookie", "a=1")
				w.Header().Add("Set-Cookie", "b=2")
				w.Header().Set("Trailer", "X-Sum")
				err := reply(200, "text", fields...)(w, r)
				time.Sleep(100 * time.Millisecond)
				w.Header().Set("X-Sum", "7")
				w.Header().Set(http.TrailerPrefix+"X-Late", "8")
				return err
			})
			c := s.get("/")
			settle(0)
			c.w.mu.Lock()
			informed := slices.Clone(c.w.informed)
			c.w.mu.Unlock()
			if !slices.Equal(informed, []int{103}) {
				t.Errorf("got informational answers %v before the backend has said more", informed)
			}
			c.wants("200 answered text").wantsField("Set-Cookie", "a=1 | b=2").wantsField("X-Sum", "").within(200*time.Millisecond, 200*time.Millisecond)
			if !slices.Equal(c.w.informed, []int{103, 102}) {
				t.Errorf("got informational answers %v", c.w.informed)
			}
			if c.w.header.Get("X-Sum") != "7" || c.w.header.Get(http.TrailerPrefix+"X-Late") != "8" {
				t.Errorf("got trailers %v", c.w.header)
			}
		}))
	}

	for name, test := range map[string]struct {
		block  string
		fields []string
	}{
		"that has a tag":      {"", []string{`ETag: "1"`}},
		"of events":           {"", []string{"Content-Type: text/event-stream"}},
		"of events, ignored":  {"ignore at\nheader X-At {lp.json.at}", []string{"Content-Type: Text/Event-Stream; charset=utf-8", `ETag: "1"`}},
		"of lines of JSON":    {"", []string{"Content-Type: application/x-ndjson"}},
		"of parts":            {"", []string{"Content-Type: multipart/x-mixed-replace; boundary=x"}},
		"of gRPC":             {"", []string{"Content-Type: application/grpc+proto"}},
		"that nobody keeps":   {"", []string{"X-Accel-Buffering: no"}},
		"that is incremental": {"", []string{"Incremental: ?1"}},
		"that is too long":    {"", []string{"Content-Length: 1048577"}},
		"of a coding":         {"", []string{"Content-Encoding: br"}},
		"with a probe":        {"probe /p\nversion {lp.json.rev}", nil},
		"with since":          {"since {query.v}\nversion {lp.json.rev}", nil},
	} {
		t.Run("a stream "+test.block+" "+name, virtual(func(t *testing.T) {
			s := newSite(t, steady+test.block)
			s.backend.say(inPieces(200, test.fields, piece{0, "a"}, piece{0, ""}, piece{100 * time.Millisecond, "b"}, piece{time.Hour, "c"}))
			c := s.get("/")
			if got := c.arrived(); got != "200 a" {
				t.Errorf("got %q at once; want the first piece", got)
			}
			settle(100 * time.Millisecond)
			if got := c.arrived(); got != "200 ab" {
				t.Errorf("got %q after a while; want two pieces", got)
			}
			c.wants("200 answered abc").within(time.Hour, 2*time.Hour)
			if tag := c.field("ETag"); strings.HasPrefix(tag, "W/") {
				t.Errorf("got ETag %q; want none of ours", tag)
			}
			c.wantsField("Cache-Control", "")
		}))
	}
}

// What gets an ETag, and what does not.
func TestOrdinaryETag(t *testing.T) {
	const theirs = `ETag: "theirs"`
	for name, test := range map[string]struct {
		block  string
		method string
		says   caddyhttp.HandlerFunc
		made   bool
	}{
		"none":                 {"", "GET", reply(200, "x"), true},
		"empty":                {"", "GET", reply(200, ""), true},
		"201":                  {"", "GET", reply(201, "x"), true},
		"of nothing said":      {"", "GET", silent, true},
		"one that is empty":    {"", "GET", reply(200, "x", "ETag: "), true},
		"theirs":               {"", "GET", reply(200, "x", theirs), false},
		"version":              {"version {lp.header.X-Rev}", "GET", reply(200, "x", theirs, "X-Rev: 7"), true},
		"version that is none": {"version {lp.header.X-Rev}", "GET", reply(200, "x", theirs), false},
		"no version, no ETag":  {"version {lp.header.X-Rev}", "GET", reply(200, "x"), true},
		"ignore":               {"ignore at", "GET", reply(200, `{"at":1}`, theirs), true},
		"ignore_match":         {"ignore_match [0-9]+", "GET", reply(200, "at 7", theirs), true},
		"gzip":                 {"", "GET", reply(200, gzipped("x"), "Content-Encoding: gzip"), true},
		"br":                   {"", "GET", reply(200, "x", "Content-Encoding: br"), false},
		"two codings":          {"", "GET", reply(200, "x", "Content-Encoding: gzip, br"), false},
		"max_body":             {"max_body 10", "GET", reply(200, "0123456789"), true},
		"more than max_body":   {"max_body 10", "GET", reply(200, "0123456789a"), false},
		"said to be max_body":  {"max_body 10", "GET", reply(200, "0123456789", "Content-Length: 10"), true},
		"said to be more":      {"max_body 10", "GET", reply(200, "0123456789a", "Content-Length: 11"), false},
		"probe":                {"probe /p", "GET", reply(200, "x"), false},
		"since and version":    {"since {query.v}\nversion {lp.header.X-Rev}", "GET", reply(200, "x", "X-Rev: 7"), false},
		"since":                {"since {query.v}", "GET", reply(200, "x"), true},
		"204":                  {"", "GET", reply(204, ""), true},
		"204 of theirs":        {"", "GET", reply(204, "", theirs), false},
		"206":                  {"", "GET", reply(206, "x"), false},
		"301":                  {"", "GET", reply(301, "x"), false},
		"404":                  {"", "GET", reply(404, "x"), false},
		"500":                  {"", "GET", reply(500, "x"), false},
		"POST":                 {"methods GET POST", "POST", reply(200, "x"), false},
		"HEAD":                 {"methods GET HEAD", "HEAD", reply(200, ""), false},
		"QUERY":                {"methods GET QUERY", "QUERY", reply(200, "x"), false},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+test.block)
			s.backend.say(test.says)
			c := s.send(newRequest(test.method, "/", "")).within(0, 0)
			if c.outcome() != "answered" {
				t.Errorf("got %v", c)
			}
			tag := c.field("ETag")
			if made := strings.HasPrefix(tag, `W/"`); made != test.made {
				t.Errorf("got ETag %q; want one of ours: %v", tag, test.made)
			}
			if test.made {
				c.wantsField("Cache-Control", "no-store")
				if name != "of nothing said" && name != "since" { // no answer to a check, and no version of a poll
					// It is what a check says, so that a poll with it is parked.
					s.get("/", "If-None-Match: "+tag, waits(3)).wants("304 expired").within(3*time.Second, 3*time.Second).wantsField("ETag", tag)
				}
			} else {
				c.wantsField("Cache-Control", "")
			}
		}))
	}

	for _, field := range []string{lastModified, "Expires: 0", "Cache-Control: public", "Cache-Control: private"} {
		t.Run("and a cache knows what to do: "+field, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(reply(200, "x", field, "CDN-Cache-Control: max-age=60"))
			c := s.get("/").wantsField("CDN-Cache-Control", "max-age=60")
			_, want, _ := strings.Cut(field, "Cache-Control: ")
			if c.wantsField("Cache-Control", want); !strings.HasPrefix(c.field("ETag"), "W/") {
				t.Errorf("got ETag %q", c.field("ETag"))
			}
		}))
	}

	t.Run("is the check's where handlers in front have set fields", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.before = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Location", "/here")
		}
		s.backend.say(reply(200, "{}"))
		tag := s.get("/").wantsField("Content-Type", "application/json").field("ETag")
		s.get("/", "If-None-Match: "+tag, waits(3)).wants("304 expired").wantsField("ETag", tag)
		s.get("/", waits(3)).wants("200 answered {}").wantsField("ETag", tag).wantsField("Content-Type", "application/json")
	}))
}

// The header waits for the end of the body for at most half a second.
func TestOrdinaryPatience(t *testing.T) {
	const half = 500 * time.Millisecond
	for name, test := range map[string]struct {
		pieces []piece
		tagged bool
		first  time.Duration // when something comes
		last   time.Duration
	}{
		"quick":                 {[]piece{{0, "a"}, {0, "b"}}, true, 0, 0},
		"flushed":               {[]piece{{0, "a"}, {0, ""}, {half - 1, "b"}}, true, half - 1, half - 1},
		"flushed at first":      {[]piece{{0, ""}, {half - 1, "ab"}}, true, half - 1, half - 1},
		"almost half a second":  {[]piece{{0, "a"}, {half - 1, "b"}}, true, half - 1, half - 1},
		"more than half":        {[]piece{{0, "a"}, {half + 1, "b"}}, false, half, half + 1},
		"nothing for half":      {[]piece{{half + 1, "ab"}}, false, half, half + 1},
		"a long one":            {[]piece{{0, "a"}, {time.Minute, ""}, {time.Hour, "b"}}, false, half, time.Hour + time.Minute},
		"more than half in all": {[]piece{{half / 2, "a"}, {half / 2, ""}, {half / 2, "b"}}, false, half, 3 * half / 2},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(inPieces(200, nil, test.pieces...))
			c := s.get("/")
			if test.first > 0 {
				settle(test.first - 1)
				if got := c.arrived(); got != "0" {
					t.Errorf("got %q before %v; want nothing yet", got, test.first)
				}
				settle(1)
			}
			if got := c.arrived(); !strings.HasPrefix(got, "200") {
				t.Errorf("got %q after %v; want the header", got, test.first)
			}
			c.wants("200 answered ab").within(test.last, test.last)
			if got := strings.HasPrefix(c.field("ETag"), "W/"); got != test.tagged {
				t.Errorf("got ETag %q; want one: %v", c.field("ETag"), test.tagged)
			}
			want := ""
			if test.tagged {
				want = "no-store"
			}
			c.wantsField("Cache-Control", want)
		}))
	}

	t.Run("counts from the header on", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(slowly(time.Hour, inPieces(200, nil, piece{half - 1, "x"})))
		if c := s.get("/").wants("200 answered x"); c.field("ETag") == "" {
			t.Error("got no ETag")
		}
	}))

	t.Run("a body that outgrows max_body", virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_body 10")
		s.backend.say(inPieces(200, nil, piece{0, "0123456789"}, piece{100 * time.Millisecond, "a"}, piece{time.Minute, "b"}))
		c := s.get("/")
		if got := c.arrived(); got != "0" {
			t.Errorf("got %q; want nothing yet", got)
		}
		settle(100 * time.Millisecond)
		if got := c.arrived(); got != "200 0123456789a" {
			t.Errorf("got %q; want what there is", got)
		}
		c.wants("200 answered 0123456789ab").wantsField("ETag", "").wantsField("Cache-Control", "")
	}))

	for name, after := range map[string]time.Duration{"in time": 100 * time.Millisecond, "too late": time.Second} {
		t.Run("a header that speaks of the body, "+name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"header X-N {lp.json.n}\nheader X-Status {lp.status}\nheader X-Query {query.q}")
			s.backend.say(inPieces(200, []string{`ETag: "1"`}, piece{0, `{"n":`}, piece{after, "7}"}))
			c := s.get("/?q=3").wants(`200 answered {"n":7}`).wantsField("ETag", `"1"`).wantsField("X-Status", "200").wantsField("X-Query", "3").wantsField("Cache-Control", "")
			want := "7"
			if name == "too late" {
				want = ""
			}
			c.wantsField("X-N", want)
		}))
	}

	// While the time runs out the handlers behind go on with what is theirs.
	t.Run("and the handlers set what a header reads", virtual(func(t *testing.T) {
		s := newSite(t, steady+"header X-Var {http.vars.color}\nheader X-N {lp.json.n}")
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			io.WriteString(w, "x")
			repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			time.Sleep(half - time.Nanosecond)
			for i := range 100 {
				caddyhttp.SetVar(r.Context(), fmt.Sprint("color", i), "blue")
				repl.Map(func(string) (any, bool) { return nil, false })
				r.Header.Set(fmt.Sprint("X-", i), "y")
				if i == 50 {
					time.Sleep(time.Nanosecond)
				}
			}
			return nil
		})
		s.get("/").wants("200 answered x")
	}))
}

// An exchange that breaks off before the header does so for the client.
func TestOrdinaryExchangeThatBreaksOff(t *testing.T) {
	brokenAfter := func(d time.Duration, fields ...string) caddyhttp.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) error {
			inPieces(200, fields, piece{0, "half of it"}, piece{d, "of it"})(w, r)
			panic(http.ErrAbortHandler)
		}
	}
	for name, test := range map[string]struct {
		says caddyhttp.HandlerFunc
		got  string
	}{
		"before the header": {brokenAfter(100 * time.Millisecond), ""},
		"after it":          {brokenAfter(time.Second), "half of itof it"},
		"that has a tag":    {brokenAfter(100*time.Millisecond, `ETag: "1"`), "half of itof it"},
		"at once":           {aborted, ""},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(test.says)
			c := s.get("/").answer()
			if !c.broken {
				t.Errorf("got %v; want that it breaks off", c)
			}
			if c.w.body.String() != test.got || test.got == "" && c.w.status != 0 {
				t.Errorf("got %v; want %q of it", c, test.got)
			}
			s.wantsUntouched(1)
		}))
	}

	t.Run("with an error before the header", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("X-Half", "yes")
			io.WriteString(w, "half of it")
			return caddyhttp.Error(http.StatusBadGateway, io.ErrUnexpectedEOF)
		})
		if c := s.get("/").wants("502 answered "); c.err == nil || c.field("ETag") != "" {
			t.Errorf("got %v with error %v", c, c.err)
		}
	}))

	t.Run("because the client leaves", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(inPieces(200, nil, piece{0, "a"}, piece{time.Hour, "b"}))
		for _, after := range []time.Duration{0, 100 * time.Millisecond, 500 * time.Millisecond, time.Second} {
			c := s.get("/")
			settle(after)
			c.leave()
			if c.answer(); !c.broken || c.took != after {
				t.Errorf("got %v after %v; want that it ends with its client", c, c.took)
			}
		}
		if now, _ := s.backend.inFlight(); now != 0 {
			t.Errorf("got %d requests at the backend", now)
		}
	}))
}

// Placeholders of an ordinary exchange speak of what the backend has said, and not of what
// was made of it: in a `header`, and in logs.
func TestOrdinaryPlaceholders(t *testing.T) {
	const keys = "{lp.status} {lp.etag} {lp.version} {lp.header.ETag} {lp.header.Cache-Control} {lp.header.Content-Type} {lp.header.Long-Poll}"
	made := func(text string) string { return "W/" + strconv.Quote(text) }
	for name, test := range map[string]struct {
		block  string
		says   caddyhttp.HandlerFunc
		fields []string
		status int
		want   string
	}{
		"with a tag":          {"", reply(200, "{}", `ETag: "1"`, "Content-Type: a/b"), nil, 200, `200 "1" "1" "1"  a/b `},
		"an error":            {"", reply(404, "{}", `ETag: "9"`, "Content-Type: a/b"), nil, 404, `404 "9" "9" "9"  a/b `},
		"version":             {"version {lp.json.v}", reply(200, `{"v":5}`, `ETag: "1"`, "Content-Type: a/b"), nil, 200, `200 "1" 5 "1"  a/b `},
		"without a tag":       {"version {lp.json.v}", reply(200, `{"v":5}`, "Content-Type: a/b"), nil, 200, `200  5   a/b `},
		"of a cache":          {"version {lp.json.v}", reply(200, `{"v":5}`, `ETag: "1"`, "Content-Type: a/b", "Cache-Control: private"), nil, 200, `200 "1" 5 "1" private a/b `},
		"revalidated by ours": {"version {lp.json.v}", reply(200, `{"v":5}`, `ETag: "1"`, "Content-Type: a/b"), []string{"If-None-Match: " + made("5"), "Sec-Fetch-Site: none"}, 304, `200 "1" 5 "1"  a/b `},
	} {
		for _, header := range []bool{false, true} {
			t.Run(fmt.Sprint(name, header), virtual(func(t *testing.T) {
				block := test.block
				if header {
					block += "\nheader X-Says \"" + keys + "\"" // before it is set itself
				}
				s := newSite(t, steady+block)
				s.backend.say(test.says)
				c := s.get("/", test.fields...).answer()
				if c.w.status != test.status {
					t.Errorf("got %v; want %d", c, test.status)
				}
				if header {
					c.wantsField("X-Says", test.want)
				}
				repl := c.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
				if got := repl.ReplaceAll(keys, ""); got != test.want {
					t.Errorf("a log says %q; want %q", got, test.want)
				}
			}))
		}
	}
}

// They do too where the body is not waited for, or handlers in front change what was said.
func TestOrdinaryPlaceholdersOfLateAnswers(t *testing.T) {
	const keys = "{lp.status} {lp.etag} {lp.header.Content-Type} {lp.header.X-Front} {lp.header.Long-Poll}"
	for name, test := range map[string]struct {
		block string
		says  caddyhttp.HandlerFunc
	}{
		"large":          {"max_body 3", reply(200, "larger", "Content-Type: a/b")},
		"large, at last": {"max_body 3", inPieces(200, []string{"Content-Type: a/b"}, piece{0, "ab"}, piece{0, "cd"})},
		"late":           {"", inPieces(200, []string{"Content-Type: a/b"}, piece{time.Second, "x"})},
		"in time":        {"", reply(200, "x", "Content-Type: a/b")},
		"without a body": {"", reply(204, "", "Content-Type: a/b")},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+test.block)
			s.backend.say(test.says)
			c := s.get("/").answer()
			c.w.Header().Set("X-Front", "1") // as the header directive does, or encode
			repl := c.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			if got, want := repl.ReplaceAll(keys, ""), fmt.Sprint(c.w.status, "  a/b  "); got != want {
				t.Errorf("a log says %q; want %q", got, want)
			}
		}))
	}
}
