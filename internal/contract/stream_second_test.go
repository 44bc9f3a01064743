package contract_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// second has a site where something is known of the resource, since a poll waits for it, and
// a stream that comes then and waits for its first check, which takes a second and ends with
// says. Where requests are detached the stream is, and is not counted as parked yet.
func second(t *testing.T, block string, says caddyhttp.HandlerFunc, fields ...string) (*site, *client) {
	t.Helper()
	s := newSite(t, steady+"interval 1m\nstream\n"+block)
	s.get("/", append([]string{has("1")}, origin(fields)...)...).mustWait()
	s.backend.say(slowly(time.Second, says))
	c := s.get("/", append([]string{events}, fields...)...)
	c.mustWait()
	s.parked(1)
	if detaches {
		if waiting := stacks("park.(*Spot).follow("); len(waiting) > 0 {
			t.Errorf("a stream waits for its first check on %v", waiting)
		}
	}
	return s, c
}

// origin is those of fields that say what page a request is of: they tell resources apart.
func origin(fields []string) []string {
	return slices.DeleteFunc(slices.Clone(fields), func(f string) bool { return !strings.HasPrefix(f, "Origin:") })
}

// parked compares how many requests are parked.
func (s *site) parked(want int) {
	s.t.Helper()
	synctest.Wait()
	if n := s.lot.Parked(); n != want {
		s.t.Errorf("%d are parked; want %d", n, want)
	}
}

// TestStreamSecond: what becomes of a stream by its first check does not depend on what was
// known before (contract 13.2).
func TestStreamSecond(t *testing.T) {
	for name, of := range map[string]struct {
		says  caddyhttp.HandlerFunc
		block string
		want  string // the answer, of what is no stream
	}{
		"an answer that is none":  {reply(404, "nothing"), "", "404 answered nothing"},
		"a redirect":              {reply(302, "", "Location: /login"), "", "302 answered "},
		"no text":                 {reply(200, "\xff\xfe"), "", "406 answered"},
		"too large":               {reply(200, strings.Repeat("x", 2000)), "max_body 1KB", "200 bypassed " + strings.Repeat("x", 2000)},
		"events of the backend's": {reply(200, "data: x\n\n", "Content-Type: text/event-stream"), "", "200 bypassed data: x\n\n"},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s, c := second(t, of.block, of.says)
			c.wants(of.want)
			if n := s.gauge("caddy_long_poll_streams"); n != 0 {
				t.Errorf("%v streams are open; want none", n)
			}
			for _, e := range s.backend.exchanges() {
				if accept := e.header.Get("Accept"); accept != "*/*" && accept != "text/event-stream" && accept != "" {
					t.Errorf("the backend was asked with Accept %q", accept)
				}
			}
		}))
	}
	t.Run("what there is", virtual(func(t *testing.T) {
		s, c := second(t, "", tagged("2"))
		settle(1500 * time.Millisecond)
		c.head(200, `Etag: "2"`, "Content-Type: text/event-stream", "Long-Poll: streamed").hears("2 state 2")
		s.parked(1) // the poll was told too
	}))
	t.Run("what it has", virtual(func(t *testing.T) {
		s, c := second(t, "", tagged("1"), `Last-Event-ID: "0"`)
		settle(1500 * time.Millisecond)
		c.hears("1 state 1")
		s.parked(2)
	}))
	t.Run("another resource", virtual(func(t *testing.T) {
		s, c := second(t, "", func(w http.ResponseWriter, r *http.Request) error {
			return reply(200, "for "+r.Header.Get("DNT"), "Vary: DNT", `ETag: "`+r.Header.Get("DNT")+`"`)(w, r)
		}, "DNT: you")
		settle(3 * time.Second)
		c.hears("you for you")
		for _, e := range s.backend.exchanges()[2:] {
			if me := e.header.Get("X-Me"); me != "you" && me != "" {
				t.Errorf("the backend was asked by %q", me)
			}
		}
	}))
	t.Run("an outage", virtual(func(t *testing.T) {
		s, c := second(t, "", unreachable)
		settle(1500 * time.Millisecond)
		c.hears("").head(200, "Content-Type: text/event-stream", "Etag: ")
		s.parked(2)
		s.backend.say(tagged("2"))
		settle(2 * time.Minute)
		c.hears("2 state 2")
	}))
	t.Run("nothing for longer than heartbeat", virtual(func(t *testing.T) {
		s, c := second(t, "heartbeat 5s\ncheck_timeout 1m", slowly(10*time.Second, tagged("2")))
		settle(6 * time.Second)
		c.hears("").head(200, "Content-Type: text/event-stream")
		s.parked(2)
		settle(10 * time.Second)
		c.hears("2 state 2")
	}))
	t.Run("no place", virtual(func(t *testing.T) {
		s, c := second(t, "max_parked 1", tagged("1"))
		c.wants("503 refused")
		s.parked(1)
	}))
	t.Run("a client that leaves", virtual(func(t *testing.T) {
		s, c := second(t, "", tagged("2"))
		c.leave()
		c.wants("499 left")
		settle(2 * time.Second)
		if n := s.gauge("caddy_long_poll_streams"); n != 0 {
			t.Errorf("%v streams are open; want none", n)
		}
	}))
	t.Run("its time is up", virtual(func(t *testing.T) {
		_, c := second(t, "stream_timeout 4s\ncheck_timeout 1m", slowly(10*time.Second, tagged("2")))
		c.wants("200 streamed").within(4*time.Second, 4*time.Second)
	}))
	t.Run("a drain", virtual(func(t *testing.T) {
		s, c := second(t, "check_timeout 1m", slowly(10*time.Second, tagged("2")))
		s.drain()
		c.wants("200 streamed").within(0, 0) // who is not parked is not spread
	}))
	t.Run("a drain of who is parked", virtual(func(t *testing.T) {
		s, c := second(t, "heartbeat 1s\ncheck_timeout 1m", slowly(10*time.Second, tagged("2")))
		settle(2 * time.Second)
		s.drain()
		c.wants("200 streamed").within(2*time.Second, 8*time.Second)
	}))
	t.Run("a page of another origin, at a drain", virtual(func(t *testing.T) {
		s, c := second(t, "check_timeout 1m", slowly(10*time.Second, tagged("2")), "Origin: https://example.net")
		s.drain()
		c.answer()
		if n := s.gauge("caddy_long_poll_streams"); !c.broken || n != 0 { // nobody has said that it may read the head
			t.Errorf("got %v, and %v streams are open; want the connection to be cut", c, n)
		}
	}))
	t.Run("a handler behind that breaks off", virtual(func(t *testing.T) {
		_, c := second(t, "", func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(403, errors.New("no")) })
		c.wants("403 answered")
	}))
}
