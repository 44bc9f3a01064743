package state

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMemberPath(t *testing.T) {
	for path, want := range map[string][]string{
		"timestamp":      {"timestamp"},
		"meta.timestamp": {"meta", "timestamp"},
		"items.#.age":    {"items", "#", "age"},
		"items.0.age":    {"items", "0", "age"},
		"#":              {"#"},
		"#.id":           {"#", "id"},
		`a\.b`:           {"a.b"},
		`a\\.b`:          {`a\`, "b"},
		`\@id.\*`:        {"@id", "*"},
		`\#tags.a\#b`:    {"#tags", "a#b"},
		"user@host":      {"user@host"},
		"größe.高さ":       {"größe", "高さ"},
		"with space":     {"with space"},
	} {
		got, err := MemberPath(path)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v; want %q", path, got, err, want)
		}
	}
}

func TestMemberPathRejects(t *testing.T) {
	for path, want := range map[string]string{
		"":                    "at its end",
		".":                   `unexpected '.' at offset 0`,
		".a":                  `unexpected '.' at offset 0`,
		"a..b":                `unexpected '.' at offset 2`,
		"a.":                  "at its end",
		`a\`:                  "after the backslash",
		"@reverse":            `unexpected '@' at offset 0`,
		"a.@this":             `unexpected '@' at offset 2`,
		"a|b":                 `unexpected '|' at offset 1`,
		"a*":                  `unexpected '*' at offset 1`,
		"?":                   `unexpected '?' at offset 0`,
		`a.#(b=="c").d`:       `unexpected '#' at offset 2`,
		"a.##":                `unexpected '#' at offset 2`,
		"a#":                  `unexpected '#' at offset 1`,
		"#a":                  `unexpected '#' at offset 0`,
		`!"static"`:           `unexpected '!' at offset 0`,
		"{a,b}":               `unexpected '{' at offset 0`,
		"a.[b,c]":             `unexpected '[' at offset 2`,
		"{lp.json.timestamp}": `unexpected '{' at offset 0`,
	} {
		parts, err := MemberPath(path)
		if err == nil {
			t.Errorf("%s: got %q; want an error", path, parts)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %q; want %q in it", path, err, want)
		}
	}
}

func TestDropMembers(t *testing.T) {
	for _, test := range []struct {
		body, paths, want string
	}{
		{`{"b":1, "a":2}`, "", `{"a":2,"b":1}`},
		{`{"a":1,"b":2}`, "a", `{"b":2}`},
		{`{"a":1}`, "a b c", `{}`},
		{`{"a":{"b":1,"c":2}}`, "a.b", `{"a":{"c":2}}`},
		{`{"a":{"b":1}}`, "a a.b", `{}`},
		{`{"a":null}`, "a.b", `{"a":null}`},
		{`{"a":"text"}`, "a.0 a.# a.b", `{"a":"text"}`},
		{`{"a.b":1,"a":{"b":2}}`, `a\.b`, `{"a":{"b":2}}`},
		{`[{"age":1,"id":7},{"age":2,"id":8},5]`, "#.age", `[{"id":7},{"id":8},5]`},
		{`[[1,2],[3]]`, "#.0", `[[2],[]]`},
		{`[1,2,3]`, "#", `[]`},
		// Indexes are those of the body, whatever was dropped before.
		{`[0,1,2,3]`, "0 1 0", `[2,3]`},
		{`[0,1]`, "2 -1 +1 99999999999999999999", `[0,1]`},
		{`{"0":"a","#":"b","1":"c"}`, "0 #", `{"1":"c"}`},
		// What JSON tells apart stays apart.
		{`[1.0,1,12345678901234567890,1e999]`, "x", `[1.0,1,12345678901234567890,1e999]`},
		{` "text" `, "x", `"text"`},
		{`null`, "x", `null`},
	} {
		var paths [][]string
		for path := range strings.FieldsSeq(test.paths) {
			parts, err := MemberPath(path)
			if err != nil {
				t.Fatal(err)
			}
			paths = append(paths, parts)
		}
		got, ok := dropMembers([]byte(test.body), paths)
		if !ok || string(got) != test.want {
			t.Errorf("%s without %q: got %s, %v; want %s", test.body, test.paths, got, ok, test.want)
		}
	}
}

func TestDropMembersRejects(t *testing.T) {
	for _, body := range []string{
		"", " ", "<html>", `{"a":1`, `{"a":1}}`, `{"a":1} {"a":1}`, `{"a":1}, `, `{"a":01}`,
		strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000),
	} {
		if got, ok := dropMembers([]byte(body), [][]string{{"a"}}); ok {
			t.Errorf("%.40q: got %s; want no JSON", body, got)
		}
	}
}

func FuzzDropMembers(f *testing.F) {
	f.Add([]byte(`{"meta":{"timestamp":1},"items":[{"age":1},{"age":2}]}`), "meta.timestamp", "items.#.age")
	f.Add([]byte(`[[1,2],{"0":3}]`), "#.0", "1")
	f.Add([]byte(`{"a.b":"\ud800"} x`), `a\.b`, "#")
	f.Fuzz(func(t *testing.T, body []byte, path1, path2 string) {
		var paths [][]string
		for _, path := range []string{path1, path2} {
			if parts, err := MemberPath(path); err == nil {
				paths = append(paths, parts)
			}
		}
		before := bytes.Clone(body)
		rest, ok := dropMembers(body, paths)
		if !bytes.Equal(body, before) {
			t.Fatalf("the body was changed from %q to %q", before, body)
		}
		if want := json.Valid(body) && utf8.Valid(body); ok != want {
			t.Fatalf("%q: got %v; want %v", body, ok, want)
		}
		if !ok {
			return
		}
		if again, _ := dropMembers(body, paths); !bytes.Equal(rest, again) {
			t.Fatalf("%q without %q: got %s, then %s", body, paths, rest, again)
		}
		// What is left is in its final form: only the paths take anything away.
		if same, ok := dropMembers(rest, nil); !ok || !bytes.Equal(rest, same) {
			t.Fatalf("%q without %q: got %s, which became %s, %v", body, paths, rest, same, ok)
		}
	})
}
