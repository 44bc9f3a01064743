package share

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// What is kept of a request is small, whatever its client sends, always the same, and
// tells what has changed as far as it is kept.
func TestTraitsAreBounded(t *testing.T) {
	request := func(change string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/?"+strings.Repeat("a=b&", 1000), nil)
		for i := range 3000 {
			r.URL.RawQuery += fmt.Sprintf("&p%d=1", i)
			r.Header.Set(fmt.Sprintf("X-%04d", i), "value")
		}
		r.Header.Set("X-"+strings.Repeat("Long", 1000), "value")
		r.Header.Set("X-2999", change)
		return r
	}
	one := Traits(request("one"))
	if len(one) > maxTraits+1 {
		t.Errorf("got %d traits; want at most %d", len(one), maxTraits+1)
	}
	for _, trait := range one {
		if len(trait.Name) > maxTraitName {
			t.Errorf("got a name of %d bytes", len(trait.Name))
		}
	}
	for range 5 {
		if again := Traits(request("one")); !slices.Equal(again, one) {
			t.Fatalf("got other traits of the same request: %v", Differ([][]Trait{one, again}))
		}
	}
	if got := Differ([][]Trait{one, Traits(request("two"))}); !slices.Equal(got, []string{rest}) {
		t.Errorf("got %q; want %q", got, rest)
	}
}

func TestDiffer(t *testing.T) {
	a, b, c := Trait{"a", 1}, Trait{"b", 1}, Trait{"c", 1}
	other := Trait{"b", 2}
	for _, test := range []struct {
		of   [][]Trait
		want string
	}{
		{nil, ""},
		{[][]Trait{{a, b}}, ""},
		{[][]Trait{{a, b}, {a, b}}, ""},
		{[][]Trait{{a, b}, {a, other}}, "b"},
		{[][]Trait{{a, b}, {a}}, "b"},
		{[][]Trait{{a}, {a, b}}, "b"},
		{[][]Trait{{a, b}, {a, b}, {a, b, c}}, "c"},
		{[][]Trait{{a}, {b}, {c}}, "a b c"},
		{[][]Trait{{}, {}}, ""},
	} {
		if got := strings.Join(Differ(test.of), " "); got != test.want {
			t.Errorf("%v: got %q; want %q", test.of, got, test.want)
		}
	}
}

// BenchmarkTraits is of what a poll of a service has.
func BenchmarkTraits(b *testing.B) {
	r := httptest.NewRequest(http.MethodGet, "/orders?since=7&limit=10", nil)
	for _, name := range []string{"Accept", "Accept-Encoding", "Authorization", "X-Tenant", "Accept-Language"} {
		r.Header.Set(name, "some value of it")
	}
	b.ReportAllocs()
	for b.Loop() {
		Traits(r)
	}
}
