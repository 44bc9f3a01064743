package httphdr

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// What clients and backends send can be anything.

// validValue reports whether text can stand in a header field (RFC 9110, section 5.5).
func validValue(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

func FuzzParseWait(f *testing.F) {
	for _, text := range []string{"", "0", "5", "1.5", "1e3", "5m", "1h2m3s", "-1", "-1s", "+1", "NaN", "inf", "0x1p4", "1_000", "99999999999999999999", "9223372036854775807ns", "soon", "5 s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		wait, ok := ParseWait(text, time.Second)
		if ok && wait < 0 {
			t.Errorf("%q: got %v", text, wait)
		}
		ms, okMS := ParseWait(text, time.Millisecond)
		if ok != okMS || ok && ms > wait {
			t.Errorf("%q: got %v, %v in seconds and %v, %v in milliseconds", text, wait, ok, ms, okMS)
		}
		if d, err := time.ParseDuration(text); err == nil && d >= 0 && len(text) <= 64 && strings.Trim(text, "0123456789+.") != "" && (!ok || wait != d) {
			t.Errorf("%q: got %v, %v; want %v", text, wait, ok, d)
		}
	})
}

func FuzzPreferWait(f *testing.F) {
	for _, field := range []string{"", "wait=5", `wait="5"`, "respond-async, WAIT = 5 ; a=b", `a="b, wait=1", wait=5`, `"`, ",;=", "wait", "wait=", "wait=5,wait=6", "a=b,c;wait=60", `a="b;wait=1"`} {
		f.Add(field, "wait=7")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		text, ok := PreferWait([]string{a, b})
		if !ok && text != "" || len(text) > max(len(a), len(b)) {
			t.Errorf("%q, %q: got %q, %v", a, b, text, ok)
		}
		first, found := PreferWait([]string{a})
		second, _ := PreferWait([]string{b})
		switch { // b counts before a where only b has a preference that is called wait
		case found != ok && b == "", found && !ok:
			t.Errorf("%q, %q: got %q, %v; want %q, %v", a, b, text, ok, first, found)
		case ok && text != first && text != second:
			t.Errorf("%q, %q: got %q; want %q or %q", a, b, text, first, second)
		}
	})
}

func FuzzSplitTags(f *testing.F) {
	for _, field := range []string{"", "*", `"1"`, `W/"1", "2"`, `"a,b","c"`, `,, "1" ,`, `"`, `1, 2`, "\"\xff\""} {
		f.Add(field)
	}
	f.Fuzz(func(t *testing.T, field string) {
		tags := SplitTags(field)
		for _, tag := range tags {
			if tag == "" || tag != strings.Trim(tag, " \t") || !strings.Contains(field, tag) {
				t.Errorf("%q: got tag %q", field, tag)
			}
		}
		// What it splits it does not split again.
		if again := SplitTags(strings.Join(tags, ", ")); !slices.Equal(again, tags) && strings.Count(field, `"`)%2 == 0 {
			t.Errorf("%q: got %q, and of these %q", field, tags, again)
		}
	})
}

