package contract_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Contract 5: Set-Cookie never crosses sessions.

// Sessions, as servers name them: 16 bytes or more.
const (
	oldSession = "0123456789abcdef"
	newSession = "fedcba9876543210"
)

func TestSetCookie(t *testing.T) {
	t.Run("reaches whose own exchange it was", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(reply(200, "x", "Set-Cookie: a=1", "Set-Cookie: b=2"))
		for range 2 {
			s.get("/").wants("200 answered x").wantsField("Set-Cookie", "a=1 | b=2")
		}
	}))

	for name, test := range map[string]struct {
		cookie string   // of those who wait
		sets   []string // by the answer
		want   string
	}{
		"a session that they have not":  {"", []string{"sid=" + newSession}, ""},
		"another one":                   {"sid=" + oldSession, []string{"id=" + newSession}, ""},
		"a short one":                   {"sid=0123456789abcde", []string{"sid=" + newSession}, ""},
		"their own":                     {"sid=" + oldSession, []string{"sid=" + newSession + "; Path=/; HttpOnly"}, "sid=" + newSession + "; Path=/; HttpOnly"},
		"their own, by a short one":     {"sid=" + oldSession, []string{"sid=1"}, "sid=1"},
		"their own, unchanged":          {"sid=" + oldSession, []string{"sid=" + oldSession + "; Max-Age=60"}, "sid=" + oldSession + "; Max-Age=60"},
		"their own, that ends":          {"sid=" + oldSession, []string{"sid=; Max-Age=0"}, "sid=; Max-Age=0"},
		"one of several":                {"a=1; sid=" + oldSession + "; theme=dark", []string{"theme=light", "sid=" + newSession, "b=" + newSession}, "sid=" + newSession},
		"two of several":                {"a=" + oldSession + "; b=" + oldSession, []string{"b=" + newSession, "a=" + newSession}, "b=" + newSession + " | a=" + newSession},
		"the latest of a name":          {"sid=" + oldSession, []string{"sid=a" + newSession, "sid=b" + newSession}, "sid=b" + newSession},
		"a name that differs in case":   {"sid=" + oldSession, []string{"SID=" + newSession}, ""},
		"a name that begins as theirs":  {"sid=" + oldSession, []string{"sid2=" + newSession}, ""},
		"what is no cookie":             {"sid=" + oldSession, []string{"; sid=" + newSession, ""}, ""},
		"a quoted one, and a malformed": {`sid="` + oldSession + `"`, []string{`sid="` + newSession + `"`, "\x00"}, `sid="` + newSession + `"`},
		"a domain of their own":         {"sid=" + oldSession, []string{"sid=" + newSession + "; Domain=example.com; Secure; SameSite=None"}, "sid=" + newSession + "; Domain=example.com; Secure; SameSite=None"},
	} {
		t.Run("of "+name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			fields := []string{has("1")}
			if test.cookie != "" {
				fields = append(fields, "Cookie: "+test.cookie)
			}
			// Several tabs of one browser have one session.
			var all []*client
			for range 5 {
				all = append(all, s.get("/", fields...))
			}
			settle(2 * time.Second)
			s.backend.say(tagged("2", prefixed("Set-Cookie: ", test.sets)...))
			for _, c := range all {
				c.wants("200 changed state 2").wantsField("Set-Cookie", test.want)
			}
		}))
	}

	t.Run("reaches no other session", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		mine, theirs := s.get("/", has("1"), "Cookie: sid="+oldSession), s.get("/", has("1"), "Cookie: sid=another-session-1")
		none := s.get("/", has("1"))
		settle(2 * time.Second)
		s.backend.say(byField("Cookie", map[string]caddyhttp.HandlerFunc{
			"sid=" + oldSession:     tagged("2", "Set-Cookie: sid="+newSession),
			"sid=another-session-1": tagged("2"),
			"":                      tagged("2", "Set-Cookie: sid=of-a-new-visitor-1"),
		}))
		mine.wants("200 changed state 2").wantsField("Set-Cookie", "sid="+newSession)
		theirs.wants("200 changed state 2").wantsField("Set-Cookie", "")
		none.wants("200 changed state 2").wantsField("Set-Cookie", "")
	}))

	t.Run("does not reach who is answered at once", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1m")
		s.backend.say(tagged("1", "Set-Cookie: a="+newSession))
		for range 3 {
			s.get("/").wants("200 answered state 1").wantsField("Set-Cookie", "")
			s.get("/", waits(5)).wants("200 answered state 1").wantsField("Set-Cookie", "")
		}
	}))

	t.Run("with credentials that are shared in public", virtual(func(t *testing.T) {
		// Checks bear no cookie, and renew none.
		s := newSite(t, steady+"public")
		c, d := s.get("/", has("1"), "Cookie: sid="+oldSession), s.get("/", has("1"), "Cookie: sid=another-session-1")
		settle(time.Second)
		s.backend.say(tagged("2", "Set-Cookie: sid="+newSession))
		c.wants("200 changed state 2").wantsField("Set-Cookie", "")
		d.wants("200 changed state 2").wantsField("Set-Cookie", "")
	}))
}

