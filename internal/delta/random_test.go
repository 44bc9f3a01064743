package delta

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
)

// source makes JSON at random.
type source struct{ *rand.Rand }

var names = []string{"a", "b", "c", "id", "0", "-", "a/b", "~", "~1", "é\u2028", "<&>", "\"\\\n", "items", "A"}

var scalars = []any{
	nil, true, false, "", "a", "b", "<&>\u2028\x00\"\\/", "😀", "null", json.Number("0"), json.Number("-0"), json.Number("1"), json.Number("1.0"), json.Number("1e0"),
	json.Number("12345678901234567890"), json.Number("12345678901234567891"), json.Number("1e400"), json.Number("0.1"), json.Number("0.10"),
}

func (s source) value(depth int) any {
	switch n := s.IntN(10); {
	case depth > 0 && n < 3:
		object := make(map[string]any)
		for range s.IntN(6) {
			object[names[s.IntN(len(names))]] = s.value(depth - 1)
		}
		return object
	case depth > 0 && n < 6:
		array := make([]any, s.IntN(6))
		for i := range array {
			array[i] = s.value(depth - 1)
		}
		return array
	case n == 6:
		return json.Number(fmt.Sprint(s.IntN(5)))
	default:
		return scalars[s.IntN(len(scalars))]
	}
}

// mutated is v with a few changes, in values of its own.
func (s source) mutated(v any, chance float64) any {
	if s.Float64() < chance {
		return s.value(2)
	}
	switch v := v.(type) {
	case map[string]any:
		object := make(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if s.Float64() >= chance {
				object[name] = s.mutated(v[name], chance)
			}
		}
		if s.Float64() < chance {
			object[names[s.IntN(len(names))]] = s.value(1)
		}
		return object
	case []any:
		var array []any
		for _, element := range v {
			if s.Float64() < chance {
				array = append(array, s.value(1))
			}
			if s.Float64() >= chance {
				array = append(array, s.mutated(element, chance))
			}
		}
		if s.Float64() < chance/2 {
			s.Shuffle(len(array), func(i, j int) { array[i], array[j] = array[j], array[i] })
		}
		return append([]any{}, array...)
	default:
		return v
	}
}

func text(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// tree is what encoding/json reads, numbers in their own spelling.
func tree(t testing.TB, text []byte) any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}

// apply applies a patch by the library that many clients do it with.
func apply(kind Kind, from, patch []byte) ([]byte, error) {
	if kind == MergePatch {
		return jsonpatch.MergePatch(from, patch)
	}
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return nil, err
	}
	return p.Apply(from)
}

// verify makes a patch, and sees to it that what is made is what was asked for.
func verify(t *testing.T, kind Kind, from, to []byte) bool {
	t.Helper()
	patch, ok := Make(kind, from, to)
	if !ok {
		if patch != nil {
			t.Errorf("%s from %s to %s: there is a patch that is none: %s", kind, from, to, patch)
		}
		return false
	}
	got, err := apply(kind, from, patch)
	switch {
	case err != nil:
		t.Errorf("%s from %s to %s: %s: %v", kind, from, to, patch, err)
	case !bytes.Equal(text(t, tree(t, got)), text(t, tree(t, to))): // with members in order
		t.Errorf("%s from %s to %s: %s makes %s", kind, from, to, patch, got)
	case len(patch) >= len(to):
		t.Errorf("%s from %s to %s: %s is no shorter", kind, from, to, patch)
	}
	return true
}

// Whatever patch there is, applied to the first state it gives the second.
func TestRandom(t *testing.T) {
	pairs := 10_000
	if testing.Short() {
		pairs = 1_000
	}
	for _, kind := range []Kind{JSONPatch, MergePatch} {
		t.Run(string(kind), func(t *testing.T) {
			s := source{rand.New(rand.NewPCG(13, 8))}
			var made int
			for i := range pairs {
				a := map[string]any{"items": s.value(4), "a": s.value(3), "b": s.value(2), "id": "the state of a resource"}
				var from, to any = a, s.mutated(a, []float64{0.01, 0.03, 0.1}[i%3])
				switch i % 10 {
				case 0:
					from, to = s.value(4), s.value(4)
				case 1:
					from = a["items"]
					to = s.mutated(from, 0.05)
				}
				if verify(t, kind, text(t, from), text(t, to)) {
					made++
				}
				if t.Failed() {
					return
				}
			}
			if t.Logf("%d patches of %d pairs", made, pairs); made < pairs/2 {
				t.Errorf("made %d patches of %d pairs; want half of them, else this shows nothing", made, pairs)
			}
		})
	}
}

// FuzzDelta: no two bodies give a patch that does not lead from one to the other.
func FuzzDelta(f *testing.F) {
	s := source{rand.New(rand.NewPCG(13, 8))}
	for range 50 {
		v := s.value(4)
		f.Add(text(f, v), text(f, s.mutated(v, 0.1)))
	}
	f.Add([]byte(`{"a":1,"a":2,"padding":"xxxxxxxxxxxxxxxxxxx"}`), []byte(`{"a":2,"padding":"xxxxxxxxxxxxxxxxxxx"}`))
	f.Add([]byte(`{"a":"\ud800","padding":"xxxxxxxxxxxxxxxxxxx"}`), []byte(`{"a":"\ud801","padding":"xxxxxxxxxxxxxxxxxxx"}`))
	f.Add([]byte("{\"a\":\"\xff\"}"), []byte(" [ 1 , [ [ ] ] ] "))
	f.Fuzz(func(t *testing.T, from, to []byte) {
		for _, kind := range []Kind{JSONPatch, MergePatch} {
			verify(t, kind, from, to)
		}
		if d, ok := read(from); ok && !equal(d.value, tree(t, from)) {
			t.Errorf("%q is read as %v", from, d.value)
		}
	})
}
