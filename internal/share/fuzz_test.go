package share

import (
	"net/url"
	"slices"
	"testing"
)

func FuzzStripQuery(f *testing.F) {
	for _, query := range []string{"", "a=1", "a=1&b=2", "%61=1", "a", "&&", "a=1&a=2&c", "=x", "%zz=1", "b;a=1", "A=1"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		got := StripQuery(query, []string{"a", "x y"})
		if again := StripQuery(got, []string{"a", "x y"}); again != got {
			t.Errorf("%q: got %q, then %q", query, got, again)
		}
		if same := StripQuery(query, nil); same != query {
			t.Errorf("%q: got %q with nothing to strip", query, same)
		}
		before, _ := url.ParseQuery(query)
		after, _ := url.ParseQuery(got)
		delete(before, "a")
		delete(before, "x y")
		if len(before) != len(after) || after.Has("a") || after.Has("x y") {
			t.Errorf("%q: got %q", query, got)
		}
		for name, values := range before {
			if !slices.Equal(after[name], values) {
				t.Errorf("%q: got %q", query, got)
			}
		}
	})
}
