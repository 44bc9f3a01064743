package contract_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Fields of those who would rather hear than ask.
const (
	events = "Accept: text/event-stream"
	lines  = "Accept: application/x-ndjson"
)

// heard is what a client has been sent so far.
func (c *client) heard() string {
	synctest.Wait()
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.w.body.String()
}

// event is what a stream says.
type event struct{ name, id, data string }

// String has the id, which is an ETag as a rule, without its quotes.
func (e event) String() string {
	return strings.TrimSpace(e.name + " " + strings.Trim(e.id, `"`) + " " + e.data)
}

// parseEvents reads a stream of server-sent events as a browser does. What an unfinished
// event has is not told.
func parseEvents(text string) (all []event, retries int) {
	var e event
	var data []string
	for line := range strings.SplitAfterSeq(text, "\n") {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "\n":
			if data != nil {
				e.data = strings.Join(data, "\n")
				all = append(all, e)
			}
			e, data = event{id: e.id}, nil
		case field == "data":
			data = append(data, value)
		case field == "event":
			e.name = value
		case field == "id":
			e.id = value
		case field == "retry":
			retries++
		}
	}
	return all, retries
}

// hears compares the events that a client has been sent so far, each as its name, id and
// data, with a bar between them.
func (c *client) hears(want string) *client {
	c.t.Helper()
	all, _ := parseEvents(c.heard())
	var texts []string
	for _, e := range all {
		texts = append(texts, e.String())
	}
	if got := strings.Join(texts, " | "); got != want {
		c.t.Errorf("%s heard %q; want %q", c.r.RequestURI, got, want)
	}
	return c
}

// head compares the status and fields, such as "Etag: x", of what a client has been sent.
func (c *client) head(status int, fields ...string) *client {
	c.t.Helper()
	synctest.Wait()
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.w.status != status {
		c.t.Errorf("%s: got status %d; want %d", c.r.RequestURI, c.w.status, status)
	}
	for _, field := range fields {
		name, want, _ := strings.Cut(field, ": ")
		if got := strings.Join(c.w.sent.Values(name), " | "); got != want {
			c.t.Errorf("%s: got %s %q; want %q", c.r.RequestURI, name, got, want)
		}
	}
	return c
}

// TestStream: a client is told the present state and each change, out of the checks that
// polls are answered from.
func TestStream(t *testing.T) {
	t.Run("sse", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		poll := s.get("/", has("1"))
		poll.mustWait()
		c := s.get("/", events).hears(`1 state 1`).
			head(200, "Content-Type: text/event-stream", "Cache-Control: no-store", "X-Accel-Buffering: no", "Incremental: ?1", `Etag: "1"`, "Long-Poll: streamed", "Content-Length: ")
		if text := c.heard(); strings.Count(text, "retry: ") != 1 || !strings.HasPrefix(text, "retry: ") {
			t.Errorf("got %q; want one retry, in the first event", text)
		}
		checks := s.backend.checks()
		s.backend.say(tagged("2"))
		settle(1100 * time.Millisecond)
		c.hears(`1 state 1 | 2 state 2`)
		poll.wants("200 changed state 2")
		if n := s.backend.checks(); n > checks+2 {
			t.Errorf("the backend was asked %d times; want %d at most", n, checks+2)
		}
		for _, e := range s.backend.exchanges() {
			if got := e.header.Get("Accept"); got != "*/*" {
				t.Errorf("a check accepts %q; want */*", got)
			}
		}
		c.leave()
		c.wants("200 streamed")
	}))
	t.Run("ndjson", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream ndjson")
		s.backend.say(reply(200, "{\n \"a\": 1.0 }\n"))
		c := s.get("/", lines).head(200, "Content-Type: application/x-ndjson")
		if got := c.heard(); got != "{\"a\":1.0}\n" {
			t.Errorf("got %q", got)
		}
		s.backend.say(reply(200, "no\n\"JSON\""))
		settle(1100 * time.Millisecond)
		s.backend.say(reply(404, "gone"))
		settle(1100 * time.Millisecond)
		if got := c.heard(); got != "{\"a\":1.0}\n\"no\\n\\\"JSON\\\"\"\n" {
			t.Errorf("got %q", got)
		}
		c.wants("200 streamed").within(2*time.Second, 3*time.Second)
	}))
}

