package reply

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// FuzzTemplate: whatever a template looks like around its placeholder, what was
// taken for JSON stays JSON, of the same shape.
func FuzzTemplate(f *testing.F) {
	for _, around := range [][2]string{
		{`{"a":"`, `"}`}, {`{"a":`, `}`}, {`[`, `,1]`}, {`"\`, `n"`}, {`"\u00`, `41"`}, {`"\\`, `"`}, {`"\"`, `"`}, {`{"`, `":1}`}, {`{`, `}`}, {``, ``}, {`1`, ``}, {`-`, `e1`},
		{`"a" `, ` "b"`}, {"[\n", "\t]"}, {`["{w}",`, `]`}, {`["\{w}`, `"]`},
	} {
		for _, value := range []string{`"`, `\`, `1`, `","x":"`, ``, `zz`} {
			f.Add(around[0], around[1], value)
		}
	}
	f.Fuzz(func(t *testing.T, before, after, value string) {
		repl := caddy.NewEmptyReplacer()
		repl.Set("v", value)
		repl.Set("w", value)
		b := newBody(&Reply{Status: 200, Body: before + "{v}" + after})
		got, kind := b.render(repl)
		if !b.json {
			if kind == "application/json" {
				t.Errorf("%q{v}%q: got %q, which is said to be JSON", before, after, got)
			}
			return
		}
		if kind != "application/json" || !json.Valid(got) {
			t.Fatalf("%q{v}%q with %q: got %q as %q", before, after, value, got, kind)
		}
		repl.Set("v", "-")
		repl.Set("w", "-")
		if plain, _ := b.render(repl); shape(got) != shape(plain) && !json.Valid([]byte(value)) {
			t.Fatalf("%q{v}%q with %q: got %q, which has another shape than %q", before, after, value, got, plain)
		}
	})
}

// FuzzInjection: nothing that a client asks or a backend says can add a field to an
// answer or end it early, whichever placeholder brings it there.
func FuzzInjection(f *testing.F) {
	for _, text := range []string{"", "7", "a\r\nSet-Cookie: x=1", "\r\n\r\nHTTP/1.1 200 OK", "\n", "\x00", "\u2028", "\xff", `"`, `\`, `","notificationId":"`, "{lp.version}", "{env.HOME}"} {
		f.Add(text, text)
	}
	h := &Handler{
		Header: http.Header{
			"X-Query":   {"{http.request.uri.query.v}"},
			"X-Version": {"<{lp.version}>", "{lp.header.X-Said}"},
			"X-Json":    {"{lp.json.v} {lp.body}"},
			"X-Asked":   {"{lp.request.json.v}{lp.request.form.v}{lp.request.query_json.j.v}"},
		},
		Version: "{lp.json.v}",
	}
	answers := []*body{
		newBody(&Reply{Status: 200, Body: `[{"name":"{lp.request.query_json.j.v}","version":"{lp.version}","raw":{lp.json.v},"asked":"{http.request.uri.query.v}"}]`}),
		newBody(&Reply{Status: 200, Body: "{lp.body}\n{lp.request.json.v}"}),
		newBody(&Reply{Status: 304}),
	}
	f.Fuzz(func(t *testing.T, asked, said string) {
		j, err := json.Marshal(map[string]string{"v": asked})
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(map[string]string{"v": said})
		if err != nil {
			t.Fatal(err)
		}
		query := url.Values{"v": {asked}, "j": {string(j)}}
		for _, b := range answers {
			w := httptest.NewRecorder()
			repl := caddy.NewReplacer()
			r := caddyhttp.PrepareRequest(httptest.NewRequest(http.MethodGet, "/?"+query.Encode(), nil), repl, w, nil)
			s := &state{seen: &answer{
				status: 200, body: body, plain: func() []byte { return body },
				header: http.Header{"X-Said": {said}, "Content-Type": {"text/html"}},
			}}
			s.version = version{200, s.json("v")}
			q := h.question(r)
			q.body, q.state, q.outcome = j, s, changed
			if err := q.reply(w, b); err != nil {
				t.Fatal(err)
			}

			var wire bytes.Buffer
			sent := w.Result()
			if err := sent.Write(&wire); err != nil {
				t.Fatal(err)
			}
			rest := bufio.NewReader(&wire)
			got, err := http.ReadResponse(rest, r)
			if err != nil {
				t.Fatalf("asked %q, said %q: got an answer that can not be read: %v", asked, said, err)
			}
			for name := range got.Header {
				known := []string{"Cache-Control", "Connection", "Content-Length", "Content-Type", "Etag", "Long-Poll"}
				if _, ours := h.Header[name]; !ours && !slices.Contains(known, name) {
					t.Errorf("asked %q, said %q: got a field %s", asked, said, name)
				}
			}
			for name, values := range h.Header {
				if len(got.Header[name]) != len(values) {
					t.Errorf("asked %q, said %q: got %s %q", asked, said, name, got.Header[name])
				}
			}
			text, err := io.ReadAll(got.Body)
			if err != nil {
				t.Fatal(err)
			}
			if left, _ := io.ReadAll(rest); len(left) > 0 {
				t.Errorf("asked %q, said %q: got %q after the end of the answer", asked, said, left)
			}
			if !b.json {
				continue
			}
			var news []struct {
				Name, Version, Asked string
				Raw                  any
			}
			dec := json.NewDecoder(bytes.NewReader(text))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&news); err != nil || len(news) != 1 {
				t.Fatalf("asked %q, said %q: got %s, %v", asked, said, text, err)
			}
			if got := news[0]; got.Version != s.json("v") || !sameText(got.Asked, asked, strings.ToValidUTF8(asked, "\ufffd")) {
				t.Errorf("asked %q, said %q: got %+v", asked, said, got)
			}
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
		for _, test := range []struct {
			uri     string
			slashes int // in its path; -1 if the client's are its own
		}{
			{"/rev/{http.request.uri.query.v}/x?of={http.request.uri.query.v}&b=2", 3},
			{"/rev/{http.request.uri}?of={http.request.uri.path}&b=2", 2},
			{"/rev{http.request.uri.path}?of={http.request.uri.query.v}&b=2", -1},
			{"/rev{http.request.orig_uri.path}?of=7&b=2&{http.request.uri.query}", -1},
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
			if !strings.HasPrefix(path, "/rev/") || test.slashes >= 0 && strings.Count(path, "/") != test.slashes {
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
