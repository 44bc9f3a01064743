package contract_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	longpoll "github.com/caddy-longpoll/caddy-longpoll"
)

// patient leaves all checks but the first to wake-ups.
const patient = "hold 10m 0%\ninterval 1h\n"

// pass sends a request past long_poll, as when its matcher covers something else,
// and waits for the answer.
func (s *site) pass(method, target string, says caddyhttp.HandlerFunc) (w *response, err error) {
	w = newResponse()
	r := caddyhttp.PrepareRequest(newRequest(method, target, ""), caddy.NewReplacer(), w, s.server)
	if s.before != nil {
		s.before(w, r)
	}
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			panic(p)
		}
	}()
	return w, new(longpoll.WritesHandler).ServeHTTP(w, r, says)
}

// wantsChecks compares what is checked because of something: URIs in any order.
func (s *site) wantsChecks(of string, because func()) {
	s.t.Helper()
	synctest.Wait()
	before := s.backend.checks()
	because()
	synctest.Wait()
	var got []string
	for _, e := range s.backend.exchanges()[before:] {
		got = append(got, e.uri)
	}
	want := strings.Fields(of)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.t.Errorf("got checks of %q; want %q", got, want)
	}
}

// seen puts a handler that sees writes before another one.
func seen(says caddyhttp.HandlerFunc) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		return new(longpoll.WritesHandler).ServeHTTP(w, r, says)
	}
}

func TestWriteWakes(t *testing.T) {
	created := func(fields ...string) caddyhttp.HandlerFunc { return reply(http.StatusCreated, "", fields...) }
	for _, test := range []struct {
		name   string
		paths  string // of wake writes
		strip  string // a prefix of all requests that is stripped on the way to us
		parked string // URIs
		write  string
		says   caddyhttp.HandlerFunc
		want   string // URIs that are checked
	}{
		{name: "POST", parked: "/orders /orders/42", write: "POST /orders", want: "/orders"},
		{name: "PUT", parked: "/orders /orders/42", write: "PUT /orders/42", want: "/orders/42"},
		{name: "PATCH", parked: "/orders /orders/42", write: "PATCH /orders/42", want: "/orders/42"},
		{name: "DELETE", parked: "/orders /orders/42", write: "DELETE /orders/42", want: "/orders/42"},
		{name: "GET", parked: "/orders/42", write: "GET /orders/42"},
		{name: "HEAD", parked: "/orders/42", write: "HEAD /orders/42"},
		{name: "OPTIONS", parked: "/orders/42", write: "OPTIONS /orders/42"},

		{name: "a slash at the write", parked: "/orders /orders/ /", write: "POST /orders/", want: "/orders /orders/"},
		{name: "a slash at the poll", parked: "/orders /orders/ /", write: "POST /orders", want: "/orders /orders/"},
		{name: "the root", parked: "/ /orders", write: "POST /", want: "/"},
		{name: "any query", parked: "/orders /orders?a=1 /orders?b=2", write: "POST /orders?c=3", want: "/orders /orders?a=1 /orders?b=2"},
		{name: "escapes", parked: "/a%20b%2Fc", write: "PUT /a%20b%2Fc", want: "/a%20b%2Fc"},
		{name: "another host", parked: "http://one.example/orders http://two.example/orders", write: "POST http://TWO.example/orders", want: "/orders"},

		{name: "Location", parked: "/orders /orders/42", write: "POST /orders", says: created("Location: /orders/42"), want: "/orders /orders/42"},
		{name: "relative to the collection", parked: "/orders/42", write: "POST /orders/", says: created("Location: 42"), want: "/orders/42"},
		{name: "relative to the item", parked: "/orders/42 /orders/43", write: "POST /orders/42", says: created("Location: 43?full=1#top"), want: "/orders/42 /orders/43"},
		{name: "absolute", parked: "/orders/42", write: "POST /orders", says: created("Location: https://backend.internal:9000/orders/42"), want: "/orders/42"},
		{name: "Content-Location", parked: "/orders/42", write: "POST /orders", says: created("Content-Location: /orders/42"), want: "/orders/42"},
		{name: "both", parked: "/a /b /c", write: "POST /a", says: created("Location: /b", "Content-Location: c"), want: "/a /b /c"},
		{name: "the same twice", parked: "/a", write: "PUT /a", says: created("Location: /a/", "Content-Location: /a"), want: "/a"},
		{name: "no reference", parked: "/a /", write: "POST /a", says: created("Location: http://[", "Content-Location: mailto:a@b.example"), want: "/a"},

		{name: "a collection", paths: "{dir}", parked: "/orders /orders/ /orders/42 /orders/43", write: "PUT /orders/42", want: "/orders /orders/ /orders/42"},
		{name: "several", paths: "{dir} /count /by/{query.customer}", parked: "/count /by/7 /by/8", write: "POST /orders?customer=7", want: "/count /by/7"},
		{name: "an empty placeholder", paths: "{query.customer}", parked: "/ /orders", write: "POST /orders", want: "/orders"},
		{name: "a placeholder that climbs", paths: "/by/{query.customer}", parked: "/ /by", write: "POST /orders?customer=../..", want: ""},

		{name: "a prefix", strip: "/api", paths: "{dir}", parked: "/api/orders /api/orders/42 /api/", write: "PUT /api/orders/42", want: "/orders /orders/42"},
		{name: "a prefix and Location", strip: "/api", parked: "/api/orders/42", write: "POST /api/orders", says: created("Location: /orders/42"), want: "/orders/42"},
		{name: "a prefix that the backend knows", strip: "/api", parked: "/api/orders/42", write: "POST /api/orders", says: created("Location: http://example.com/api/orders/42"), want: "/orders/42"},
		{name: "a prefix and a relative Location", strip: "/api", parked: "/api/orders/42", write: "POST /api/orders/", says: created("Location: 42"), want: "/orders/42"},
	} {
		t.Run(test.name, virtual(func(t *testing.T) {
			s := newSite(t, patient+"wake writes "+test.paths)
			s.before = func(_ http.ResponseWriter, r *http.Request) {
				r.URL.Path = strings.TrimPrefix(r.URL.Path, test.strip)
			}
			for _, uri := range strings.Fields(test.parked) {
				s.get(uri, has("1")).mustWait()
			}
			method, target, _ := strings.Cut(test.write, " ")
			s.wantsChecks(test.want, func() {
				says := test.says
				if says == nil {
					says = reply(http.StatusNoContent, "")
				}
				if _, err := s.pass(method, target, says); err != nil {
					t.Error(err)
				}
			})
		}))
	}
}