// TestStreamWho: those whose Accept prefers a format that is allowed.
func TestStreamWho(t *testing.T) {
	for _, test := range []struct{ stream, accept, want string }{
		{"stream", "text/event-stream", "text/event-stream */*"},
		{"stream", "Text/Event-Stream;charset=utf-8", "text/event-stream */*"},
		{"stream", "text/event-stream, */*", "text/event-stream */*"},
		{"stream", "*/*, text/event-stream", "text/event-stream */*"},
		{"stream", "application/json, text/event-stream", "text/event-stream application/json"},
		{"stream", "application/json;q=0.9, application/x-ndjson", "application/x-ndjson application/json;q=0.9"},
		{"stream ndjson", "application/x-ndjson, text/event-stream;q=0.5", "application/x-ndjson */*"},
		{"stream", "application/x-ndjson, text/event-stream", "application/x-ndjson */*"},
		// not preferred, or not allowed: as without
		{"stream", "application/json, text/event-stream;q=0.9", "bypassed"},
		{"stream", "text/event-stream;q=0.5, */*", "bypassed"},
		{"stream", "text/event-stream;q=0", "bypassed"},
		{"stream ndjson", "text/event-stream", "bypassed"},
		{"stream sse", "application/x-ndjson", "answered"},
		{"stream", "application/x-ndjson;q=0.5, application/json", "answered"},
		{"stream", "*/*", "answered"},
		{"", "text/event-stream", "bypassed"},
	} {
		t.Run(test.stream+" "+test.accept, virtual(func(t *testing.T) {
			s := newSite(t, steady+test.stream)
			c := s.get("/", "Accept: "+test.accept)
			synctest.Wait()
			kind, accept, streams := strings.Cut(test.want, " ")
			if !streams {
				c.wants("200 " + test.want + " state 1")
				return
			}
			c.head(200, "Content-Type: "+kind)
			if got := s.backend.last().header.Get("Accept"); got != accept {
				t.Errorf("the check accepts %q; want %q", got, accept)
			}
			c.leave()
		}))
	}
	t.Run("POST", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nmethods GET POST")
		s.post("/", "x", events).wants("200 bypassed state 1")
	}))
}

// TestStreamHas: who has the present state is told what comes next.
func TestStreamHas(t *testing.T) {
	for _, field := range []string{`Last-Event-ID: "1"`, has("1")} {
		t.Run(field, virtual(func(t *testing.T) {
			s := newSite(t, steady+"stream")
			s.get("/", waits(0)).answer()
			c := s.get("/", events, field).hears("").head(200, `Etag: "1"`)
			settle(15 * time.Second)
			if got := c.heard(); got != ":\n" {
				t.Errorf("got %q after 15 s; want a comment", got)
			}
			s.backend.say(tagged("2"))
			settle(1100 * time.Millisecond)
			c.hears("2 state 2")
			settle(14 * time.Second)
			if got := c.heard(); strings.HasSuffix(got, ":\n") {
				t.Errorf("got %q; want no comment within 15 s of an event", got)
			}
			settle(time.Second)
			if got := c.heard(); !strings.HasSuffix(got, "\n\n:\n") {
				t.Errorf("got %q; want a comment after 15 s", got)
			}
		}))
	}
	for _, field := range []string{"Last-Event-ID: 0", "Last-Event-ID: " + strings.Repeat("x", 10<<10), "Last-Event-ID: 1\x01", has("0")} {
		t.Run(field[:16], virtual(func(t *testing.T) {
			s := newSite(t, steady+"stream")
			s.get("/", events, field).hears("1 state 1")
		}))
	}
	t.Run("since", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nsince {query.v}\nversion {lp.json.v}")
		s.backend.say(reply(200, `{"v":" 7"}`))
		s.get("/?v=+7", waits(0)).answer()
		c := s.get("/?v=+7", events).hears("")
		// A version that no id can be is known by a token.
		s.backend.say(reply(200, `{"v":" 8"}`))
		settle(1100 * time.Millisecond)
		all, _ := parseEvents(c.heard())
		if len(all) != 1 || all[0].id == " 8" || all[0].id == "" {
			t.Fatalf("got %v; want one event with a token", all)
		}
		s.get("/?v=+7", events, "Last-Event-ID: "+all[0].id).hears("")
	}))
	t.Run("unversioned park", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nunversioned park")
		c := s.get("/", events).hears("").head(200, `Etag: "1"`)
		s.backend.say(tagged("2"))
		settle(1100 * time.Millisecond)
		c.hears("2 state 2")
	}))
	t.Run("hold_while", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nhold_while {lp.status} is 404\nhold_while {lp.json.s} is wait")
		s.backend.say(reply(404, "not yet"))
		c := s.get("/", events).hears("").head(200)
		for _, body := range []string{`{"s":"wait"}`, `{"s":"go"}`, `{"s":"wait"}`, `{"s":"go"}`} {
			s.backend.say(reply(200, body))
			settle(1100 * time.Millisecond)
		}
		all, _ := parseEvents(c.heard())
		if len(all) != 1 || all[0].data != `{"s":"go"}` {
			t.Errorf("got %v; want what is not held back, once", all)
		}
	}))
}

