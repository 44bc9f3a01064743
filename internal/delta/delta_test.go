package delta

import (
	"fmt"
	"strings"
	"testing"
)

// padding makes a state long enough that a patch is shorter.
const padding = `"padding":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}`

func TestMake(t *testing.T) {
	for _, test := range []struct{ from, to, patch, merge string }{
		{`"a":1,`, `"a":2,`, `[{"op":"replace","path":"/a","value":2}]`, `{"a":2}`},
		{`"a":1,`, ` "a" : 1 ,`, `[]`, `{}`},
		{`"a":1,"b":2,`, `"b":2,"a":1,`, `[]`, `{}`},
		{`"a":1,`, `"a":1.0,`, `[{"op":"replace","path":"/a","value":1.0}]`, `{"a":1.0}`},
		{`"a":12345678901234567890,`, `"a":12345678901234567891,`, `[{"op":"replace","path":"/a","value":12345678901234567891}]`, `{"a":12345678901234567891}`},
		{`"a":1e400,`, `"a":-0,`, `[{"op":"replace","path":"/a","value":-0}]`, `{"a":-0}`},
		{`"a":"1",`, `"a":1,`, `[{"op":"replace","path":"/a","value":1}]`, `{"a":1}`},
		{`"a":1,`, `"a":false,`, `[{"op":"replace","path":"/a","value":false}]`, `{"a":false}`},
		{`"a":1,`, ``, `[{"op":"remove","path":"/a"}]`, `{"a":null}`},
		{``, `"<a/b~c>":"&",`, `[{"op":"add","path":"/<a~1b~0c>","value":"&"}]`, `{"<a/b~c>":"&"}`},
		{`"a":"\u00e9",`, `"a":"é",`, `[]`, `{}`},
		{`"a":[1,2,3],`, `"a":[0,1,2,3],`, `[{"op":"add","path":"/a/0","value":0}]`, `{"a":[0,1,2,3]}`},
		{`"a":[1,2,3],`, `"a":[1,3],`, `[{"op":"remove","path":"/a/1"}]`, `{"a":[1,3]}`},

		// a merge patch can not set null, and some do not keep one in an array
		{`"a":1,`, `"a":null,`, `[{"op":"replace","path":"/a","value":null}]`, ""},
		{``, `"a":{"b":null},`, `[{"op":"add","path":"/a","value":{"b":null}}]`, ""},
		{``, `"a":[{"b":null}],`, `[{"op":"add","path":"/a","value":[{"b":null}]}]`, ""},
		{``, `"a":[null],`, `[{"op":"add","path":"/a","value":[null]}]`, `{"a":[null]}`},
		{`"a":null,"b":1,`, `"a":null,"b":2,`, `[{"op":"replace","path":"/b","value":2}]`, `{"b":2}`},
		{`"a":null,`, `"a":{"b":1},`, `[{"op":"replace","path":"/a","value":{"b":1}}]`, `{"a":{"b":1}}`},
		{`"a":null,`, ``, `[{"op":"remove","path":"/a"}]`, `{"a":null}`},

		// what clients may read differently
		{`"a":1,"a":2,`, `"a":2,`, "", ""},
		{`"a":2,`, `"a":1,"\u0061":2,`, "", ""},
		{`"a":"\ud800",`, `"a":"\udc00",`, "", ""},
		{`"a":"` + "\xff" + `",`, `"a":1,`, "", ""},
		{`"a":"` + "\xff" + `",`, `"a":"` + "\xfe" + `",`, "", ""},
		{`"__proto__":1,`, `"__proto__":2,`, "", ""},
		{`"":1,`, `"":2,`, "", ""},

		// what is no JSON
		{`"a":1,`, `"a":01,`, "", ""},
		{`"a":1,,`, `"a":1,`, "", ""},
	} {
		from, to := []byte(`{`+test.from+padding), []byte(`{`+test.to+padding)
		for kind, want := range map[Kind]string{JSONPatch: test.patch, MergePatch: test.merge} {
			if patch, ok := Make(kind, from, to); string(patch) != want || ok != (want != "") {
				t.Errorf("%s from %s to %s: got %s, %v; want %s", kind, test.from, test.to, patch, ok, want)
			}
			verify(t, kind, from, to)
		}
	}
}