// What one handler of a site lists is woken at all of them.
func TestWriteWakesOtherHandlers(t *testing.T) {
	virtual(func(t *testing.T) {
		a, b := newSite(t, patient+"wake writes /b"), newSite(t, patient+"wake writes")
		b.get("/b", has("1")).mustWait()
		b.get("/c", has("1")).mustWait()
		b.wantsChecks("/b", func() {
			if _, err := a.pass(http.MethodPost, "/a", reply(http.StatusNoContent, "")); err != nil {
				t.Error(err)
			}
		})
	})(t)
}

// Whoever waits for the same with other credentials has a resource of their own.
func TestWriteWakesAllCredentials(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake writes")
		a := s.get("/orders", has("1"), "Authorization: Bearer a")
		b := s.get("/orders", has("1"), "Cookie: b=1")
		a.mustWait()
		b.mustWait()
		s.backend.say(tagged("2"))
		if _, err := s.pass(http.MethodPost, "/orders", reply(http.StatusOK, "")); err != nil {
			t.Error(err)
		}
		a.wants("200 changed state 2").within(0, 0)
		b.wants("200 changed state 2").within(0, 0)
	})(t)
}

func TestWriteThatFailsWakesNobody(t *testing.T) {
	earlyHints := func(w http.ResponseWriter, r *http.Request) error {
		w.WriteHeader(http.StatusEarlyHints)
		return reply(http.StatusConflict, "")(w, r)
	}
	for _, test := range []struct {
		name  string
		says  caddyhttp.HandlerFunc
		wakes bool
	}{
		{"200", reply(http.StatusOK, "done"), true},
		{"204", reply(http.StatusNoContent, ""), true},
		{"303", reply(http.StatusSeeOther, "", "Location: /elsewhere"), true},
		{"304", reply(http.StatusNotModified, ""), true},
		{"nothing, which is 200", silent, true},
		{"101", reply(http.StatusSwitchingProtocols, ""), false},
		{"400", reply(http.StatusBadRequest, ""), false},
		{"404", reply(http.StatusNotFound, "", "Location: /orders"), false},
		{"409 after 103", earlyHints, false},
		{"499", reply(499, ""), false},
		{"500", reply(http.StatusInternalServerError, ""), false},
		{"a handler's error", unreachable, false},
		{"an error after an answer", func(w http.ResponseWriter, r *http.Request) error {
			w.WriteHeader(http.StatusOK)
			return errors.New("failed")
		}, false},
		// It was accepted; whoever asked for it may be gone meanwhile.
		{"200 that breaks off", aborted, true},
		{"an answer that breaks off before it begins", func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) }, false},
	} {
		t.Run(test.name, virtual(func(t *testing.T) {
			s := newSite(t, patient+"wake writes {dir}")
			s.get("/orders", has("1")).mustWait()
			want := ""
			if test.wakes {
				want = "/orders"
			}
			s.wantsChecks(want, func() { _, _ = s.pass(http.MethodPut, "/orders/42", test.says) })
		}))
	}
}

