package contract_test

import (
	"strings"
	"testing"
	"time"
)

// A backend may code its answer whatever it is asked for: files that lie there compressed,
// a framework that always does. net/http's transport undoes that for clients that say
// nothing of codings, and a check asks for none on their behalf: they get what they would
// without us.
func TestCodingThatNobodyAskedFor(t *testing.T) {
	for _, accept := range []string{"", "Accept-Encoding: identity", "Accept-Encoding: br", "Accept-Encoding: gzip;q=0"} {
		t.Run("is undone for "+accept, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(reply(200, gzipped(`{"v":1}`), "Content-Encoding: gzip", `ETag: "1"`))
			s.get("/", waits(5), accept).wants(`200 answered {"v":1}`).wantsField("Content-Encoding", "").wantsField("ETag", `"1"`)
			c := s.get("/", has("1"), accept)
			c.mustWait()
			s.backend.say(reply(200, gzipped(`{"v":2}`), "Content-Encoding: gzip", `ETag: "2"`))
			c.wants(`200 changed {"v":2}`).wantsField("Content-Encoding", "").wantsField("Content-Length", "7")
		}))
	}

	t.Run("stays for who takes it", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(reply(200, gzipped("state"), "Content-Encoding: gzip"))
		s.get("/", waits(5), "Accept-Encoding: gzip").wants("200 answered "+gzipped("state")).wantsField("Content-Encoding", "gzip")
	}))

	t.Run("stays where it is unknown", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		for _, coding := range []string{"br", "zstd", "gzip", "gzip, gzip"} {
			s.backend.say(reply(200, "no gzip", "Content-Encoding: "+coding))
			s.get("/", waits(5)).wants("200 answered no gzip").wantsField("Content-Encoding", coding)
			settle(2 * time.Second)
		}
	}))

	t.Run("makes no other version", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(reply(200, gzipped("state"), "Content-Encoding: gzip"))
		coded := s.get("/", waits(5), "Accept-Encoding: gzip").field("ETag")
		if plain := s.get("/", waits(5)).field("ETag"); plain != coded || plain == "" {
			t.Errorf("got the ETag %q, and %q coded", plain, coded)
		}
		s.get("/", "If-None-Match: "+coded).wants("304 expired")
	}))

	t.Run("is passed on where it hides what is too large", virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_body 1KiB")
		s.backend.say(reply(200, gzipped(strings.Repeat("a", 2000)), "Content-Encoding: gzip"))
		c := s.get("/", waits(5))
		if c.answer(); c.outcome() != "bypassed" {
			t.Errorf("got %v", c)
		}
		s.get("/", waits(5), "Accept-Encoding: gzip").wantsField("Content-Encoding", "gzip")
	}))
}
