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

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
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
		b := NewBody(&Reply{Status: 200, Body: before + "{v}" + after})
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
	re := &Writer{Header: http.Header{
		"X-Query":   {"{http.request.uri.query.v}"},
		"X-Version": {"<{lp.version}>", "{lp.header.X-Said}"},
		"X-Json":    {"{lp.json.v} {lp.body}"},
		"X-Asked":   {"{lp.request.json.v}{lp.request.form.v}{lp.request.query_json.j.v}"},
	}}
	rules := &poll.Rules{Version: "{lp.json.v}", Share: new(share.Rules), State: &state.Rules{Configured: true}}
	answers := []*Body{
		NewBody(&Reply{Status: 200, Body: `[{"name":"{lp.request.query_json.j.v}","version":"{lp.version}","raw":{lp.json.v},"asked":"{http.request.uri.query.v}"}]`}),
		NewBody(&Reply{Status: 200, Body: "{lp.body}\n{lp.request.json.v}"}),
		NewBody(&Reply{Status: 304}),
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
			s := &state.State{Source: &state.Answer{
				Status: 200, Body: body,
				Header: http.Header{"X-Said": {said}, "Content-Type": {"text/html"}},
			}}
			s.Version = state.Version{Status: 200, Text: s.JSON("v")}
			p := rules.New(r)
			p.Body, p.Told, p.Outcome = j, &state.Reading{State: s}, poll.Changed
			if err := re.body(p, w, b); err != nil {
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
				if _, ours := re.Header[name]; !ours && !slices.Contains(known, name) {
					t.Errorf("asked %q, said %q: got a field %s", asked, said, name)
				}
			}
			for name, values := range re.Header {
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
			if got := news[0]; got.Version != s.JSON("v") || !sameText(got.Asked, asked, strings.ToValidUTF8(asked, "\ufffd")) {
				t.Errorf("asked %q, said %q: got %+v", asked, said, got)
			}
		}
	})
}

// Whatever a value is, it can neither end a string nor add a member next to the
// place that it stands in.
func FuzzReplyJSON(f *testing.F) {
	for _, value := range []string{"", "7", `"`, `\`, `","b":"`, `1,"b":2`, `{"b":1}`, "[1]", "null", "\x00\xff\u2028", "{a}", "1e999", "true", " 1 ", "-", "1 2"} {
		f.Add(value)
	}
	bodies := []string{
		`{"a":"{v}","b":{v},"c":["{v}",{v}],"d":"x{v}y"}`,
		`"{v}{v}"`,
		`[{v}]`,
		`{"{v}":1}`,
		`{"a":1{v}}`,
		`{"a":-{v}}`,
		`{"a":[1,{v}2]}`,
		`{"a":"\\{v}"}`,
		`{"a":{"b":{v}}}`,
	}
	f.Fuzz(func(t *testing.T, value string) {
		repl := caddy.NewEmptyReplacer()
		repl.Set("v", value)
		for _, text := range bodies {
			b := NewBody(&Reply{Status: 200, Body: text})
			got, kind := b.render(repl)
			if !b.json {
				if kind == "application/json" {
					t.Errorf("%s: got %s, which is said to be JSON", text, got)
				}
				continue
			}
			if !json.Valid(got) || kind != "application/json" {
				t.Fatalf("%s with %q: got %s as %s", text, value, got, kind)
			}
			if a, b := shape(got), shape([]byte(strings.ReplaceAll(text, "{v}", "0"))); a > b && !json.Valid([]byte(value)) {
				t.Fatalf("%s with %q: got %s, which has another shape", text, value, got)
			}
		}
		// It can be read again for what it was.
		got, _ := NewBody(&Reply{Status: 200, Body: bodies[0]}).render(repl)
		var v struct{ A, D string }
		want := strings.ToValidUTF8(value, "\ufffd")
		if err := json.Unmarshal(got, &v); err != nil || !sameText(v.A, value, want) || !sameText(v.D, "x"+value+"y", "x"+want+"y") {
			t.Errorf("%q: got %q and %q, %v", value, v.A, v.D, err)
		}
	})
}

// sameText compares what JSON can hold of a text: each byte that is no UTF-8 becomes
// a replacement character, or a run of them does.
func sameText(got, a, b string) bool {
	squeeze := func(s string) string {
		s = strings.ToValidUTF8(s, "\ufffd")
		for strings.Contains(s, "\ufffd\ufffd") {
			s = strings.ReplaceAll(s, "\ufffd\ufffd", "\ufffd")
		}
		return s
	}
	return got == a || squeeze(got) == squeeze(b)
}

// shape counts what gives JSON its structure.
func shape(text []byte) (n int) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	for {
		if _, err := dec.Token(); err != nil {
			return n
		}
		n++
	}
}
