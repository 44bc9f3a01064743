package contract_test

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TestStreamAfterOutage: who comes during an outage and has something else than what was
// known before it is told that as soon as the outage is over, though for everybody else
// nothing has changed (contract 7.2).
func TestStreamAfterOutage(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nheartbeat 10m\nstream_timeout 1h")
		stays := s.get("/", events).hears("1 state 1")
		s.backend.say(unreachable)
		settle(1100 * time.Millisecond)
		ahead, none, same := s.get("/", events, `Last-Event-ID: "0"`), s.get("/", events), s.get("/", events, `Last-Event-ID: "1"`)
		settle(time.Minute)
		s.backend.say(tagged("1"))
		settle(12 * time.Second) // as long as the longest pause of an outage
		ahead.hears("1 state 1")
		none.hears("1 state 1")
		same.hears("")
		stays.hears("1 state 1")
	})(t)
}

// TestStreamOfWhatIsAllowed: a format that is not allowed is a media type like any other.
func TestStreamOfWhatIsAllowed(t *testing.T) {
	withoutServer(t)
	for _, c := range []struct{ block, accept, want string }{
		{"stream sse", "application/x-ndjson, text/event-stream", "text/event-stream"},
		{"stream sse", "application/x-ndjson, text/event-stream;q=0.9", ""},
		{"stream ndjson", "text/event-stream, application/x-ndjson", "application/x-ndjson"},
		{"stream ndjson sse", "text/event-stream, application/x-ndjson", "text/event-stream"},
	} {
		t.Run(c.block+" "+c.accept, virtual(func(t *testing.T) {
			s := newSite(t, steady+c.block)
			s.get("/", "Accept: "+c.accept).head(200, "Content-Type: "+c.want)
		}))
	}
}

// TestStreamOnChange: what on_change makes is told like a body: it may be empty, and has
// to be a text.
func TestStreamOnChange(t *testing.T) {
	for _, block := range []string{"on_change 204", "on_change 200"} {
		t.Run(block, virtual(func(t *testing.T) {
			s := newSite(t, steady+"stream\n"+block)
			c, byLine := s.get("/", events).hears("1"), s.get("/", lines)
			settle(0)
			s.backend.say(tagged("2"))
			settle(1100 * time.Millisecond)
			c.hears("1 | 2")
			if got := byLine.heard(); got != "\"\"\n\"\"\n" {
				t.Errorf("got the lines %q", got)
			}
		}))
	}
	t.Run("no text", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\non_change 200 \"is {lp.body}\"")
		s.backend.say(reply(200, "\xff", `ETag: "1"`))
		s.get("/", events).wants("406 answered")
		s.get("/", lines).wants("406 answered")
	}))
}

// TestStreamPlaceholders: what is told with placeholders, and what handlers in front set as
// the stream begins, does not touch the placeholders of the request while a check looks
// there for what was set on the way.
func TestStreamPlaceholders(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\ninterval 1ms\non_change 200 {lp.etag}\nheader X-Etag {lp.etag}{map.out}")
		s.before = func(w http.ResponseWriter, r *http.Request) {
			r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("map.out", "x")
		}
		n := 0
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			n++
			for i := range 100 { // what nobody knows is looked up anew each time
				repl.Get(fmt.Sprint("nobody.", i))
			}
			return tagged(fmt.Sprint(n))(w, r)
		})
		c := s.get("/", events)
		settle(100 * time.Millisecond)
		if heard, _ := parseEvents(c.heard()); len(heard) < 10 {
			t.Errorf("heard %d events", len(heard))
		}
	})(t)
}