func TestWriteThroughLongPoll(t *testing.T) {
	t.Run("alone", virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake writes")
		s.get("/orders", has("1")).mustWait()
		// The first one is the write itself.
		s.wantsChecks("/orders /orders", func() {
			s.post("/orders", "x").wants("200 bypassed state 1")
		})
	}))

	// As the Caddyfile has it where long_poll matches writes too. A second wake-up,
	// during the check that the first one caused, would cause a second check.
	t.Run("and past one that only looks", virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake writes /orders\nwake writes {dir}")
		s.get("/orders", has("1")).mustWait()
		s.backend.say(slowly(time.Second, seen(seen(tagged("1")))))
		before := counter(t, "wakes_total", "writes")
		s.wantsChecks("/orders/42 /orders", func() {
			s.send(newRequest(http.MethodPut, "/orders/42", "")).wants("200 bypassed state 1")
			settle(10 * time.Second)
		})
		if n := counter(t, "wakes_total", "writes") - before; n != 1 {
			t.Errorf("counted %d wake-ups; want 1", n)
		}
	}))

	t.Run("without wake writes", virtual(func(t *testing.T) {
		s := newSite(t, patient)
		s.get("/orders", has("1")).mustWait()
		s.wantsChecks("/orders", func() { s.post("/orders", "x").wants("200 bypassed state 1") })
	}))

	t.Run("of another that has none", virtual(func(t *testing.T) {
		s, other := newSite(t, patient+"wake writes"), newSite(t, patient)
		s.get("/orders", has("1")).mustWait()
		other.get("/orders", has("1")).mustWait()
		other.wantsChecks("", func() {
			s.wantsChecks("/orders", func() {
				if _, err := s.pass(http.MethodPost, "/orders", silent); err != nil {
					t.Error(err)
				}
			})
		})
	}))
}

// handle_path strips a prefix between two of those that look: what waits on either
// side of it is woken by the path that it knows.
func TestWriteOnBothSidesOfARewrite(t *testing.T) {
	virtual(func(t *testing.T) {
		outer, inner := newSite(t, patient+"wake writes"), newSite(t, patient+"wake writes")
		outer.get("/api/orders", has("1")).mustWait()
		inner.get("/orders", has("1")).mustWait()
		inner.wantsChecks("/orders", func() {
			outer.wantsChecks("/api/orders", func() {
				_, err := outer.pass(http.MethodPost, "/api/orders", func(w http.ResponseWriter, r *http.Request) error {
					r.URL.Path = "/orders"
					return seen(silent)(w, r)
				})
				if err != nil {
					t.Error(err)
				}
			})
		})
	})(t)
}

// What a listed path depends on may be set, and the answer changed, between two of
// those that look: what the one knows that is nearest to the backend counts.
func TestWriteBetween(t *testing.T) {
	created := seen(reply(http.StatusCreated, "", "Location: /orders/42"))
	for name, test := range map[string]struct {
		between caddyhttp.HandlerFunc
		want    string
	}{
		"a placeholder is set": {func(w http.ResponseWriter, r *http.Request) error {
			r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("list", "lists")
			return created(w, r)
		}, "/orders /orders/42 /lists"},
		"the answer is changed": {func(w http.ResponseWriter, r *http.Request) error {
			return created(relocated{w}, r)
		}, "/orders /orders/42"},
		"an error is made of it": {func(_ http.ResponseWriter, r *http.Request) error {
			_ = created(newResponse(), r)
			return caddyhttp.Error(http.StatusInternalServerError, nil)
		}, "/orders /orders/42"},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, patient+"wake writes /{list}")
			for _, path := range []string{"/lists", "/orders", "/orders/42"} {
				s.get(path, has("1")).mustWait()
			}
			s.wantsChecks(test.want, func() { _, _ = s.pass(http.MethodPost, "/orders", test.between) })
		}))
	}
}

