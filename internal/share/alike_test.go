package share

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// TestAlike: what is handed out is always what Carried and Traits say, and the same header
// once where it is short and of no single client.
func TestAlike(t *testing.T) {
	ru, _ := New(Config{UserAgent: "checks"})
	get := func(path string, fields ...string) *http.Request {
		r := httptest.NewRequest("GET", path, nil)
		for i := 0; i < len(fields); i += 2 {
			r.Header.Add(fields[i], fields[i+1])
		}
		return r
	}
	many := func() (fields []string) {
		for i := range maxAlike + 1 {
			fields = append(fields, fmt.Sprint("X-", i), "1")
		}
		return fields
	}()
	for name, c := range map[string]struct {
		fields []string
		once   bool
	}{
		"none":           {nil, true},
		"some":           {[]string{"Accept", "text/html", "X-A", "1", "X-A", "2"}, true},
		"ours":           {[]string{"If-None-Match", `"1"`, "User-Agent", "curl"}, true},
		"a cookie":       {[]string{"Cookie", "session=secret"}, false},
		"authorization":  {[]string{"Authorization", "Bearer secret"}, false},
		"another secret": {[]string{"X-Api-Key", "secret"}, false},
		"a long one":     {[]string{"X-A", strings.Repeat("a", maxAlikeText+1)}, false},
		"many":           {many, false},
	} {
		t.Run(name, func(t *testing.T) {
			var al Alike
			var before http.Header
			for i := range 3 {
				r := get(fmt.Sprint("/orders/", i), c.fields...)
				header := al.Carried(ru, r, &Asker{}, nil)
				if want := ru.Carried(r, &Asker{}, nil); !maps.EqualFunc(header, want, slices.Equal) {
					t.Errorf("got %v; want %v", header, want)
				}
				if once := fmt.Sprintf("%p", before) == fmt.Sprintf("%p", header); i > 0 && once != c.once {
					t.Errorf("header %d: got %v that it is kept once", i, once)
				}
				before = header
				r.Header.Set("Accept", "changed") // it is the server's when the request has ended
				r = get("/orders/1?a=1", c.fields...)
				if got, want := al.Traits(r), Traits(r); !slices.Equal(got, want) {
					t.Errorf("got traits %v; want %v", got, want)
				}
			}
			if !c.once && al.header.Load() != nil {
				t.Errorf("kept %v", *al.header.Load())
			}
			if other := al.Carried(ru, get("/", "X-Other", "2"), &Asker{}, nil); other.Get("X-Other") != "2" || len(before["X-Other"]) > 0 {
				t.Errorf("got %v for another, and %v", other, before)
			}
			if got := al.Traits(get("/", "X-Other", "2")); slices.Equal(got, al.Traits(get("/", "X-Other", "3"))) {
				t.Errorf("got traits %v of two", got)
			}
		})
	}
}
