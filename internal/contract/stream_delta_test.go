package contract_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
)

// applied is what a client has that applies every event that it has heard: all values
// that it has had.
func applied(t *testing.T, kind string, heard []event) (values []string) {
	t.Helper()
	var now string
	for _, e := range heard {
		switch e.name {
		case "":
			now = e.data
		case "patch":
			now = patched(t, kind, now, e.data)
		default:
			continue
		}
		values = append(values, now)
	}
	return values
}

// patched is value after a patch.
func patched(t *testing.T, kind, value, patch string) string {
	t.Helper()
	if kind == "merge_patch" {
		next, err := jsonpatch.MergePatch([]byte(value), []byte(patch))
		if err != nil {
			t.Fatalf("merging %s with %s: %v", value, patch, err)
		}
		return string(next)
	}
	p, err := jsonpatch.DecodePatch([]byte(patch))
	if err != nil {
		t.Fatalf("reading %s: %v", patch, err)
	}
	next, err := p.Apply([]byte(value))
	if err != nil {
		t.Fatalf("applying %s to %s: %v", patch, value, err)
	}
	return string(next)
}

// document is a JSON state of some size, of which a member is n.
func document(n int, more string) string {
	return fmt.Sprintf(`{"n":%d,"text":%q%s}`, n, strings.Repeat("x", 200), more)
}

// TestDelta: who has the former state is told what is different, in events and in answers to
// polls that ask for it.
func TestDelta(t *testing.T) {
	for _, kind := range []string{"json_patch", "merge_patch"} {
		t.Run(kind, virtual(func(t *testing.T) {
			s := newSite(t, steady+"stream\ndelta "+kind)
			say := func(n int, more string) { s.backend.say(reply(200, document(n, more), fmt.Sprintf("ETag: \"%d\"", n))) }
			say(1, "")
			c, byLine := s.get("/", events), s.get("/", lines)
			im := strings.ReplaceAll(kind, "_", "-")
			asks := []string{has("1"), "A-IM: vcdiff, " + im, waits(20)}
			poll, plain, other := s.get("/", asks...), s.get("/", has("1")), s.get("/", has("1"), "A-IM: gzip;q=1, "+im+";q=0")
			settle(0)
			say(2, "")
			settle(1100 * time.Millisecond)
			all, _ := parseEvents(c.heard())
			if len(all) != 2 || all[1].name != "patch" || all[1].id != `"2"` || len(all[1].data) > 100 {
				t.Fatalf("heard %v; want a patch", all)
			}
			want := document(2, "")
			if got := applied(t, kind, all); !jsonpatch.Equal([]byte(got[1]), []byte(want)) {
				t.Errorf("got %s; want %s", got[1], want)
			}
			var state struct{ State, Patch json.RawMessage }
			text := strings.SplitAfter(byLine.heard(), "\n")
			if err := json.Unmarshal([]byte(text[0]), &state); err != nil || state.State == nil || state.Patch != nil {
				t.Fatalf("got the line %s, %v", text[0], err)
			}
			if err := json.Unmarshal([]byte(text[1]), &state); err != nil || string(state.Patch) != all[1].data {
				t.Fatalf("got the line %s, %v; want the patch %s", text[1], err, all[1].data)
			}
			poll.wants("226 changed "+all[1].data).wantsField("IM", im).wantsField("Delta-Base", `"1"`).wantsField("ETag", `"2"`).
				wantsField("Content-Type", "application/"+im+"+json").wantsField("Content-Length", fmt.Sprint(len(all[1].data)))
			plain.wants("200 changed " + want)
			other.wants("200 changed " + want)

			// The last four versions are known, by whatever they are named.
			say(3, "")
			settle(1100 * time.Millisecond)
			say(4, `,"null":null`) // which no merge patch can set
			settle(1100 * time.Millisecond)
			for v, patch := range map[string]bool{"0": false, "1": true, "2": true, "3": true} {
				got := s.get("/", has(v), "A-IM: "+im, waits(20)).answer()
				if is := got.w.status == 226; is != (patch && kind == "json_patch") {
					t.Errorf("from %s: got %v", v, got)
				}
				r, _ := parseEvents(s.get("/", events, `Last-Event-ID: "`+v+`"`).heard())
				if is := len(r) == 1 && r[0].name == "patch"; is != (patch && kind == "json_patch") {
					t.Errorf("from %s: heard %v", v, r)
				}
			}
			all, _ = parseEvents(c.heard())
			if got := applied(t, kind, all); !jsonpatch.Equal([]byte(got[3]), []byte(document(4, `,"null":null`))) {
				t.Errorf("got %s at the end", got[3])
			}
			s.get("/", "If-None-Match: *", "A-IM: "+im, "Wait: 1").wants("304 expired")

			// After another status the whole state is told.
			s.backend.say(reply(404, "no"))
			settle(1100 * time.Millisecond)
			say(5, "")
			settle(1100 * time.Millisecond)
			if all, _ = parseEvents(c.heard()); all[len(all)-1].name != "" || all[len(all)-2].name != "status" {
				t.Errorf("heard %v; want a status and a state", all)
			}
		}))
	}
	t.Run("off", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		s.backend.say(reply(200, document(1, ""), `ETag: "1"`))
		poll := s.get("/", has("1"), "A-IM: json-patch", waits(20))
		settle(0)
		s.backend.say(reply(200, document(2, ""), `ETag: "2"`))
		poll.wants("200 changed " + document(2, ""))
	}))
}