// TestStreamBegins: what is no state is told as it is, and an outage is waited out.
func TestStreamBegins(t *testing.T) {
	for status := range map[int]bool{401: true, 404: true, 302: true, 400: true} {
		t.Run(fmt.Sprint(status), virtual(func(t *testing.T) {
			s := newSite(t, steady+"stream")
			s.backend.say(reply(status, "no", "Location: /x"))
			s.get("/", events).wants(fmt.Sprintf("%d answered no", status)).wantsField("Location", "/x")
		}))
	}
	t.Run("no text", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		s.backend.say(reply(200, "\xff\xfe"))
		s.get("/", events).wants("406 answered")
		s.get("/", lines).wants("406 answered")
	}))
	t.Run("stream of the backend", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		s.backend.say(reply(200, "data: 1\n\n", "Content-Type: text/event-stream"))
		s.get("/", events).wants("200 bypassed data: 1\n\n")
		if got := s.backend.last().header.Get("Accept"); got != "text/event-stream" {
			t.Errorf("the backend was asked for %q; want what the client has said", got)
		}
	}))
	t.Run("a slow backend", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nheartbeat 5s\ncheck_timeout 20s")
		s.backend.say(slowly(12*time.Second, tagged("1")))
		c := s.get("/", events)
		settle(4 * time.Second)
		c.head(0)
		settle(time.Second)
		c.head(200, "Etag: ").hears("") // before a hop on the way finds it too long
		settle(8 * time.Second)
		c.hears("1 state 1")
		if got := s.backend.checks(); got != 1 {
			t.Errorf("the backend was asked %d times; want once", got)
		}
	}))
	for _, onError := range []string{"hold", "release"} {
		t.Run("outage, on_error "+onError, virtual(func(t *testing.T) {
			s := newSite(t, steady+"stream\non_error "+onError)
			s.backend.say(unreachable)
			c := s.get("/", events).hears("").head(200, "Etag: ", "Content-Type: text/event-stream")
			late := s.get("/", events).hears("").head(200)
			settle(40 * time.Second)
			if got := c.heard(); strings.Count(got, ":\n") != 2 {
				t.Errorf("got %q after 40 s; want two comments", got)
			}
			s.backend.say(tagged("1", "Access-Control-Allow-Origin: *"))
			settle(11 * time.Second)
			c.hears("1 state 1")
			late.hears("1 state 1")
			s.backend.say(unreachable)
			settle(5 * time.Second)
			s.get("/", events, "Last-Event-ID: 0").head(200, "Etag: ", "Access-Control-Allow-Origin: *").hears("")
			s.get("/", events, `Last-Event-ID: "1"`).hears("")
			s.backend.say(tagged("2"))
			settle(15 * time.Second)
			c.hears("1 state 1 | 2 state 2")
		}))
	}
}