func FuzzWeakTag(f *testing.F) {
	for _, version := range []string{"", "7", `"`, `a"b`, "a,b", `\`, "\xff", " ", "ü", strings.Repeat("a", 65), `W/"1"`} {
		f.Add(version)
	}
	f.Fuzz(func(t *testing.T, version string) {
		tag := WeakTag(version)
		if !validValue(tag) || !strings.HasPrefix(tag, `W/"`) || len(SplitTags(tag)) != 1 || strings.Contains(Opaque(tag), `"`) {
			t.Errorf("%q: got tag %s", version, tag)
		}
		if again := WeakTag(Opaque(tag)); again != tag {
			t.Errorf("%q: got tag %s, then %s", version, tag, again)
		}
	})
}

func FuzzFieldValue(f *testing.F) {
	for _, text := range []string{"", "a", "a\r\nSet-Cookie: x", "\x00", "\x7f", "\t", "\xff", "ü", "\u2028"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := FieldValue(text)
		if !validValue(got) {
			t.Errorf("%q: got %q", text, got)
		}
		if again := FieldValue(got); again != got {
			t.Errorf("%q: got %q, then %q", text, got, again)
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
		got := RetryAfter(header, now)
		if got < 0 || got > maxPause || got < RetryAfter(http.Header{"Retry-After": {after}}, now) {
			t.Errorf("%q and %q: got %v", after, interval, got)
		}
	})
}

func FuzzWithoutWait(f *testing.F) {
	for _, field := range []string{
		"", "wait=5", `wait="5"`, "respond-async, WAIT = 5 ; a=b", `a="b, wait=1", wait=5`, `"`, ",;=", "wait", ";wait=1", "a;wait=1;b, wait",
		`outlook.timezone="Pacific, Standard; Time"`, `a="\", wait=5`, `a="\\", wait=5`, "wait;wait, ;wait ,", `wait="5, a`, "a , wait=5",
	} {
		f.Add(field, "modes=snapshot,delta;wait=60")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		prefer := []string{a, b}
		got := WithoutWait(prefer)
		if text, ok := PreferWait(got); ok {
			t.Errorf("%q: got %q, in which is wait %q", prefer, got, text)
		}
		if again := WithoutWait(got); !slices.Equal(again, got) {
			t.Errorf("%q: got %q, then %q", prefer, got, again)
		}
		if _, found := PreferWait(prefer); found == slices.Equal(got, prefer) {
			t.Errorf("%q: got %q; want less of it: %v", prefer, got, found)
		}
		if prefer[0] != a || prefer[1] != b {
			t.Errorf("%q, %q: is %q now", a, b, prefer)
		}
	})
}

func FuzzRequest(f *testing.F) {
	for _, text := range []string{"", "gzip", "*;q=0.1, x-gzip;q=0", "h2c", "websocket, TLS/1.2", "keep-alive, Upgrade,", ";q=", "a;b;c", "gzip;;q=0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		header := make(http.Header)
		for _, name := range []string{"Accept", "Accept-Encoding", "Connection", "Upgrade", "User-Agent"} {
			header[name] = []string{text}
		}
		if got := Coding(header); got != "gzip" && got != "identity" || got == "gzip" && !strings.ContainsAny(text, "*Gg") {
			t.Errorf("%q: got coding %q", text, got)
		}
		if Upgrades(header) && strings.Trim(text, " \t,") == "" {
			t.Errorf("%q: is no upgrade", text)
		}
		Personal(text)
		FromBrowser(header)
		names := Connections(header)
		DropHop(header)
		for _, name := range append(names, "Connection", "Upgrade") {
			if len(header[name]) > 0 {
				t.Errorf("%q: got %s after it was dropped", text, name)
			}
		}
	})
}

func FuzzAnswer(f *testing.F) {
	for _, text := range []string{"", "no-store", `private="a, no-store", max-age=5`, "max-age=0, must-revalidate", "multipart/mixed;a", "?1;a", `Digest realm="a, stale=true"`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		header := make(http.Header)
		for _, name := range []string{"Cache-Control", "Content-Type", "Incremental", "Www-Authenticate", "X-Accel-Buffering", "Cdn-Cache-Control"} {
			header[name] = []string{text}
		}
		if EventStream(header) && !Streams(header) {
			t.Errorf("%q: streams events, but does not stream", text)
		}
		if Stale(header) && !strings.Contains(strings.ToLower(text), "stale") {
			t.Errorf("%q: is not stale", text)
		}
		before := ReadCacheControl(header)
		Revalidate(header)
		after := ReadCacheControl(header)
		if before.Has("no-store") && !after.Has("no-store") || before.Has("private") && !after.Has("private") {
			t.Errorf("%q: got %q", text, header["Cache-Control"])
		}
		if !after.Has("no-store") && !after.Has("no-cache") && after["max-age"] != "0" || len(header["Cdn-Cache-Control"]) > 0 {
			t.Errorf("%q: got %q", text, header)
		}
	})
}