// TestDeltaOfProbe: the version that a probe gives is not that of one body: what was read
// behind it may have been newer.
func TestDeltaOfProbe(t *testing.T) {
	for _, fields := range [][]string{nil, {`ETag: "static"`}} {
		t.Run(fmt.Sprint(fields), virtual(func(t *testing.T) {
			s := newSite(t, steady+"stream\ndelta json_patch\nprobe /probe\nlinger 1s")
			say := func(version, body int) {
				s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
					if r.URL.Path == "/probe" {
						return reply(200, "", fmt.Sprintf("ETag: %q", fmt.Sprint(version)))(w, r)
					}
					return reply(200, document(body, ""), fields...)(w, r)
				})
			}
			say(7, 7)
			first := s.get("/", events)
			heard, _ := parseEvents(first.heard())
			first.leave()
			settle(10 * time.Second) // it is forgotten
			say(7, 8)                // the probe is asked just before a change, and the resource after it
			c := s.get("/", events, "Last-Event-ID: "+heard[0].id)
			settle(0)
			say(8, 8)
			settle(1100 * time.Millisecond)
			more, _ := parseEvents(c.heard())
			got := applied(t, "json_patch", append(heard, more...))
			if want := document(8, ""); got[len(got)-1] != want {
				t.Errorf("heard %v, %v: the client has %s; want %s", heard, more, got[len(got)-1], want)
			}
		}))
	}
}

// TestDeltaOfSeveral: a client that names several versions is not sent a patch of which it
// can not know what it is of.
func TestDeltaOfSeveral(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\ndelta json_patch")
		say := func(n int) { s.backend.say(reply(200, document(n, ""), fmt.Sprintf("ETag: \"%d\"", n))) }
		say(1)
		s.get("/", events).heard()
		say(2)
		settle(1100 * time.Millisecond)
		say(3)
		settle(1100 * time.Millisecond)
		for _, tags := range []string{`"1", "2"`, `"1", "0"`} {
			if heard, _ := parseEvents(s.get("/", events, "If-None-Match: "+tags).heard()); len(heard) != 1 || heard[0].name != "" {
				t.Errorf("%s: heard %v; want the state", tags, heard)
			}
		}
		s.get("/", `If-None-Match: "1", "2"`, "A-IM: json-patch").wants("226 answered").wantsField("Delta-Base", `"2"`)
	})(t)
}

// TestStreamKeepsNoBody: streams that are silent keep none of the bodies of one version
// that they were told at different times.
func TestStreamKeepsNoBody(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nstream_timeout 1h\ndelta json_patch\nignore time")
		heap := func() int {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int(m.HeapAlloc)
		}
		const n, size = 60, 200 << 10
		text := strings.Repeat("x", size)
		s.get("/", events) // who stays, so that nothing is forgotten
		before := heap()
		for i := range n {
			s.backend.say(reply(200, fmt.Sprintf(`{"time":%d,"text":%q}`, i, text)))
			settle(1100 * time.Millisecond)
			c := s.get("/", events)
			if heard := c.heard(); len(heard) < size {
				t.Fatalf("heard %d bytes", len(heard))
			}
			c.w.mu.Lock()
			c.w.body.Reset()
			c.w.mu.Unlock()
		}
		if grown := heap() - before; grown > n*size/2 {
			t.Errorf("%d streams keep %d KiB; want no body for each", n, grown>>10)
		}
	})(t)
}

// TestStreamBackFromStatus: who was last told a status, and comes back when there is a
// success of the same text, does not have it.
func TestStreamBackFromStatus(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nversion {lp.header.X-Rev}")
		s.backend.say(reply(200, "here", "X-Rev: 5"))
		c := s.get("/", events).hears("5 here")
		s.backend.say(reply(404, "", "X-Rev: 5"))
		settle(1100 * time.Millisecond)
		heard, _ := parseEvents(c.heard())
		if len(heard) != 2 || heard[1].name != "status" {
			t.Fatalf("heard %v; want a status", heard)
		}
		c.leave()
		s.backend.say(reply(200, "here", "X-Rev: 5"))
		s.get("/", events, "Last-Event-ID: "+heard[1].id).hears("5 here")
	})(t)
}
