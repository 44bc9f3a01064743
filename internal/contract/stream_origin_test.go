package contract_test

import (
	"net/http"
	"testing"
	"time"
)

// TestStreamOfAnotherOrigin: a page of another origin, which gives up for good where the
// head does not say that it may read the stream, gets no head before that is known.
func TestStreamOfAnotherOrigin(t *testing.T) {
	const (
		page    = "Origin: http://page.example"
		allowed = "Access-Control-Allow-Origin: *"
	)
	t.Run("outage", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nheartbeat 5s")
		s.backend.say(unreachable)
		c, own := s.get("/", events, page), s.get("/own", events)
		settle(12 * time.Second)
		c.head(0)
		own.head(200)
		if n := s.lot.Parked(); n != 2 {
			t.Errorf("%d are parked; want both", n)
		}
		s.backend.say(tagged("1", allowed))
		settle(15 * time.Second)
		c.head(200, allowed).hears("1 state 1")
		s.backend.say(unreachable)
		settle(15 * time.Second)
		s.get("/", events, page, `Last-Event-ID: "1"`).head(200, allowed).hears("") // as is known by now
	}))
	t.Run("an error that says who may", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nheartbeat 5s\nheader X-Version {lp.version}")
		s.backend.say(reply(503, "oops"))
		c := s.get("/", events, page)
		settle(2 * time.Second)
		c.head(0)
		s.backend.say(reply(503, "oops", allowed))
		settle(15 * time.Second)
		c.head(200, allowed).hears("")
		s.get("/", events, page).head(200, allowed, "Etag: ", "X-Version: ").hears("")
	}))
	t.Run("handlers behind say who may", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Access-Control-Allow-Origin", "*")
			return unreachable(w, r)
		})
		s.get("/", events, page).head(200, allowed).hears("")
	}))
	t.Run("handlers in front say who may", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		s.before = func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Access-Control-Allow-Origin", "*") }
		s.backend.say(unreachable)
		s.get("/", events, page).head(200, allowed).hears("")
	}))
	t.Run("its own", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		s.backend.say(unreachable)
		s.get("/", events, "Origin: http://example.com").head(200).hears("")
	}))
	t.Run("header", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nheader Access-Control-Allow-Origin *")
		s.backend.say(unreachable)
		s.get("/", events, page).head(200, allowed).hears("")
	}))
	t.Run("a slow backend", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nheartbeat 2s")
		s.backend.say(slowly(7*time.Second, tagged("1", allowed)))
		c := s.get("/", events, page)
		settle(6 * time.Second)
		c.head(0)
		settle(2 * time.Second)
		c.head(200, allowed).hears("1 state 1")
	}))
	t.Run("not allowed", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		s.get("/", events, page).head(200, "Access-Control-Allow-Origin: ").hears("1 state 1")
	}))
	t.Run("no resource after all", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		s.backend.say(unreachable)
		c := s.get("/", events, page)
		settle(5 * time.Second)
		s.backend.say(reply(404, "no", allowed))
		c.wants("404 changed no").wantsField("Access-Control-Allow-Origin", "*")
	}))
	// Who loses the connection comes back.
	for name, ends := range map[string]func(s *site){
		"stream_timeout": func(*site) { settle(time.Minute) },
		"drain":          func(s *site) { s.drain() },
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"stream\nstream_timeout 1m")
			s.backend.say(unreachable)
			c := s.get("/", events, page)
			settle(10 * time.Second)
			ends(s)
			if c.answer(); !c.broken || c.w.status != 0 && c.w.status != 499 {
				t.Errorf("got %v; want no answer", c)
			}
			if n := s.lot.Parked(); n != 0 {
				t.Errorf("%d are parked; want none", n)
			}
		}))
	}
}