func TestMakeNone(t *testing.T) {
	long := func(n int) string { return list(n, `{"a":[`, func(int) string { return "1" }, `]}`) }
	words := func(n int) string { return list(n, `{"a":[`, func(int) string { return `"xxxxxxxxxx"` }, `]}`) }
	deep := func(n int) string {
		return strings.Repeat(`{"a":`, n-1) + `{"a":"` + strings.Repeat("x", 1000) + `","b":%d}` + strings.Repeat("}", n-1)
	}
	size := func(n int) string {
		return `{"a":%d,"padding":"` + strings.Repeat("x", n-len(`{"a":1,"padding":""}`)) + `"}`
	}
	named := func(n int) string {
		return `{"` + strings.Repeat("x", n) + `":` + list(4000, `{`, func(i int) string { return fmt.Sprintf(`"%d":1`, i) }, `,"z":%d}}`)
	}
	for name, test := range map[string]struct {
		from, to     string
		patch, merge bool
	}{
		"size":           {fmt.Sprintf(size(maxSize), 1), fmt.Sprintf(size(maxSize), 2), true, true},
		"over size":      {fmt.Sprintf(size(maxSize), 1), fmt.Sprintf(size(maxSize+1), 2), false, false},
		"over size too":  {fmt.Sprintf(size(maxSize+1), 1), fmt.Sprintf(size(maxSize), 2), false, false},
		"depth":          {fmt.Sprintf(deep(maxDepth), 1), fmt.Sprintf(deep(maxDepth), 2), true, true},
		"over depth":     {fmt.Sprintf(deep(maxDepth+1), 1), fmt.Sprintf(deep(maxDepth+1), 2), false, false},
		"values":         {long(maxValues - 3), long(maxValues - 4), true, false},
		"over values":    {long(maxValues - 2), long(maxValues - 4), false, false},
		"paths":          {fmt.Sprintf(named(1000), 1), fmt.Sprintf(named(1000), 2), true, true},
		"over paths":     {fmt.Sprintf(named(1100), 1), fmt.Sprintf(named(1100), 2), false, false},
		"operations":     {words(6_000), words(5_000), true, false},
		"over them":      {words(6_001), words(5_000), false, false},
		"no shorter":     {`{"a":1,"b":2,"c":3}`, `{"a":2,"b":3,"c":4}`, false, false},
		"equal, shorter": {`{"a":1}`, `{"a":1}`, true, true},
		"scalars":        {`"xxxxxxxxxx"`, `"xxxxxxxxxx"`, false, false},
		"empty":          {"", "", false, false},
		"text":           {"a", strings.Repeat("a", 100), false, false},
		"arrays": {list(100, `[`, func(i int) string { return fmt.Sprintf(`{"a":%d}`, i) }, `]`),
			list(100, `[`, func(i int) string { return fmt.Sprintf(`{"a":%d}`, i) }, `,1]`), true, false},
		"array, object": {`[` + size(100) + `]`, size(100), false, false},
	} {
		for kind, want := range map[Kind]bool{JSONPatch: test.patch, MergePatch: test.merge, "": false, "xml": false} {
			if _, ok := Make(kind, []byte(test.from), []byte(test.to)); ok != want {
				t.Errorf("%s: %q is %v; want %v", name, kind, ok, want)
			}
		}
		verify(t, JSONPatch, []byte(test.from), []byte(test.to))
		verify(t, MergePatch, []byte(test.from), []byte(test.to))
	}
}

// What takes long is bounded by what is compared; that it was not left out is seen by the
// patches of what is just below.
func TestLongest(t *testing.T) {
	numbers := func(n, first int) []byte {
		return []byte(list(n, `[`, func(i int) string { return fmt.Sprint(100_000 + i + first) }, `]`))
	}
	if patch, ok := Make(JSONPatch, numbers(1000, 1), numbers(1001, 0)); !ok || string(patch) != `[{"op":"add","path":"/0","value":100000}]` {
		t.Errorf("1,000 numbers: got %.100s, %v", patch, ok)
	}
	if patch, ok := Make(JSONPatch, numbers(5000, 1), numbers(5001, 0)); ok {
		t.Errorf("5,000 numbers: got %.100s; want none, since all have moved", patch)
	}
	if patch, ok := Make(JSONPatch, numbers(5000, 0), numbers(5001, 0)); !ok || string(patch) != `[{"op":"add","path":"/-","value":105000}]` {
		t.Errorf("5,000 numbers and one behind them: got %.100s, %v", patch, ok)
	}
}

// What a client would do with operations that are none is not guessed.
func TestPatched(t *testing.T) {
	for _, patch := range []string{
		`{}`, `[1]`, `[{}]`, `[{"op":"remove"}]`, `[{"op":"add","path":"/a"}]`, `[{"op":"remove","path":"/a","value":1}]`, `[{"op":"remove","path":""}]`,
		`[{"op":"remove","path":"/b"}]`, `[{"op":"replace","path":"/b","value":1}]`, `[{"op":"replace","path":"/b/c","value":1}]`, `[{"op":"test","path":"/a","value":1}]`,
		`[{"op":"move","path":"/a","from":"/b"}]`, `[{"op":"remove","path":"/a/3"}]`, `[{"op":"add","path":"/a/4","value":1}]`, `[{"op":"remove","path":"/a/-"}]`,
		`[{"op":"remove","path":"/a/01"}]`, `[{"op":"remove","path":"/a/+1"}]`, `[{"op":"remove","path":"/a/x"}]`, `[{"op":"replace","path":"/a/3","value":1}]`,
		`[{"op":"add","path":"/a/0/b","value":1}]`, `[{"op":"test","path":"/a/0","value":1}]`, `[{"op":"remove","path":"/a/99999999999"}]`,
	} {
		if got, ok := patched(tree(t, []byte(`{"a":[1,2,3]}`)), tree(t, []byte(patch))); ok {
			t.Errorf("%s: got %v", patch, got)
		}
	}
}
