package check

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// No value reaches beyond the part of the URI that it stands in.
func FuzzProbeURL(f *testing.F) {
	for _, value := range []string{"", "a", "a b", "/", "..", ".", "../../x", "a/b", "?x=1", "#x", "&x=1", "=", "%2f", "//evil.example/x", "\\", "\x00", "\xff", "a;b", "{v}", "http://evil.example/"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		repl := caddy.NewEmptyReplacer()
		repl.Set("v", value)
		u, err := probeURL("/rev/{v}/x?a={v}&b=2", repl)
		if err != nil {
			return // not asked at all
		}
		if u.Host != "" || u.Scheme != "" || u.Fragment != "" || u.Opaque != "" || u.User != nil {
			t.Fatalf("%q: got %+v", value, u)
		}
		escaped := u.EscapedPath()
		if !strings.HasPrefix(escaped, "/rev/") || !strings.HasSuffix(escaped, "/x") || strings.Count(escaped, "/") != 3 {
			t.Fatalf("%q: got path %s", value, escaped)
		}
		if part := strings.Split(escaped, "/")[2]; part == ".." || part == "." {
			t.Fatalf("%q: got path %s, which climbs", value, escaped)
		}
		query, err := url.ParseQuery(u.RawQuery)
		if err != nil || len(query) != 2 || query.Get("a") != value || query.Get("b") != "2" {
			t.Fatalf("%q: got query %s, %v", value, u.RawQuery, err)
		}
		// As it goes over the wire.
		if again, err := url.ParseRequestURI(u.RequestURI()); err != nil || again.EscapedPath() != escaped {
			t.Fatalf("%q: got %s, which reads as %v, %v", value, u.RequestURI(), again, err)
		}

		repl = caddy.NewEmptyReplacer()
		repl.Set("http.request.uri.path", value)
		u, err = probeURL("{http.request.uri.path}", repl)
		if err != nil {
			return
		}
		if u.Host != "" || u.Scheme != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.Path != value {
			t.Fatalf("path %q: got %+v", value, u)
		}
	})
}

// FuzzProbeRequest: whatever a client asks, the probe that goes to the backend is
// one request, of the path that the configuration has.
func FuzzProbeRequest(f *testing.F) {
	for _, text := range []string{"", "7", "a b", "..", ".", "../secret", "a/../../secret", "/", "//", "?x=1", "&x=1", "#", "%2e%2e", "%", ";", "\r\nX: y", " HTTP/1.0\r\n\r\n", "\x00", "\xff", "{path}", "http://elsewhere/"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, asked string) {
		r := httptest.NewRequest(http.MethodGet, "/?"+url.Values{"v": {asked}}.Encode(), nil)
		r.URL.Path, r.URL.RawPath = "/"+asked, ""
		repl := caddy.NewReplacer()
		caddyhttp.PrepareRequest(r, repl, nil, nil)
		repl.Set("of", "/rev/7")
		for _, test := range []struct {
			uri     string
			slashes int // in its path; -1 if the client's are its own, -2 if all of it is
		}{
			{"/rev/{http.request.uri.query.v}/x?of={http.request.uri.query.v}&b=2", 3},
			{"/rev/{http.request.uri}?of={http.request.uri.path}&b=2", 2},
			{"/rev{http.request.uri.path}?of={http.request.uri.query.v}&b=2", -1},
			{"/rev{http.request.orig_uri.path}?of=7&b=2&{http.request.uri.query}", -1},
			{"/rev{http.request.uri.path.dir}?of=7&b=2", -1},
			{"{of}?of=7&b=2", 2},
			{"{http.request.uri.path.dir}/rev/?of=7&b=2", -2},
		} {
			u, err := probeURL(test.uri, repl)
			if err != nil {
				continue // not asked at all
			}
			line := "GET " + u.RequestURI() + " HTTP/1.1\r\nHost: backend\r\n\r\n"
			rest := bufio.NewReader(strings.NewReader(line))
			got, err := http.ReadRequest(rest)
			if err != nil {
				t.Fatalf("%q with %q: got a request that can not be read: %v", test.uri, asked, err)
			}
			if rest.Buffered() > 0 || len(got.Header) > 0 || got.Host != "backend" || got.URL.Host != "" {
				t.Fatalf("%q with %q: got %q", test.uri, asked, line)
			}
			path := got.URL.EscapedPath()
			if test.slashes > -2 && !strings.HasPrefix(path, "/rev/") || test.slashes >= 0 && strings.Count(path, "/") != test.slashes {
				t.Errorf("%q with %q: got path %s", test.uri, asked, path)
			}
			if slices.ContainsFunc(strings.FieldsFunc(got.URL.Path, func(r rune) bool { return r == '/' || r == '\\' }), climbs) {
				t.Errorf("%q with %q: got path %s, which climbs", test.uri, asked, path)
			}
			if query := got.URL.Query(); query.Get("b") != "2" || len(query["of"]) != 1 {
				t.Errorf("%q with %q: got query %s", test.uri, asked, got.URL.RawQuery)
			}
		}
	})
}

func climbs(segment string) bool { return segment == "." || segment == ".." }
