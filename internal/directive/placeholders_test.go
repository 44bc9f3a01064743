package directive_test

import (
	"strings"
	"testing"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
)

func TestPlaceholders(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                "",
		"no placeholder":                  "",
		"{host} {lp} {lpx.a} {query.lp.}": "",
		"{lp.status}{lp.etag}{lp.hash}{lp.version}{lp.body}{lp.outcome}{lp.held}": "",
		"{http.long_poll.status} {http.long_poll.json.a.b}":                       "",
		"{lp.header.X-Rev} {lp.json.items.#(a==\"b c\").id}":                      "",
		`{lp.json.a\.b} {lp.json.a\}b}`:                                           "",
		"{lp.request.json.a.b} {lp.request.form.a.b}":                             "",
		"{lp.request.query_json.n.0.id}":                                          "",
		`\{lp.state}`:                                                             "",
		"{lp.state":                                                               "",
		"{lp.state}":                                                              "{lp.status}",
		"{lp.}":                                                                   "{lp.etag}",
		"a {lp.status} {lp.jsn.items}":                                            "{lp.json.items}",
		"{http.long_poll.jsn.items}":                                              "{http.long_poll.json.items}",
		"{a{lp.Header.X-Rev}":                                                     "{lp.header.X-Rev}",
		"{lp.json}":                                                               "{lp.json.PATH}",
		"{lp.json.}":                                                              "{lp.json.PATH}",
		"{lp.status.code}":                                                        "{lp.status}",
		"{lp.request.jason.a.b}":                                                  "{lp.request.json.a.b}",
		"{lp.request.query_json.n}":                                               "{lp.request.query_json.n.PATH}",
		"{lp.request.query_json..a}":                                              "{lp.request.query_json.NAME.a}",
	} {
		got := ""
		if err := directive.Placeholders(map[string][]string{"a": {""}, "since": {text}}); err != nil {
			got = err.Error()
		}
		if want == "" && got != "" || !strings.HasSuffix(got, want) && !strings.HasSuffix(got, `such as "`+want+`"`) {
			t.Errorf("%s: got %s, want %q", text, got, want)
		}
		if got != "" && !strings.HasPrefix(got, `since: unknown placeholder "{`) {
			t.Errorf("%s: got %s", text, got)
		}
	}
}

// What looks like one of ours, and is none, comes with the one that it was meant to be.
func TestLookalikes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"{lp.json.a} {http.long_poll.json.a}": "",
		"{lpx.json.a} {query.lp.a}":           "",
		"{long_poll.json.a}":                  "a {long_poll.json.a}: expected {lp.json.a}",
		"{longpoll.jsn.items}":                "a {longpoll.jsn.items}: expected {lp.json.items}",
		"{http.lp.status}":                    "a {http.lp.status}: expected {lp.status}",
		"{http.longpoll.version}":             "a {http.longpoll.version}: expected {lp.version}",
		"{LP.Version}":                        "a {LP.Version}: expected {lp.version}",
	} {
		got := strings.Join(directive.Unresolved(func(p string) string { return p }, map[string][]string{"a": {text}}), "; ")
		if got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestNeverTag(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		since string
		given []string
		want  bool
	}{
		{"", nil, false},
		{"{query.index}", nil, true},
		{"{http.request.uri.query.index}", []string{"{lp.json.rev}", "version"}, true},
		{"{header.If-Modified-Since}", nil, true},
		{"7", nil, true},
		{"{query.last_etag}", nil, false},
		{"{header.X-ETag}", nil, false},
		{"{header.If-None-Match}", nil, false},
		{"{http.request.header.if-none-match}", nil, false},
		{"{query.if_none_match}", nil, false},
		{"{lp.request.json.contentHash}", nil, false},
		{"{query.index}", []string{"{lp.hash}"}, false},
		{"{query.index}", []string{"a", `{"next": "{http.long_poll.version}"}`}, false},
		{"{query.index}", []string{"{lp.etag}"}, false},
		{"{query.index}", []string{"{lp.header.ETag}"}, false},
	} {
		if got := directive.NeverTag(test.since, test.given); got != test.want {
			t.Errorf("%s, given %q: got %v", test.since, test.given, got)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"hold", "hold_while", "vary"}
	for name, want := range map[string]string{"hodl": "hold", "hold-while": "hold_while", "VARY": "vary", "": "hold"} {
		if got := directive.Nearest(name, known); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	if got := directive.Nearest("a", nil); got != "" {
		t.Errorf("of none: got %s", got)
	}
}

// Whatever is read, what the error offers in its place is accepted.
func FuzzPlaceholders(f *testing.F) {
	f.Add("{lp.jsn.items}")
	f.Add("{http.long_poll.request.query_json..a}")
	f.Add(`{lp.\{}`)
	f.Fuzz(func(t *testing.T, text string) {
		err := directive.Placeholders(map[string][]string{"since": {text}})
		if err == nil {
			return
		}
		_, quoted, found := strings.Cut(err.Error(), ", such as ")
		if !found || strings.Contains(quoted, `\`) {
			return // quoting is not to be undone here
		}
		if err := directive.Placeholders(map[string][]string{"since": {strings.Trim(quoted, `"`)}}); err != nil {
			t.Errorf("%q: what is offered is refused: %v", text, err)
		}
	})
}
