package state

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strings"
	"testing"
)

// contract 4
func TestMatchesTag(t *testing.T) {
	for _, test := range []struct {
		tags, mine string
		want       bool
	}{
		{`"v1"`, `"v1"`, true},
		{`W/"v1"`, `"v1"`, true},
		{`"v1-gzip"`, `"v1"`, true},
		{`W/"v1-br"`, `W/"v1"`, true},
		{`"v1"`, `"v1-gzip"`, true},
		{`"v1-br"`, `"v1-gzip"`, true},
		{`"v1--gzip"`, `"v1"`, true},
		{`"v0" "v1-zstd"`, `"v1"`, true},
		{"*", `"v1"`, true},
		{`"v2-gzip"`, `"v1"`, false},
		{`"v1-gzip"`, `"v1-gzip-gzip"`, true},
		{`"v1-rc"`, `"v1"`, false},
		{`"v"`, `"v1"`, false},
		{"", `"v1"`, false},
	} {
		if got := MatchesTag(strings.Fields(test.tags), test.mine); got != test.want {
			t.Errorf("%s of %s: got %v", test.tags, test.mine, got)
		}
	}
}

// contract 4
func TestIgnoreMatch(t *testing.T) {
	zip := func(text string) (string, http.Header) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write([]byte(text))
		z.Close()
		return b.String(), http.Header{"Content-Encoding": {"gzip"}, "Etag": {`"of this one"`}}
	}
	plain := func(text string) (string, http.Header) { return text, nil }
	for _, test := range []struct {
		ignore, expressions []string
		a, b                string
		equal               bool
	}{
		{nil, []string{"<lastBuildDate>[^<]*"}, "<lastBuildDate>1</lastBuildDate>x", "<lastBuildDate>2</lastBuildDate>x", true},
		{nil, []string{"<lastBuildDate>[^<]*"}, "<lastBuildDate>1</lastBuildDate>x", "<lastBuildDate>1</lastBuildDate>y", false},
		{nil, []string{"at [0-9]+", "by [a-z]+"}, "at 1 by a", "at 22 by b", true},
		{nil, []string{".*"}, "a", "b", true},
		{nil, []string{".*"}, "a", "a\n", false}, // less its newlines
		{nil, []string{"x*"}, "ab", "ab", true},
		{nil, []string{"$0"}, "$0", "", false}, // nothing is put in the place of what matches
		{[]string{"at"}, []string{`"by":"[a-z]*"`}, `{"at":1,"by":"a","v":1}`, `{"at":2,"by":"b","v":1}`, true},
		{[]string{"at"}, []string{`"by":"[a-z]*"`}, `{"at":1,"by":"a","v":1}`, `{"at":2,"by":"b","v":2}`, false},
	} {
		ru, err := NewRules(test.ignore, test.expressions)
		if err != nil {
			t.Fatal(err)
		}
		for name, made := range map[string]func(string) (string, http.Header){"plain": plain, "gzip": zip} {
			version := func(text string) Version {
				body, header := made(text)
				return ru.Version(NewAnswer(http.StatusOK, header, []byte(body), nil, 1<<20), "")
			}
			if got := version(test.a) == version(test.b); got != test.equal {
				t.Errorf("%q of %q and %q (%s): got %v", test.expressions, test.a, test.b, name, got)
			}
		}
	}

	if _, err := NewRules(nil, []string{"a(?=b)"}); err == nil || !strings.Contains(err.Error(), `ignore_match "a(?=b)"`) {
		t.Errorf("got the error %v", err)
	}
}

// contract 4: the version is never empty.
func TestVersionThatIsEmpty(t *testing.T) {
	ru := &Rules{Configured: true}
	of := func(etag, body, text string) string {
		header := make(http.Header)
		if etag != "" {
			header.Set("Etag", etag)
		}
		return ru.Version(NewAnswer(http.StatusOK, header, []byte(body), nil, 1<<20), text).Text
	}
	if got := of(`"e"`, "a", "7"); got != "7" {
		t.Errorf("got %q; want what is configured", got)
	}
	if got := of(`"e"`, "a", ""); got != `"e"` {
		t.Errorf("got %q; want the ETag", got)
	}
	if a, b := of("", "a", ""), of("", "b", ""); a == "" || a == b {
		t.Errorf("got %q and %q; want two hashes", a, b)
	}
}

// Members of what some servers call JSON.
func TestMember(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":{"b":7}}`:                       "7",
		"\xef\xbb\xbf" + `{"a":{"b":7}}`:      "7",
		"\xef\xbb\xbf\xef\xbb\xbf{\"a\":{}}":  "",
		`{"a":{"b":NaN}}`:                     "",
		")]}'\n" + `{"a":{"b":7}}`:            "",
		`f({"a":{"b":7}})`:                    "",
		`{"a":{"c":7}}`:                       "",
		`{"a":{"b":9007199254740993}}`:        "9007199254740993",
		`{"a":{"b":18446744073709551615}}`:    "18446744073709551615",
		`{"a":{"b":0.10000000000000000001}}`:  "0.10000000000000000001",
		`{"a":{"b":1.0}}`:                     "1",
		`{"a":{"b":1e3}}`:                     "1000",
		`{"a":{"b":-0.5}}`:                    "-0.5",
		`{"a":{"b":12345678901234567890123}}`: "12345678901234567890123",
		"":                                    "",
	} {
		if got := Member([]byte(text), "a.b"); got != want {
			t.Errorf("%q: got %q; want %q", text, got, want)
		}
	}
}