// relocated sends its client elsewhere.
type relocated struct{ http.ResponseWriter }

func (w relocated) WriteHeader(status int) {
	w.Header().Set("Location", "/public/42")
	w.ResponseWriter.WriteHeader(status)
}

// TestWriteToWhatHasNoKey: of two resources that turn out to be the same, one is found
// by its path only, and it may be the last that is left.
func TestWriteToWhatHasNoKey(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, patient+"linger 1s\nwake writes")
		takes := 2 * time.Second
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			return slowly(takes, tagged("1", "Vary: Referer"))(w, r)
		})
		slow := s.get("/orders", has("1"))
		settle(time.Second / 2)
		takes = 0
		teaches := s.get("/orders?page=2", has("1"))
		settle(time.Second / 2)
		first := s.get("/orders", has("1"))
		settle(3 * time.Second)
		teaches.leave()
		first.leave()
		settle(3 * time.Second)
		slow.mustWait()
		if s.lot.Len() != 0 || s.lot.Parked() != 1 {
			t.Fatalf("%d resources have keys, %d requests are parked", s.lot.Len(), s.lot.Parked())
		}
		s.wantsChecks("/orders", func() {
			if _, err := s.pass(http.MethodPost, "/orders", silent); err != nil {
				t.Error(err)
			}
		})
	})(t)
}

// A write that fails may be tried again by an error route, with the same request.
func TestWriteThatIsTriedAgain(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake writes")
		s.get("/orders", has("1")).mustWait()
		var tries []caddyhttp.HandlerFunc
		for _, first := range []caddyhttp.HandlerFunc{
			reply(http.StatusBadGateway, ""),
			func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(http.StatusBadGateway, nil) },
		} {
			tries = append(tries, func(w http.ResponseWriter, r *http.Request) error {
				_ = seen(first)(w, r)
				return seen(silent)(w, r)
			})
		}
		for _, try := range tries {
			w, r := newResponse(), newRequest(http.MethodPost, "/orders", "")
			s.wantsChecks("/orders", func() {
				if err := try(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s.server)); err != nil {
					t.Error(err)
				}
			})
		}
	})(t)
}

// A poll by POST looks like a write, and so do its checks. If they were, each check
// would wake what it has just looked at.
func TestPollByPostIsNoWrite(t *testing.T) {
	t.Run("nor are its checks", virtual(func(t *testing.T) {
		s := newSite(t, patient+"methods GET POST\nwake writes /orders")
		s.backend.say(slowly(time.Second, seen(tagged("1"))))
		s.get("/orders", has("1"))
		settle(2 * time.Second)
		s.wantsChecks("/search", func() {
			c := s.post("/search", "{}", has("1"))
			settle(5 * time.Minute)
			c.mustWait()
		})
	}))

	t.Run("nor is one that is passed through", virtual(func(t *testing.T) {
		s := newSite(t, patient+"methods POST\nwake writes /orders")
		s.backend.say(seen(reply(http.StatusOK, "data: 1\n\n", "Content-Type: text/event-stream")))
		// Asked twice: what turns out to be a stream is asked for again.
		s.wantsChecks("/search /search", func() { s.post("/search", "{}", waits(5)).wants("200 bypassed data: 1\n\n") })
		s.backend.say(seen(tagged("1")))
		s.wantsChecks("/orders", func() { s.post("/orders", "{}", has("1")).mustWait() })
	}))

	t.Run("nor is one that passes before it is parked", virtual(func(t *testing.T) {
		s := newSite(t, patient+"methods GET POST\nwake writes /orders")
		s.get("/orders", has("1")).mustWait()
		s.wantsChecks("/search", func() {
			w, err := s.pass(http.MethodPost, "/search", func(w http.ResponseWriter, r *http.Request) error {
				r.Header.Set("Prefer", "wait=5")
				return s.ServeHTTP(w, r, s.backend)
			})
			if err != nil || w.status != http.StatusOK {
				t.Errorf("got %d, %v", w.status, err)
			}
		})
	}))

	t.Run("nor is a probe", virtual(func(t *testing.T) {
		s := newSite(t, patient+"probe POST /count\nwake writes /orders")
		// Whatever else is in between.
		s.backend.say(slowly(time.Second, func(w http.ResponseWriter, r *http.Request) error {
			return seen(tagged("1"))(&caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, r)
		}))
		s.wantsChecks("/count /orders", func() {
			c := s.get("/orders", has("1"))
			settle(5 * time.Minute)
			c.mustWait()
		})
	}))

	t.Run("but one that asks nothing is one", virtual(func(t *testing.T) {
		s := newSite(t, patient+"methods GET POST\nwake writes /orders")
		s.get("/orders", has("1")).mustWait()
		s.wantsChecks("/search /orders", func() { s.post("/search", "{}").wants("200 answered state 1") })
	}))

	// The methods that are polled by say what is a poll.
	t.Run("but a PUT still is", virtual(func(t *testing.T) {
		s := newSite(t, patient+"methods POST\nwake writes")
		s.post("/orders", "{}", has("1")).mustWait()
		s.wantsChecks("/orders /orders", func() {
			s.send(newRequest(http.MethodPut, "/orders", "")).wants("200 bypassed state 1")
		})
	}))
}

