package longpoll

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
)

// What clients and backends send can be anything.

func FuzzParseWait(f *testing.F) {
	for _, text := range []string{"", "0", "5", "1.5", "1e3", "5m", "1h2m3s", "-1", "-1s", "+1", "NaN", "inf", "0x1p4", "1_000", "99999999999999999999", "9223372036854775807ns", "soon", "5 s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		wait, ok := parseWait(text, time.Second)
		if ok && wait < 0 {
			t.Errorf("%q: got %v", text, wait)
		}
		ms, okMS := parseWait(text, time.Millisecond)
		if ok != okMS || ok && ms > wait {
			t.Errorf("%q: got %v, %v in seconds and %v, %v in milliseconds", text, wait, ok, ms, okMS)
		}
		if d, err := time.ParseDuration(text); err == nil && d >= 0 && strings.Trim(text, "0123456789+.") != "" && (!ok || wait != d) {
			t.Errorf("%q: got %v, %v; want %v", text, wait, ok, d)
		}
	})
}

func FuzzPreferWait(f *testing.F) {
	for _, field := range []string{"", "wait=5", `wait="5"`, "respond-async, WAIT = 5 ; a=b", `a="b, wait=1", wait=5`, `"`, ",;=", "wait", "wait=", "wait=5,wait=6"} {
		f.Add(field, "wait=7")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		text, ok := preferWait([]string{a, b})
		if !ok && text != "" || len(text) > max(len(a), len(b)) {
			t.Errorf("%q, %q: got %q, %v", a, b, text, ok)
		}
		if first, found := preferWait([]string{a}); found && (!ok || first != text) {
			t.Errorf("%q, %q: got %q, %v; want the first of them, %q", a, b, text, ok, first)
		}
	})
}

func FuzzSplitTags(f *testing.F) {
	for _, field := range []string{"", "*", `"1"`, `W/"1", "2"`, `"a,b","c"`, `,, "1" ,`, `"`, `1, 2`, "\"\xff\""} {
		f.Add(field)
	}
	f.Fuzz(func(t *testing.T, field string) {
		tags := splitTags(field)
		for _, tag := range tags {
			if tag == "" || tag != strings.Trim(tag, " \t") || !strings.Contains(field, tag) {
				t.Errorf("%q: got tag %q", field, tag)
			}
		}
		// What it splits it does not split again.
		if again := splitTags(strings.Join(tags, ", ")); !slices.Equal(again, tags) && strings.Count(field, `"`)%2 == 0 {
			t.Errorf("%q: got %q, and of these %q", field, tags, again)
		}
		s := &state{etag: `W/"1"`}
		s.matches(tags)
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
			b := newBody(&Reply{Status: 200, Body: text})
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
		got, _ := newBody(&Reply{Status: 200, Body: bodies[0]}).render(repl)
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

func FuzzFieldValue(f *testing.F) {
	for _, text := range []string{"", "a", "a\r\nSet-Cookie: x", "\x00", "\x7f", "\t", "\xff", "ü", "\u2028"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := fieldValue(text)
		if !httpguts.ValidHeaderFieldValue(got) {
			t.Errorf("%q: got %q", text, got)
		}
		if again := fieldValue(got); again != got {
			t.Errorf("%q: got %q, then %q", text, got, again)
		}
	})
}

func FuzzStripQuery(f *testing.F) {
	for _, query := range []string{"", "a=1", "a=1&b=2", "%61=1", "a", "&&", "a=1&a=2&c", "=x", "%zz=1", "b;a=1", "A=1"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		got := stripQuery(query, []string{"a", "x y"})
		if again := stripQuery(got, []string{"a", "x y"}); again != got {
			t.Errorf("%q: got %q, then %q", query, got, again)
		}
		if same := stripQuery(query, nil); same != query {
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

func FuzzRetryAfter(f *testing.F) {
	for _, text := range []string{"", "0", "5", "-5", "99999999999999999999", "Sat, 01 Jan 2000 00:00:10 GMT", "Sat, 01 Jan 9999 00:00:00 GMT", "soon", "1.5", " 7 "} {
		f.Add(text, text)
	}
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, after, interval string) {
		header := http.Header{"Retry-After": {after}, "X-Poll-Interval": {interval}}
		got := retryAfter(header, now)
		if got < 0 || got < retryAfter(http.Header{"Retry-After": {after}}, now) {
			t.Errorf("%q and %q: got %v", after, interval, got)
		}
		s := &state{seen: &answer{header: header}, ended: now, pause: time.Second}
		if at := due(s); at.Before(now.Add(got)) || at.Before(now.Add(time.Second)) {
			t.Errorf("%q and %q: got a check at %v; want none for %v", after, interval, at, got)
		}
	})
}

// The backend's answer, and what is asked of it, can be anything.
func FuzzMember(f *testing.F) {
	f.Add([]byte(`{"a":{"b":[1,2]}}`), "a.b.#", "gzip")
	f.Add([]byte(`[`), "#(a==1).@this|@pretty", "zstd")
	f.Add([]byte(strings.Repeat("[", 1000)+strings.Repeat("]", 1000)), "0.0", "")
	f.Add([]byte{0x1f, 0x8b, 8}, "a", "gzip")
	f.Fuzz(func(t *testing.T, body []byte, path, coding string) {
		plain := decoder(coding, body, 1<<10)()
		if len(plain) > maxExpansion<<10 && !bytes.Equal(plain, body) {
			t.Errorf("got %d bytes of %d", len(plain), len(body))
		}
		s := &state{seen: &answer{status: 200, header: http.Header{}, body: body, plain: func() []byte { return plain }}}
		got := s.json(path)
		if !json.Valid(plain) && got != "" {
			t.Errorf("%q: got %q of what is no JSON", body, got)
		}
		if again := s.json(path); again != got {
			t.Errorf("got %q, then %q", got, again)
		}
		tag := tagFor(got)
		if !httpguts.ValidHeaderFieldValue(tag) || !strings.HasPrefix(tag, `W/"`) || len(splitTags(tag)) != 1 || strings.Contains(opaque(tag), `"`) {
			t.Errorf("%q: got tag %s", got, tag)
		}
	})
}