// TestStreamStatus: a state that is no 2xx is an event of its own.
func TestStreamStatus(t *testing.T) {
	for _, status := range []int{404, 401, 403} {
		t.Run(fmt.Sprint(status), virtual(func(t *testing.T) {
			s := newSite(t, steady+"stream")
			c := s.get("/", events).hears("1 state 1")
			s.backend.say(reply(status, "no", `ETag: "x"`))
			settle(1100 * time.Millisecond)
			all, _ := parseEvents(c.heard())
			if len(all) != 2 || all[1].name != "status" || all[1].data != fmt.Sprintf(`{"status":%d}`, status) || all[1].id == `"1"` {
				t.Fatalf("got %v", all)
			}
			if status != 404 {
				c.wants("200 streamed")
				return
			}
			s.backend.say(tagged("1"))
			settle(1100 * time.Millisecond)
			if all, _ = parseEvents(c.heard()); len(all) != 3 || all[2].data != "state 1" {
				t.Errorf("got %v; want the state again", all)
			}
		}))
	}
}

// TestStreamEnds: what can not be told any more ends a stream.
func TestStreamEnds(t *testing.T) {
	for name, says := range map[string]http.HandlerFunc{
		"no text": func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("\xff")) },
		"large":   func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 200)) },
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"stream\nmax_body 100B")
			c := s.get("/", events).hears("1 state 1")
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error { says(w, r); return nil })
			settle(1100 * time.Millisecond)
			c.hears("1 state 1").wants("200 streamed")
		}))
	}
	t.Run("stream_timeout", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nstream_timeout 1m\nheartbeat 40s")
		c := s.get("/", events, `Last-Event-ID: "1"`)
		c.wants("200 streamed").within(time.Minute, time.Minute)
		if got := c.heard(); !strings.HasPrefix(got, ":\nretry: ") || !strings.HasSuffix(got, "\n\n") {
			t.Errorf("got %q; want a comment and when to come back", got)
		}
		if got := c.r.Context().Err(); got == nil {
			t.Error("the request goes on")
		}
	}))
	t.Run("jitter", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 50%\nstream\nstream_timeout 100s")
		var times []time.Duration
		for range 20 {
			c := s.get("/", events).wants("200 streamed").within(50*time.Second, 100*time.Second)
			times = append(times, c.took)
		}
		if times[0] == times[1] && times[1] == times[2] {
			t.Errorf("all ended after %v", times[0])
		}
	}))
	t.Run("drain", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		var all []*client
		for range 100 {
			all = append(all, s.get("/", events))
		}
		settle(0)
		hanging := s.backend
		hanging.say(hung)
		first := s.get("/new", events)
		settle(time.Second)
		s.drain()
		for _, c := range all {
			c.wants("200 streamed").hears("1 state 1").within(time.Second, 2100*time.Millisecond)
		}
		first.wants("200 streamed").hears("").within(time.Second, 2100*time.Millisecond)
		s.get("/", events).wants("200 streamed").hears("").head(200, "Connection: close")
	}))
}

// TestStreamBounds: a stream counts as a parked request.
func TestStreamBounds(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nmax_parked 2")
		a, b := s.get("/", events).hears("1 state 1"), s.get("/", events).hears("1 state 1")
		if n := s.lot.Parked(); n != 2 {
			t.Errorf("%d are parked; want 2", n)
		}
		s.get("/", events).wants("503 refused")
		s.backend.say(reply(404, "no"))
		settle(1100 * time.Millisecond)
		s.get("/", events).wants("404 answered no")
		a.leave()
		b.leave()
		settle(0)
		if n := s.lot.Parked(); n != 0 {
			t.Errorf("%d are parked; want none", n)
		}
	})(t)
}