// The configuration that answers a write may not be the one that wakes.
func TestWriteDuringReload(t *testing.T) {
	virtual(func(t *testing.T) {
		old := newSite(t, patient+"wake writes {dir}")
		old.get("/orders", has("1")).mustWait()
		var s *site
		_, err := old.pass(http.MethodPut, "/orders/42", func(w http.ResponseWriter, r *http.Request) error {
			s = newSite(t, patient+"wake writes {dir}\nwake writes /not/known/by/then")
			if err := old.Cleanup(); err != nil {
				t.Error(err)
			}
			settle(2 * time.Second) // what was parked has left
			r.URL.Path = "/rewritten"
			for _, uri := range []string{"/orders", "/orders/42", "/rewritten"} {
				s.get(uri, has("1")).mustWait()
			}
			s.backend.say(tagged("2"))
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		old.clients[0].wants("304 drained")
		s.clients[0].wants("200 changed state 2").within(0, 0)
		s.clients[1].wants("200 changed state 2").within(0, 0)
		s.clients[2].mustWait()
	})(t)
}

// A write that comes while nobody waits is not forgotten: the state that is still
// known is that of before.
func TestWriteWhileNobodyWaits(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake writes\nlinger 1m")
		c := s.get("/orders", has("1"))
		c.mustWait()
		c.leave()
		settle(time.Second)
		s.wantsChecks("", func() { _, _ = s.pass(http.MethodPost, "/orders", silent) })
		s.backend.say(tagged("2"))
		s.get("/orders", has("1")).wants("200 changed state 2").within(0, 0)
	})(t)
}

func TestWriterDoesNotWait(t *testing.T) {
	t.Run("for the check", virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake writes")
		s.get("/orders", has("1")).mustWait()
		s.backend.say(hung)
		began := time.Now()
		if _, err := s.pass(http.MethodPost, "/orders", silent); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the writer waited for %v", took)
		}
	}))

	t.Run("for the end of its answer", virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake writes")
		w, err := s.pass(http.MethodPost, "/orders", func(w http.ResponseWriter, r *http.Request) error {
			w.WriteHeader(http.StatusEarlyHints)
			if _, err := w.Write([]byte("so far")); err != nil {
				t.Error(err)
			}
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Errorf("flushing: %v", err)
			}
			for w := w; ; {
				unwrapped, ok := w.(interface{ Unwrap() http.ResponseWriter })
				if !ok {
					if got := w.(*response); got.body.String() != "so far" || !slices.Equal(got.informed, []int{103}) {
						t.Errorf("got %q after %v; want it not to be kept back", got.body.String(), got.informed)
					}
					break
				}
				w = unwrapped.Unwrap()
			}
			return nil
		})
		if err != nil || w.status != http.StatusOK {
			t.Errorf("got %d, %v", w.status, err)
		}
	}))

	t.Run("nor does anybody else", virtual(func(t *testing.T) {
		s := newSite(t, patient+"wake writes")
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodConnect} {
			_, err := s.pass(method, "/chat", func(w http.ResponseWriter, r *http.Request) error {
				if _, untouched := w.(*response); !untouched {
					t.Errorf("%s got a writer of type %T; want the original", method, w)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
	}))
}
