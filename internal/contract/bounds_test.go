package contract_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/zapcore"
)

// Contract 7.9 on memory and on what clients send, and contract 8 on what a check is
// told that is no answer.

// plain is a JSON text of about 4 MB that compresses to a fiftieth.
var plain = sync.OnceValue(func() string {
	var text strings.Builder
	text.WriteString(`{"busy":false,"items":[`)
	noise := rand.New(rand.NewPCG(1, 2))
	for i := range 40000 {
		if i > 0 {
			text.WriteByte(',')
		}
		fmt.Fprintf(&text, `{"id":%d,"text":"%s"}`, i%7+noise.IntN(2), strings.Repeat("long poll ", 8))
	}
	text.WriteString(`]}`)
	return text.String()
})

func TestRule9MaxMemory(t *testing.T) {
	for _, hold := range []string{"hold_while {lp.json.busy} is true", "hold_while {lp.json.items} empty", "header X-All {lp.json.items.0}"} {
		t.Run("counts what is decoded, "+hold, func(t *testing.T) {
			packed := gzipped(plain())
			if len(packed) > 200<<10 || len(plain()) < 3<<20 {
				t.Fatalf("%d bytes are packed to %d", len(plain()), len(packed))
			}
			virtual(func(t *testing.T) {
				s := newSite(t, steady+"max_memory 8MiB\nmax_body 1MiB\nversion {lp.hash}\n"+hold)
				s.backend.say(reply(200, packed, "Content-Encoding: gzip", `ETag: "1"`))
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				var parked []*client
				for i := range 12 {
					first := s.get(fmt.Sprint("/", i), waits(0), "Accept-Encoding: gzip")
					fields := []string{"Accept-Encoding: gzip", "If-None-Match: " + first.field("ETag")}
					second := s.get(fmt.Sprint("/", i), fields...)
					if second.waits() {
						parked = append(parked, second)
					} else if second.outcome() != "refused" {
						t.Errorf("got %d %s", second.w.status, second.outcome())
					}
					for _, c := range []*client{first, second} {
						if !c.waits() { // what it was told is its own no more
							c.r = nil
							c.w.body.Reset()
						}
					}
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 24<<20 || len(parked) == 0 {
					t.Errorf("%d parked take %d MiB; want some, and that max_memory holds", len(parked), grown>>20)
				}
			})(t)
		})
	}

	t.Run("what nobody waits for makes room first", virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_memory 1MiB\nlinger 1h")
		body := strings.Repeat("x", 200<<10)
		s.backend.say(reply(200, body, `ETag: "1"`))
		parked := s.get("/parked", has("1"))
		parked.mustWait()
		for i := range 20 {
			s.get(fmt.Sprint("/", i), waits(0)).wants("200 answered " + body)
		}
		if n := s.lot.Len(); n > 6 {
			t.Errorf("got %d resources of 200 KiB in 1 MiB", n)
		}
		// The one that has been idle longest goes first: the latest is still known.
		before := s.backend.checks()
		c := s.get("/19", has("1"))
		c.mustWait()
		if more := s.backend.checks() - before; more > 1 {
			t.Errorf("the latest took %d checks", more)
		}
		parked.wants("304 expired")
	}))

	t.Run("who is parked stays parked", virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_memory 1MiB")
		body := strings.Repeat("x", 300<<10)
		s.backend.say(reply(200, body, `ETag: "1"`))
		var parked []*client
		told := make(map[string]bool)
		for i := range 40 {
			c := s.get(fmt.Sprint("/", i), has("1"))
			if c.waits() {
				parked = append(parked, c)
				continue
			}
			c.wants("503 refused").wantsRetryAfter(1, 60)
			told[c.field("Retry-After")] = true
		}
		if len(parked) < 2 || len(parked) > 6 || len(told) < 5 {
			t.Errorf("%d are parked, and the others told to come back after %v", len(parked), told)
		}
		s.get("/other", waits(0)).wants("200 answered " + body) // who need not park
		s.get("/other").wants("200 answered " + body)
		for _, c := range parked {
			c.wants("304 expired")
		}
	}))
}

