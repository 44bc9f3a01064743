package state

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// The backend's answer, and what is asked of it, can be anything.
func FuzzMember(f *testing.F) {
	f.Add([]byte(`{"a":{"b":[1,2]}}`), "a.b.#", "gzip")
	f.Add([]byte(`[`), "#(a==1).@this|@pretty", "zstd")
	f.Add([]byte(strings.Repeat("[", 1000)+strings.Repeat("]", 1000)), "0.0", "")
	f.Add([]byte{0x1f, 0x8b, 8}, "a", "gzip")
	f.Fuzz(func(t *testing.T, body []byte, path, coding string) {
		a := Overheard(200, http.Header{"Content-Encoding": {coding}}, body, 1<<10)
		plain := a.Plain()
		if len(plain) > maxExpansion<<10 && !bytes.Equal(plain, body) {
			t.Errorf("got %d bytes of %d", len(plain), len(body))
		}
		s := &State{Source: a}
		got := s.JSON(path)
		if !validJSON(plain) && got != "" {
			t.Errorf("%q: got %q of what is no JSON", body, got)
		}
		if again := s.JSON(path); again != got {
			t.Errorf("got %q, then %q", got, again)
		}
		tag := httphdr.WeakTag(got)
		if !httpguts.ValidHeaderFieldValue(tag) || !strings.HasPrefix(tag, `W/"`) || len(httphdr.SplitTags(tag)) != 1 || strings.Contains(httphdr.Opaque(tag), `"`) {
			t.Errorf("%q: got tag %s", got, tag)
		}
	})
}

// FuzzMatches: whatever a client names, what it is compared with is one tag, and the
// comparison is weak.
func FuzzMatches(f *testing.F) {
	for _, field := range []string{"", "*", `"1"`, `W/"1", "2"`, `"1-gzip"`, `"a,b","c"`, `,, "1" ,`, `"`, `1, 2`, "\"\xff\""} {
		f.Add(field, "gzip")
	}
	f.Fuzz(func(t *testing.T, field, coding string) {
		tags := httphdr.SplitTags(field)
		strong := &State{ETag: `"1"`, Answer: &Answer{Header: http.Header{"Content-Encoding": {coding}}}}
		weak := &State{ETag: `W/"1"`, Answer: strong.Answer}
		got := strong.Matches(tags)
		if got != weak.Matches(tags) {
			t.Errorf("%q: got %v of a strong tag, and else of a weak one", field, got)
		}
		if slices.Contains(tags, "*") || slices.Contains(tags, `"1"`) || slices.Contains(tags, `W/"1"`) {
			if !got {
				t.Errorf("%q: got that it is another", field)
			}
		}
		if got && !strings.ContainsAny(field, "1*") {
			t.Errorf("%q: got that it is the same", field)
		}
		if (&State{}).Matches(tags) != slices.Contains(tags, "*") {
			t.Errorf("%q: got else of a state without a tag", field)
		}
	})
}
