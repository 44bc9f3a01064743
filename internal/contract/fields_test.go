package contract_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Contract 5: the fields of an answer.

// answerFields are what a backend says besides its body, and what a 304 has of it.
var answerFields = []struct {
	field, value string
	on304        bool
}{
	{"Access-Control-Allow-Origin", "https://a.example", true},
	{"Access-Control-Expose-Headers", "ETag", true},
	{"Vary", "Origin", true},
	{"Content-Location", "/orders/42", true},
	{"Expires", "0", true},
	{"Link", "</next>; rel=next", true},
	{"X-Ratelimit-Remaining", "7", true},
	{"Strict-Transport-Security", "max-age=1", true},
	{"X-Content-Type-Options", "nosniff", true},
	{"Last-Modified", "Sat, 01 Jan 2000 00:00:00 GMT", true},
	{"Content-Type", "text/x", false},
	{"Content-Language", "en", false},
	{"Content-Encoding", "identity", false},
	{"Content-Disposition", "inline", false},
	{"Content-Security-Policy", "default-src 'none'", false},
	{"Set-Cookie", "a=0123456789abcdef", false},
}

// sharedCaches are what caches in front of Caddy read in place of Cache-Control.
var sharedCaches = []string{
	"CDN-Cache-Control", "Cloudflare-CDN-Cache-Control", "Surrogate-Control", "Akamai-Cache-Control", "Vercel-CDN-Cache-Control",
	"Netlify-CDN-Cache-Control", "Edge-Control", "X-Accel-Expires",
}

func answerWithFields(w http.ResponseWriter, r *http.Request) error {
	for _, f := range answerFields {
		w.Header().Set(f.field, f.value)
	}
	for _, name := range sharedCaches {
		w.Header().Set(name, "max-age=60")
	}
	w.Header().Set("Cache-Control", "private, max-age=60")
	return reply(200, "state 1", `ETag: "1"`)(w, r)
}

func TestAnswerFields(t *testing.T) {
	for name, test := range map[string]struct {
		block  string
		fields []string
		want   string
	}{
		"a 304 at the time limit": {"", []string{has("1"), waits(3)}, "304 expired "},
		"a 304 at once":           {"", []string{has("1"), waits(0)}, "304 answered "},
		"a 304 to a date":         {"", []string{modified, waits(3)}, "304 expired "},
		"a 304 by on_timeout":     {"on_timeout 304", []string{has("1"), waits(3)}, "304 expired "},
		"a 304 of a drain":        {"", []string{has("1")}, "304 drained "},
		"an answer at once":       {"", []string{waits(3)}, "200 answered state 1"},
		"an answer":               {"", []string{has("0"), waits(3)}, "200 answered state 1"},
		"a replay":                {"on_timeout replay", []string{has("1"), waits(3)}, "200 expired state 1"},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+test.block)
			s.backend.say(answerWithFields)
			c := s.get("/", append(test.fields, "Origin: https://a.example", "Cookie: theme=dark")...)
			if name == "a 304 of a drain" {
				settle(2 * time.Second)
				s.drain()
			}
			c.wants(test.want).wantsField("ETag", `"1"`)
			for _, f := range answerFields {
				want := f.value
				if f.field == "Set-Cookie" || c.w.status == 304 && !f.on304 {
					want = ""
				}
				c.wantsField(f.field, want)
			}
			for _, name := range sharedCaches {
				c.wantsField(name, "")
			}
			c.wantsField("Cache-Control", "private, no-cache")
		}))
	}

	t.Run("an ordinary answer has them all", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(answerWithFields)
		c := s.get("/").wants("200 answered state 1")
		for _, f := range answerFields {
			c.wantsField(f.field, f.value)
		}
		for _, name := range sharedCaches {
			c.wantsField(name, "max-age=60")
		}
		c.wantsField("Cache-Control", "private, max-age=60")
	}))

	t.Run("what a cache may not keep needs no more", virtual(func(t *testing.T) {
		// RFC 9213 lets a targeted field overrule even no-store.
		s := newSite(t, steady)
		s.backend.say(tagged("1", "Cache-Control: no-store", "CDN-Cache-Control: max-age=60"))
		s.get("/", waits(5)).wantsField("Cache-Control", "no-store").wantsField("CDN-Cache-Control", "")
		s.get("/", has("1"), waits(5)).wantsField("Cache-Control", "no-store").wantsField("CDN-Cache-Control", "")
	}))

	t.Run("what handlers in front set", virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_parked 1")
		s.before = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=3600")
			w.Header().Set("CDN-Cache-Control", "max-age=60")
		}
		s.get("/", waits(5)).wantsField("Cache-Control", "no-cache").wantsField("CDN-Cache-Control", "")
		s.get("/", has("1"), waits(5)).wantsField("Cache-Control", "no-cache").wantsField("CDN-Cache-Control", "")
		s.get("/").wantsField("Cache-Control", "max-age=3600").wantsField("CDN-Cache-Control", "max-age=60")
		// Nor do they matter where there is no answer of the backend's, or not yet.
		c := s.get("/", has("1"))
		c.mustWait()
		s.get("/", has("1")).wants("503 refused").wantsField("Cache-Control", "no-cache").wantsField("CDN-Cache-Control", "")
		s.backend.say(func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(http.StatusNotFound, io.EOF) })
		c.wants("404 changed").wantsField("Cache-Control", "no-cache").wantsField("CDN-Cache-Control", "")
		s.backend.say(unreachable)
		s.get("/other", has("1")).wants("502 failed").wantsField("Cache-Control", "no-cache").wantsField("CDN-Cache-Control", "")
	}))

	t.Run("what handlers in front set, and a configured answer", virtual(func(t *testing.T) {
		s := newSite(t, steady+"on_change 200 yes\non_timeout 200 no")
		s.before = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=3600")
			w.Header().Set("CDN-Cache-Control", "max-age=60")
		}
		s.get("/", has("0")).wants("200 answered yes").wantsField("Cache-Control", "no-cache").wantsField("CDN-Cache-Control", "")
		s.get("/", has("1"), waits(3)).wants("200 expired no").wantsField("Cache-Control", "no-cache").wantsField("CDN-Cache-Control", "")
	}))

	t.Run("of the latest answer, a 304 of the backend's too", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(sequence(tagged("1", "X-Left: 2"), tagged("1", "X-Left: 1"), tagged("1", "X-Left: 0")))
		s.get("/", has("1")).wants("304 expired").wantsField("X-Left", "0")
	}))

	t.Run("an error bears no-cache too", virtual(func(t *testing.T) {
		// RFC 9110 lets a cache keep a 404 by itself.
		s := newSite(t, steady)
		s.backend.say(reply(404, "none", "CDN-Cache-Control: max-age=60"))
		s.get("/", has("1")).wants("404 answered none").wantsField("Cache-Control", "no-cache").wantsField("CDN-Cache-Control", "")
		s.get("/").wants("404 answered none").wantsField("Cache-Control", "").wantsField("CDN-Cache-Control", "max-age=60")
		s.backend.say(reply(503, "later", "Cache-Control: max-age=60", "CDN-Cache-Control: max-age=60"))
		s.get("/other", has("1")).wants("503 failed later").wantsField("Cache-Control", "no-cache").wantsField("CDN-Cache-Control", "")
	}))
}