func prefixed(prefix string, all []string) (fields []string) {
	for _, text := range all {
		fields = append(fields, prefix+text)
	}
	return fields
}

// sliding is a backend that renews a session with each answer, and takes a session for
// the one that it has given last.
type sliding struct {
	n       atomic.Int64
	version atomic.Value
	refused atomic.Int64
}

func (b *sliding) session() string { return fmt.Sprintf("session-number-%06d", b.n.Load()) }

func (b *sliding) serve(w http.ResponseWriter, r *http.Request) error {
	c, err := r.Cookie("sid")
	if err != nil || c.Value != b.session() {
		b.refused.Add(1)
		return reply(http.StatusUnauthorized, "who are you?")(w, r)
	}
	b.n.Add(1)
	return tagged(b.version.Load().(string), "Set-Cookie: sid="+b.session())(w, r)
}

// A session that is renewed while somebody is parked goes on.
func TestRenewedSession(t *testing.T) {
	newSliding := func(t *testing.T, block string) (*site, *sliding) {
		s, b := newSite(t, steady+block), new(sliding)
		b.version.Store("1")
		s.backend.say(slowly(100*time.Millisecond, b.serve)) // so that several can come at once
		return s, b
	}

	t.Run("while nothing changes, until the time is up", virtual(func(t *testing.T) {
		s, b := newSliding(t, "")
		c := s.get("/", has("1"), "Cookie: sid="+b.session())
		c.wants("304 expired ").wantsField("Set-Cookie", "sid="+b.session())
		if b.refused.Load() > 0 || b.n.Load() < 20 {
			t.Errorf("got %d sessions, and %d requests with one that is over", b.n.Load(), b.refused.Load())
		}
		// And goes on with the next poll.
		c = s.get("/", has("1"), "Cookie: sid="+b.session())
		settle(5 * time.Second)
		b.version.Store("2")
		c.wants("200 changed state 2").wantsField("Set-Cookie", "sid="+b.session())
		if b.refused.Load() > 0 {
			t.Errorf("got %d requests with a session that is over", b.refused.Load())
		}
	}))

	t.Run("replay, on_change and on_timeout", virtual(func(t *testing.T) {
		for block, want := range map[string]string{"on_timeout replay": "200 expired state 1", "on_timeout 200 no": "200 expired no"} {
			s, b := newSliding(t, block)
			s.get("/", has("1"), waits(5), "Cookie: sid="+b.session()).wants(want).wantsField("Set-Cookie", "sid="+b.session())
		}
		s, b := newSliding(t, "on_change 200 yes")
		c := s.get("/", has("1"), "Cookie: sid="+b.session())
		settle(3 * time.Second)
		b.version.Store("2")
		c.wants("200 changed yes").wantsField("Set-Cookie", "sid="+b.session())
	}))

	t.Run("a drain", virtual(func(t *testing.T) {
		s, b := newSliding(t, "")
		c := s.get("/", has("1"), "Cookie: sid="+b.session())
		settle(3 * time.Second)
		s.drain()
		c.wants("304 drained").wantsField("Set-Cookie", "sid="+b.session())
	}))

	t.Run("in several tabs", virtual(func(t *testing.T) {
		s, b := newSliding(t, "")
		fields := []string{has("1"), "Cookie: sid=" + b.session()}
		all := []*client{s.get("/", fields...), s.get("/", fields...), s.get("/", fields...)}
		settle(3 * time.Second)
		// A tab that has the new one joins those who wait.
		all = append(all, s.get("/", has("1"), "Cookie: sid="+b.session()))
		settle(5 * time.Second)
		b.version.Store("2")
		for _, c := range all {
			c.wants("200 changed state 2").wantsField("Set-Cookie", "sid="+b.session())
		}
		if b.refused.Load() > 0 {
			t.Errorf("got %d requests with a session that is over", b.refused.Load())
		}
	}))

	t.Run("who comes with the old one does not share", virtual(func(t *testing.T) {
		s, b := newSliding(t, "")
		old := "Cookie: sid=" + b.session()
		c := s.get("/", has("1"), old)
		settle(3 * time.Second)
		s.get("/", has("1"), old).wants("401 answered who are you?").wantsField("Set-Cookie", "")
		s.get("/", waits(5), old).wants("401 answered who are you?").wantsField("Set-Cookie", "")
		c.wants("304 expired ").wantsField("Set-Cookie", "sid="+b.session())
	}))

	t.Run("who comes before the check that renews it", virtual(func(t *testing.T) {
		// They have sent the same, and are given the same.
		s, b := newSliding(t, "interval 10s")
		old := "Cookie: sid=" + b.session()
		c, d := s.get("/", has("1"), old), s.get("/", has("1"), old)
		settle(12 * time.Second)
		b.version.Store("2")
		for _, c := range []*client{c, d} {
			c.wants("200 changed state 2").wantsField("Set-Cookie", "sid="+b.session())
		}
	}))

	t.Run("is not what a state was read with", virtual(func(t *testing.T) {
		// A check that renews nothing still gives what was renewed before.
		s := newSite(t, steady)
		s.backend.say(sequence(tagged("1", "Set-Cookie: sid="+newSession), tagged("1")))
		c := s.get("/", has("1"), "Cookie: theme=dark; sid="+oldSession)
		settle(5 * time.Second)
		if got := s.backend.last().header.Get("Cookie"); got != "theme=dark; sid="+newSession {
			t.Errorf("the check bears %q", got)
		}
		s.backend.say(tagged("2"))
		c.wants("200 changed state 2").wantsField("Set-Cookie", "sid="+newSession)
		// Who waits from now on was given it already, or has another.
		c = s.get("/", has("2"), "Cookie: theme=dark; sid="+newSession)
		settle(5 * time.Second)
		s.backend.say(tagged("3"))
		if got := c.wants("200 changed state 3").field("Set-Cookie"); got != "" && got != "sid="+newSession {
			t.Errorf("got Set-Cookie %q", got)
		}
	}))

	t.Run("by an error that releases nobody", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		c := s.get("/", has("1"), "Cookie: sid="+oldSession)
		settle(2 * time.Second)
		s.backend.say(reply(503, "later", "Set-Cookie: sid="+newSession))
		settle(2 * time.Second)
		s.backend.say(byField("Cookie", map[string]caddyhttp.HandlerFunc{"sid=" + newSession: tagged("2")}))
		c.wants("200 changed state 2").wantsField("Set-Cookie", "sid="+newSession)
	}))

	t.Run("and an error that releases", virtual(func(t *testing.T) {
		s, b := newSliding(t, "on_error release")
		c := s.get("/", has("1"), "Cookie: sid="+b.session())
		settle(3 * time.Second)
		s.backend.say(unreachable)
		c.wants("502 failed").wantsField("Set-Cookie", "sid="+b.session())
	}))

	t.Run("is forgotten with its resource", virtual(func(t *testing.T) {
		s, b := newSliding(t, "linger 1s")
		c := s.get("/", has("1"), "Cookie: sid="+b.session())
		settle(3 * time.Second)
		c.leave()
		settle(2 * time.Second)
		if n := s.lot.Len(); n != 0 {
			t.Errorf("got %d resources", n)
		}
		c = s.get("/", has("1"), "Cookie: sid="+b.session())
		settle(3 * time.Second)
		c.mustWait()
	}))

	t.Run("a logout", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		c := s.get("/", has("1"), "Cookie: theme=dark; sid="+oldSession)
		settle(2 * time.Second)
		s.backend.say(tagged("1", "Set-Cookie: sid=; Expires=Thu, 01 Jan 1970 00:00:00 GMT"))
		settle(2 * time.Second)
		s.backend.say(byField("Cookie", map[string]caddyhttp.HandlerFunc{"theme=dark": reply(401, "gone")}))
		if got := c.wants("401 changed gone").field("Set-Cookie"); !strings.HasPrefix(got, "sid=;") {
			t.Errorf("got Set-Cookie %q", got)
		}
	}))
}
