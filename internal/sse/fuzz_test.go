package sse_test

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/sse"
)

// What backends say can be anything.

// kept is what a client gets of a body by an event.
var kept = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// FuzzSSE: whatever the body and the version are, a client gets the body and the id, and
// nothing in them is another event, another field or a line end.
func FuzzSSE(f *testing.F) {
	for _, body := range []string{
		"", "a", "\n", "\r", "\r\n", "\n\r", "a\n\nb", "a\r\rdata: b\r\r", "\ndata: evil\n\n", "\n\nid: evil\nevent: evil\nretry: 0\n\n", ": a", " a",
		"\ufeffa", "\ufeff{\"a\":1}", "a\x00", "\u2028\u2029\u0085\v\f", `{"a":1}`, "{\r\n}", "\xff\n\xfe", "data", "data:", "id\x00",
	} {
		for _, version := range []string{"", `"v1"`, "a\nb", "a\rb\n\ndata: evil\n\n", "a\x00", " a", "a ", ":", "é", "\xff"} {
			f.Add([]byte(body), version)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, version string) {
		id := sse.ID(version)
		if !sendable(id) {
			t.Fatalf("version %q: a client can not send %q", version, id)
		}
		stream := sse.AppendRetry(nil, 1234*time.Millisecond)
		stream = append(stream, sse.Event(sse.Message, version, body)...)
		stream = append(stream, sse.Heartbeat...)
		stream = append(stream, sse.StatusEvent(version, 404)...)
		stream = append(stream, sse.Heartbeat...)
		stream = sse.AppendEvent(stream, sse.Patch, version, body)
		stream = append(stream, "data: the end\n\n"...)

		source := body
		if rest := bytes.TrimPrefix(body, []byte("\ufeff")); json.Valid(rest) {
			source = rest
		}
		data := decode([]byte(kept.Replace(string(source))))
		if sse.Streamable(body) && sse.Exact(body) && data != string(body) {
			t.Fatalf("body %q is said to be exact", body)
		}
		want := parsed{
			events: []dispatched{{"message", data, id}, {"status", `{"status":404}`, id}, {"patch", data, id}, {"message", "the end", id}},
			retry:  "1234",
			lastID: id,
		}
		if got := parse(stream); !reflect.DeepEqual(got, want) {
			t.Errorf("body %q, version %q: got %+v; want %+v", body, version, got, want)
		}
		if json.Valid(body) && !slices.Equal(tokens(t, body), tokens(t, []byte(data))) {
			t.Errorf("body %q: %q is other JSON", body, data)
		}
	})
}

// FuzzID: two versions have two ids.
func FuzzID(f *testing.F) {
	f.Add("", "~e3b0c44298fc1c149afbf4c8996fb924")
	f.Add("a", "a ")
	f.Fuzz(func(t *testing.T, a, b string) {
		if x, y := sse.ID(a), sse.ID(b); (x == y) != (a == b) || !sendable(x) || !sendable(y) {
			t.Errorf("%q, %q: got %q, %q", a, b, x, y)
		}
	})
}

// FuzzLine: whatever the body is, it is one line of JSON, which is the body's or is the
// body as a string.
func FuzzLine(f *testing.F) {
	for _, body := range []string{"", "a", "\n", `{"a":1}`, "{\r\n\"a\" : [ ] }", "\"\u2028\"", "\u2028", "\ufeff1", "a\x00\"\\", "\"\\ud800\"", "1e999", "\x1f\x7f", "{}{}", "\xff"} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, member := range []string{sse.Bare, sse.StateMember} {
			line := sse.Line(member, body)
			if bytes.IndexByte(line, '\n') != len(line)-1 || bytes.IndexByte(line, '\r') >= 0 {
				t.Fatalf("body %q: %q is not one line", body, line)
			}
			value := json.RawMessage(line)
			if member != sse.Bare {
				var object map[string]json.RawMessage
				if err := json.Unmarshal(line, &object); err != nil || len(object) != 1 {
					t.Fatalf("body %q: %q: %v", body, line, err)
				}
				value = object[member]
			}
			source := bytes.TrimPrefix(body, []byte("\ufeff"))
			if json.Valid(source) {
				if !slices.Equal(tokens(t, source), tokens(t, value)) {
					t.Errorf("body %q: %q is other JSON", body, value)
				}
				continue
			}
			var text string
			if err := json.Unmarshal(value, &text); err != nil || text != decode(body) {
				t.Errorf("body %q: got %q, %v", body, text, err)
			}
		}
	})
}

// tokens are those of JSON, numbers in their own spelling.
func tokens(t *testing.T, text []byte) (all []json.Token) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	for {
		token, err := dec.Token()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		all = append(all, token)
	}
}
