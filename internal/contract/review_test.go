package longpoll

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap/zapcore"
)

// Two long_poll that both match, one in front of the other: the inner one lets the
// checks of the outer one pass, and does not park them.
func TestNested(t *testing.T) {
	virtual(func(t *testing.T) {
		inner, outer := newSite(t, steady), newSite(t, steady)
		outer.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			return inner.Handler.ServeHTTP(w, r, inner.backend)
		})
		c := outer.get("/", has("1"))
		settle(3 * time.Second)
		c.mustWait()
		if n := inner.backend.checks(); n < 3 {
			t.Errorf("got %d checks in 3 s", n)
		}
		inner.backend.say(tagged("2"))
		c.wants("200 changed state 2")
	})(t)
}

// A client's `since` is compared with the configured version alone: the backend's
// ETag is then another thing.
func TestSinceIsNoETag(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"since {query.index}\nversion {lp.json.v}")
		s.backend.say(reply(200, `{"v":7}`, `ETag: "5"`))
		s.get("/?index=5").wants(`200 answered {"v":7}`)
		s.get("/?index=7").mustWait()
	})(t)
}

// With hold_while, a field that differs in each answer is no change: nobody is
// woken, and the interval grows.
func TestNoiseIsNoChange(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 1s 8s\nhold_while {lp.json.items} empty")
		n := 0
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			n++
			return reply(200, `{"items":[]}`, `ETag: "1"`, "X-Request-Id: "+strconv.Itoa(n))(w, r)
		})
		c := s.get("/")
		settle(20 * time.Second)
		c.mustWait()
		if got := s.backend.checks(); got > 8 {
			t.Errorf("got %d checks in 20 s, want the pauses to grow", got)
		}
	})(t)
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
		s.get("/").wants("200 answered state 1").wantsField("Set-Cookie", "front=1")
		s.get("/").wants("200 answered state 1").wantsField("Set-Cookie", "front=2")
	})(t)
}

// An answer that is a stream and too large as well is passed through, and nothing
// panics over it.
func TestStreamThatIsTooLarge(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "max_body 10")
		s.backend.say(reply(200, "data: 1", "Content-Type: text/event-stream", "Content-Length: 5000"))
		s.get("/").wants("200 bypassed data: 1")
		if n := s.logs.FilterLevelExact(zapcore.ErrorLevel).Len(); n != 0 {
			t.Errorf("got %d errors logged", n)
		}
	})(t)
}

// A placeholder that panics fails the check, and nothing else.
func TestPanickingPlaceholder(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "version {test.panic}")
		s.before = func(w http.ResponseWriter, r *http.Request) {
			r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Map(func(key string) (any, bool) {
				if key == "test.panic" {
					panic("a bug in another module")
				}
				return nil, false
			})
		}
		s.get("/").wants("502 failed")
		if n := len(s.slots); n != 0 {
			t.Errorf("got %d slots taken", n)
		}
	})(t)
}

// An answer that ends before its Content-Length is none, whoever swallows the error.
func TestShortAnswer(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "methods GET HEAD")
		s.backend.say(reply(200, "half", "Content-Length: 8", `ETag: "1"`))
		s.get("/").wants("502 failed")
		s.send(newRequest("HEAD", "/", "")).wants("200 answered")
	})(t)
}

// A placeholder of another module that panics while a check is prepared neither ends
// the process nor leaves all others without checks.
func TestPlaceholderThatPanics(t *testing.T) {
	t.Run("for a check", virtual(func(t *testing.T) {
		s := newSite(t, steady+"linger 0s\nsince {query.v}\nstrip_query v\nversion {test.v}{lp.status}")
		s.before = func(_ http.ResponseWriter, r *http.Request) {
			r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Map(func(key string) (any, bool) {
				if key == "test.v" && r.Header.Get("X-Bad") != "" {
					time.Sleep(time.Second) // others come meanwhile
					panic("no such thing")
				}
				return "", key == "test.v"
			})
		}
		c := s.get("/") // from now on the placeholder is known to be asked for
		settle(time.Second)
		c.wants("200 answered state 1")
		bad := s.get("/?v=200", "X-Bad: yes")
		settle(time.Second / 2)
		c = s.get("/?v=200")
		settle(5 * time.Second)
		bad.wants("502 failed")
		c.wants("502 failed")
		s.get("/?v=200").mustWait()
	}))

	t.Run("for a waker", virtual(func(t *testing.T) {
		s := newSite(t, steady+"wake spy")
		s.before = func(_ http.ResponseWriter, r *http.Request) {
			r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Map(func(key string) (any, bool) {
				if key == "tenant" {
					panic("no such thing")
				}
				return nil, false
			})
		}
		c := s.get("/", has("1"))
		settle(5 * time.Second)
		c.mustWait()
		s.backend.say(tagged("2"))
		c.wants("200 changed state 2")
	}))
}