// stalled is a body of which nothing more comes, until its client leaves.
type stalled struct {
	read    atomic.Int32
	forever chan struct{}
}

func (b *stalled) Read([]byte) (int, error) {
	b.read.Add(1)
	<-b.forever
	return 0, io.ErrUnexpectedEOF
}

func (b *stalled) Close() error { return nil }

func TestRule9BodiesAreReadInAPlace(t *testing.T) {
	for name, block := range map[string]string{
		"":                            "methods GET POST",
		", whose version is in there": "methods GET POST\nsince {lp.request.json.since}\nversion {lp.json.index}",
		", whose wait is in there":    "methods GET POST\nwait {lp.request.json.timeout}",
	} {
		t.Run("bodies that stall"+name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"max_parked 10\n"+block)
			forever := make(chan struct{})
			var bodies []*stalled
			var all []*client
			for range 150 {
				body := &stalled{forever: forever}
				r := newRequest(http.MethodPost, "/", "", waits(5))
				r.Body, r.ContentLength = body, 100
				bodies, all = append(bodies, body), append(all, s.send(r))
			}
			synctest.Wait()
			read, refused := 0, 0
			for i, c := range all {
				if bodies[i].read.Load() > 0 {
					read++
				}
				if !c.waits() {
					c.wants("503 refused").wantsRetryAfter(1, 60).wantsField("Connection", "close")
					refused++
				}
			}
			if read != 10 || refused != 140 {
				t.Errorf("%d bodies were read and %d polls refused; want 10 and 140", read, refused)
			}
			// And nobody else is parked meanwhile; what is no poll is no business of ours.
			byTag := !strings.Contains(block, "since")
			if byTag {
				s.get("/", has("1")).wants("503 refused")
			}
			s.get("/").wants("200 answered state 1")
			close(forever)
			for _, c := range all {
				if c.answer(); c.outcome() != "refused" && c.w.status != 400 {
					t.Errorf("got %v", c)
				}
			}
			// The places are free again.
			if s.lot.Parked() != 0 {
				t.Errorf("got %d parked", s.lot.Parked())
			}
			if byTag {
				c := s.get("/", has("1"))
				c.mustWait()
				c.wants("304 expired")
			}
		}))
	}

	t.Run("per client", virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_parked_per_client 2\nmethods POST")
		forever := make(chan struct{})
		defer close(forever)
		from := func(addr string) *client {
			r := newRequest(http.MethodPost, "/", "", waits(5))
			r.RemoteAddr, r.Body, r.ContentLength = addr, &stalled{forever: forever}, 100
			return s.send(r)
		}
		from("10.0.0.1:1").mustWait()
		from("10.0.0.1:2").mustWait()
		from("10.0.0.1:3").wants("503 refused")
		from("10.0.0.2:1").mustWait()
	}))

	t.Run("a place is taken once", virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_parked 1\nmethods POST")
		for range 5 {
			c := s.post("/", "{}", has("1"))
			c.mustWait()
			s.post("/", "{}", has("1")).wants("503 refused")
			c.wants("304 expired")
			s.post("/", "{}", waits(5)).wants("200 answered state 1")
		}
		if s.lot.Parked() != 0 {
			t.Errorf("got %d parked", s.lot.Parked())
		}
	}))

	t.Run("an ordinary request needs none", virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_parked 1\nmethods GET POST")
		s.get("/", has("1")).mustWait()
		for range 3 {
			s.post("/", "{}").wants("200 answered state 1")
		}
		if got := s.backend.last().body; got != "{}" {
			t.Errorf("the backend got body %q", got)
		}
	}))

	t.Run("too large for a poll", virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_parked 1\nmethods GET POST\nmax_body 10B")
		for range 3 {
			s.post("/", strings.Repeat("x", 100), waits(5)).wants("200 bypassed state 1")
		}
		c := s.get("/", has("1"))
		c.mustWait()
	}))
}

