package sse_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-longpoll/caddy-longpoll/internal/sse"
)

func TestEvent(t *testing.T) {
	for _, test := range []struct{ kind, version, body, want string }{
		{sse.Message, `"v1"`, `{"a":1}`, "id: \"v1\"\ndata: {\"a\":1}\n\n"},
		{sse.Patch, "7", `[]`, "id: 7\nevent: patch\ndata: []\n\n"},
		{sse.Message, "1", "", "id: 1\ndata: \n\n"},
		{sse.Message, "1", "a\n", "id: 1\ndata: a\ndata: \n\n"},
		{sse.Message, "1", " a\n\nb", "id: 1\ndata:  a\ndata: \ndata: b\n\n"},
		{sse.Message, "1", "a\r\nb\rc\n\rd\r", "id: 1\ndata: a\ndata: b\ndata: c\ndata: \ndata: d\ndata: \n\n"},
		{sse.Message, "1", "\ufeff{\n}", "id: 1\ndata: {\ndata: }\n\n"},
		{sse.Message, "1", "\ufeffa", "id: 1\ndata: \ufeffa\n\n"},
		{sse.Message, "", "a", "id: ~e3b0c44298fc1c149afbf4c8996fb924\ndata: a\n\n"},
	} {
		if got := string(sse.Event(test.kind, test.version, []byte(test.body))); got != test.want {
			t.Errorf("%q of %q: got %q; want %q", test.body, test.version, got, test.want)
		}
	}
	if got, want := string(sse.StatusEvent("x", 404)), "id: x\nevent: status\ndata: {\"status\":404}\n\n"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
	if got, want := string(sse.AppendRetry([]byte(sse.Heartbeat), 1500*time.Millisecond)), ":\nretry: 1500\n"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
	if got := string(sse.AppendRetry(nil, -time.Second)); got != "retry: 0\n" {
		t.Errorf("got %q", got)
	}
}

// A line costs what it is long, whatever comes behind it.
func TestManyLines(t *testing.T) {
	const n = 1 << 20
	for _, end := range []string{"\r", "\n"} {
		event := sse.Event(sse.Message, "1", bytes.Repeat([]byte(end), n))
		if got := bytes.Count(event, []byte("\ndata: ")); got != n+1 {
			t.Errorf("%q: got %d lines; want %d", end, got, n+1)
		}
	}
}

func TestID(t *testing.T) {
	for _, version := range []string{`"v1"`, `W/"a-gzip"`, "42", "~", "a b", "é", "~0123456789abcdef0123456789abcde", "~0123456789abcdef0123456789abcdef0", strings.Repeat("a", 1024)} {
		if got := sse.ID(version); got != version {
			t.Errorf("got %q; want %q", got, version)
		}
	}
	seen := make(map[string]string)
	for _, version := range []string{
		"", " ", " a", "a ", "a\x00", "a\n", "\ra", "a\tb", "a\x7f", "\x01", "\x80", strings.Repeat("a", 1025),
		"~e3b0c44298fc1c149afbf4c8996fb924", // that of the empty version
	} {
		got := sse.ID(version)
		if len(got) != 33 || got[0] != '~' || strings.Trim(got[1:], "0123456789abcdef") != "" {
			t.Errorf("%q: got %q; want a token", version, got)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%q and %q have the id %q", version, other, got)
		}
		seen[got] = version
	}
}

func TestLine(t *testing.T) {
	for _, test := range []struct{ member, body, want string }{
		{sse.Bare, "{\r\n \"a\" : 1.0,\t\"a\": 12345678901234567890 }\n", `{"a":1.0,"a":12345678901234567890}`},
		{sse.StateMember, ` [ "\u00e9", 1E400, -0 ] `, `{"state":["\u00e9",1E400,-0]}`},
		{sse.PatchMember, `{}`, `{"patch":{}}`},
		{sse.Bare, "\"<&>\u2028\u2029\x7f\"", "\"<&>\u2028\u2029\x7f\""},
		{sse.Bare, "<&>\u2028\u2029\x7f", "\"<&>\u2028\u2029\x7f\""},
		{sse.Bare, "", `""`},
		{sse.Bare, " \n", `" \n"`},
		{sse.Bare, "{\"a\":\"b\r\"}", `"{\"a\":\"b\r\"}"`},
		{sse.StateMember, "a\\b\x00\x1f\t", `{"state":"a\\b\u0000\u001f\t"}`},
		{sse.Bare, "{} {}", `"{} {}"`},
		{sse.StateMember, `{"a":`, `{"state":"{\"a\":"}`},
		{sse.Bare, "\ufeff{ }", `{}`},
		{sse.Bare, "\ufeffa", "\"\ufeffa\""},
		{sse.Bare, strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001), `"` + strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001) + `"`},
	} {
		if got := string(sse.Line(test.member, []byte(test.body))); got != test.want+"\n" {
			t.Errorf("%q: got %q; want %q", test.body, got, test.want)
		}
	}
}

func TestStreamable(t *testing.T) {
	for body, want := range map[string]bool{"": true, "é\x00\u2028": true, "\xff": false, "\xed\xa0\x80": false, "\xc0\x80": false} {
		if got := sse.Streamable([]byte(body)); got != want {
			t.Errorf("%q: got %v; want %v", body, got, want)
		}
	}
}

// sendable reports whether an id comes back as it was sent: through a field, which is
// trimmed, and which servers refuse if it holds control characters.
func sendable(id string) bool {
	return id != "" && strings.Trim(id, " \t") == id && httpguts.ValidHeaderFieldValue(id)
}

// An event by itself costs one allocation.
func TestEventAllocates(t *testing.T) {
	body := bytes.Repeat([]byte("{\"a\":\"b\"}\n"), 100)
	if n := testing.AllocsPerRun(100, func() { sse.Event(sse.Message, `"v1"`, body) }); n != 1 {
		t.Errorf("an event takes %v allocations; want 1", n)
	}
}

func BenchmarkEvent(b *testing.B) {
	for name, body := range map[string][]byte{
		"OneLine":   []byte(`{"version":7,"padding":"` + strings.Repeat("x", 1000) + `"}`),
		"ManyLines": bytes.Repeat([]byte("  \"a\": 1,\n"), 100),
		"CRLF":      bytes.Repeat([]byte("  \"a\": 1,\r\n"), 100),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				sse.Event(sse.Message, `"v7"`, body)
			}
		})
	}
}

func BenchmarkLine(b *testing.B) {
	for name, body := range map[string][]byte{
		"JSON": []byte("{\n  \"version\": 7,\n  \"padding\": \"" + strings.Repeat("x", 1000) + "\"\n}"),
		"Text": bytes.Repeat([]byte("ten bytes\n"), 100),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				sse.Line(sse.Bare, body)
			}
		})
	}
}