// TestDeltaOfOneVersion: several bodies of one version are not taken for one another.
func TestDeltaOfOneVersion(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\ndelta json_patch\nversion {lp.json.n}\nsince {query.n}")
		say := func(n int, more string) { s.backend.say(reply(200, document(n, more))) }
		say(1, `,"time":1`)
		early := s.get("/", events)
		settle(0)
		say(1, `,"time":2`)
		settle(1100 * time.Millisecond)
		late := s.get("/", events)
		settle(0)
		poll := s.get("/?n=1", "A-IM: json-patch")
		settle(0)
		want := document(2, `,"time":2`)
		say(2, `,"time":2`)
		settle(1100 * time.Millisecond)
		for _, c := range []*client{early, late} {
			heard, _ := parseEvents(c.heard())
			if got := applied(t, "json_patch", heard); len(got) != 2 || !jsonpatch.Equal([]byte(got[1]), []byte(want)) {
				t.Errorf("got %v; want %s", got, want)
			}
		}
		poll.wants("200 changed " + want)
	})(t)
}

// TestDeltaAlways: a client that applies every event has the backend's value, always,
// however the JSON changes, and however often it comes back.
func TestDeltaAlways(t *testing.T) {
	for _, kind := range []string{"json_patch", "merge_patch"} {
		for seed := range uint64(20) {
			t.Run(fmt.Sprint(kind, seed), virtual(func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 2))
				s := newSite(t, steady+"stream\ninterval 1s\ndelta "+kind)
				doc := map[string]any{"text": strings.Repeat("x", 300)}
				said := make(map[string]bool)
				say := func() {
					text, err := json.Marshal(doc)
					if err != nil {
						t.Fatal(err)
					}
					said[string(text)] = true
					s.backend.say(reply(200, string(text)))
				}
				say()
				var now string // what the client has
				var id string
				c := s.get("/", events)
				settle(0)
				var patches int
				hear := func() {
					heard, _ := parseEvents(c.heard())
					for _, e := range heard {
						id = e.id
						if e.name == "patch" {
							patches++
							now = patched(t, kind, now, e.data)
						} else {
							now = e.data
						}
						var canonical bytes.Buffer
						var v any
						if err := json.Unmarshal([]byte(now), &v); err != nil {
							t.Fatal(err)
						}
						text, _ := json.Marshal(v)
						canonical.Write(text)
						if !said[canonical.String()] {
							t.Fatalf("the client has %s, which the backend never said", now)
						}
					}
				}
				for range 40 {
					name := string(rune('a' + rnd.IntN(6)))
					switch rnd.IntN(6) {
					case 0:
						delete(doc, name)
					case 1:
						doc[name] = nil
					case 2:
						doc[name] = []any{rnd.IntN(3), "x", map[string]any{"y": rnd.IntN(3)}}
					case 3:
						doc[name] = map[string]any{"deep": map[string]any{name: rnd.IntN(9)}, "a/b~c": rnd.IntN(2)}
					default:
						doc[name] = rnd.IntN(1000)
					}
					say()
					settle(time.Duration(rnd.Int64N(int64(2500 * time.Millisecond))))
					if rnd.IntN(5) == 0 {
						c.leave()
						hear()
						settle(time.Duration(rnd.Int64N(int64(2500 * time.Millisecond))))
						fields := []string{events, "Last-Event-ID: " + id}
						c = s.get("/", fields...)
						synctest.Wait()
					}
				}
				settle(3 * time.Second)
				hear()
				var last any
				if err := json.Unmarshal([]byte(now), &last); err != nil {
					t.Fatal(err)
				}
				text, _ := json.Marshal(last)
				if want, _ := json.Marshal(doc); string(text) != string(want) {
					t.Errorf("the client has %s; want %s", text, want)
				}
				if patches == 0 {
					t.Error("heard no patch")
				}
			}))
		}
	}
}