// A challenge that says that a nonce is stale speaks of the nonce (contract 8).
func TestStaleNonce(t *testing.T) {
	const challenge = `WWW-Authenticate: Digest realm="a", nonce="new", stale=true`
	stale := reply(401, "again", challenge)
	t.Run("releases like a time-out", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		c, by := s.get("/", has("1"), "Authorization: Digest old"), s.get("/", has("1"), waits(20), "Authorization: Digest old")
		settle(3 * time.Second)
		c.mustWait()
		s.backend.say(stale)
		c.wants("304 expired").within(3*time.Second, 5*time.Second)
		by.wants("304 expired")
		// The client asks again with a nonce that was used up, and then with the new one.
		s.get("/", has("1"), "Authorization: Digest old").wants("401 answered again").wantsField("Www-Authenticate", challenge[len("WWW-Authenticate: "):])
		s.backend.say(tagged("1"))
		back := s.get("/", has("1"), "Authorization: Digest new")
		settle(3 * time.Second)
		back.mustWait()
		s.wantsTold(t, nil)
	}))
	t.Run("any other 401 is a change", virtual(func(t *testing.T) {
		for _, field := range []string{`WWW-Authenticate: Digest realm="a", nonce="new"`, `WWW-Authenticate: Digest nonce="n", stale=false`, `WWW-Authenticate: Basic realm="stale=true"`} {
			s := newSite(t, steady)
			c := s.get("/", has("1"), "Authorization: Digest old")
			c.mustWait()
			s.backend.say(reply(401, "no", field))
			c.wants("401 changed no")
		}
	}))
	t.Run("at first", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(stale)
		if c := s.get("/", has("1"), "Authorization: Digest old").answer(); c.w.status != 401 || c.field("Www-Authenticate") == "" {
			t.Errorf("got %v; want the challenge", c)
		}
	}))
}

// A backend closes a connection that was idle in the instant in which it is used again:
// nothing is wrong, and nobody hears of it (contract 8).
func TestClosedIdleConnection(t *testing.T) {
	errs := map[string]error{
		"EOF": fmt.Errorf("reading: %w", io.EOF), "reset": fmt.Errorf("reading: %w", syscall.ECONNRESET), "pipe": fmt.Errorf("writing: %w", syscall.EPIPE),
		"net/http's": errors.New("http: server closed idle connection"),
	}
	for name, err := range errs {
		fails := func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(502, err) }
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(sequence(tagged("1"), fails, tagged("1"), fails, tagged("2")))
			c := s.get("/", has("1"))
			c.wants("200 changed state 2").within(2*time.Second, 3*time.Second)
			if told := s.told(zapcore.InfoLevel); len(told) > 0 {
				t.Errorf("got logs %q; want none", told)
			}
			if n := s.backend.checks(); n != 5 {
				t.Errorf("the backend was asked %d times; want three checks, two of them twice", n)
			}
		}))
		t.Run(name+" twice is an outage", virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(sequence(tagged("1"), fails))
			c := s.get("/", has("1"))
			settle(1500 * time.Millisecond)
			if n := s.backend.checks(); n != 3 {
				t.Errorf("the backend was asked %d times; want one check, and one that was tried twice", n)
			}
			settle(8 * time.Second)
			if n := s.backend.checks(); n > 7 {
				t.Errorf("the backend was asked %d times; want that an outage is not tried twice", n)
			}
			c.mustWait()
			s.wantsTold(t, nil, "backend fails")
		}))
	}
	t.Run("a POST is not tried again", virtual(func(t *testing.T) {
		s := newSite(t, steady+"methods POST")
		s.backend.say(func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(502, io.EOF) })
		s.post("/", "{}", waits(5)).wants("502 failed")
		if n := s.backend.checks(); n != 1 {
			t.Errorf("the backend was asked %d times; want once", n)
		}
	}))
}
