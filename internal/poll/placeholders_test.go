package poll

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// What a configuration may take from long_poll is what polls and states resolve: directive
// has a list of its own, since it touches nothing of this module.
func TestPlaceholdersAreJudged(t *testing.T) {
	s := &Subject{Request: httptest.NewRequest("GET", "/", nil)}
	for _, name := range []string{
		"status", "etag", "hash", "version", "body", "outcome", "held", "header.ETag", "json.a.b",
		"request.json.a", "request.form.a", "request.query_json.a.b",
		"", "statuses", "request", "request.header.A", "cookie.a", "jsonx.a",
	} {
		_, resolved := s.Placeholder(new(state.Rules), nil, "lp."+name)
		err := directive.Placeholders(map[string][]string{"since": {"{lp." + name + "}"}})
		if resolved != (err == nil) {
			t.Errorf("lp.%s: resolved %v, judged %v", name, resolved, err)
		}
	}
}

// A form is read in both ways in which it may be written.
func TestFormField(t *testing.T) {
	parts := func(text string) string { return strings.ReplaceAll(text, "\n", "\r\n") }
	const of = "multipart/form-data; boundary=x"
	one := parts("--x\nContent-Disposition: form-data; name=\"offset\"\n\n7\n--x\nContent-Disposition: form-data; name=\"offset\"\n\n8\n--x--\n")
	for _, test := range []struct{ kind, body, want string }{
		{"application/x-www-form-urlencoded", "a=1&offset=7&offset=8", "7"},
		{"", "offset=7", "7"},
		{"text/plain", "offset=7%2B", "7+"},
		{of, one, "7"},
		{"Multipart/Form-Data;boundary=\"x\"", one, "7"},
		{of, parts("--x\nContent-Disposition: form-data; name=\"offset\"; filename=\"a\"\n\n7\n--x--\n"), ""},
		{of, parts("--x\nContent-Disposition: form-data; name=\"offset\"\n\n7"), "7"}, // cut off
		{of, strings.Repeat(parts("--x\nContent-Disposition: form-data; name=\"a\"\n\n7\n"), maxParts) + one, ""},
		{of, "offset=7", ""},
		{"multipart/form-data", one, ""},
		{"multipart/mixed; boundary=x", one, ""},
		{of, "", ""},
	} {
		if got := formField(test.kind, []byte(test.body), "offset"); got != test.want {
			t.Errorf("%s %q: got %q; want %q", test.kind, test.body, got, test.want)
		}
	}
}

func FuzzFormField(f *testing.F) {
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n7\r\n--x--"), "a")
	f.Add("", []byte("a=7"), "a")
	f.Fuzz(func(t *testing.T, kind string, body []byte, name string) {
		if got := formField(kind, body, name); len(got) > len(body) {
			t.Errorf("got %q of %q", got, body)
		}
	})
}
