package delta

import (
	"fmt"
	"strings"
	"testing"
)

// list is JSON of n elements between two brackets, each made of its number.
func list(n int, open string, element func(i int) string, end string) string {
	var b strings.Builder
	b.WriteString(open)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(element(i))
	}
	b.WriteString(end)
	return b.String()
}

// worst are pairs of states, each at one of the bounds.
func worst() map[string][2]string {
	number := func(plus int) func(i int) string {
		return func(i int) string { return fmt.Sprint(100_000 + (i*7919+plus)%99_991) }
	}
	one := func(plus int) func(i int) string {
		return func(i int) string { return fmt.Sprint((i + plus) % 10) }
	}
	member := func(name string, plus int) func(i int) string {
		return func(i int) string { return fmt.Sprintf(`"%s%d":%d`, name, i, (i+plus)%10) }
	}
	object := func(members, other int) func(plus int) func(i int) string {
		return func(plus int) func(i int) string {
			return func(i int) string {
				return list(members, `{`, member("m", i*other), fmt.Sprintf(`,"last":%d}`, i+plus))
			}
		}
	}
	arrays := func(n, elements int, element func(plus int) func(i int) string) [2]string {
		array := func(plus int) string { return list(elements, `[`, element(plus), `]`) }
		return [2]string{
			list(n, `{"a":[`, func(int) string { return array(1) }, `]}`),
			list(n, `{"a":[`, func(int) string { return array(2) }, `]}`),
		}
	}
	deep := func(levels int, inner string) string {
		return strings.Repeat(`{"a":`, levels) + inner + strings.Repeat(`}`, levels)
	}
	two := func(a, b string) [2]string { return [2]string{a, b} }
	text := func(text string) func(i int) string { return func(int) string { return text } }
	long := strings.Repeat("a", 4_000)
	return map[string][2]string{
		// by position
		"Array":      arrays(1, 19_990, number),
		"Arrays":     arrays(13, 1_500, one),
		"Members":    two(list(9_990, `{`, member("m", 1), `}`), list(9_990, `{`, member("m", 2), `}`)),
		"Member":     two(list(9_990, `{`, member("m", 1), `}`), list(9_990, `{`, member("m", 1), `,"z":1}`)),
		"Strings":    two(list(19_900, `{"a":[`, text(`"abcdefgh"`), `]}`), list(19_900, `{"a":[`, text(`"abcdefgi"`), `]}`)),
		"Escapes":    two(list(19_900, `{"a":[`, text(`"\n\n\n"`), `]}`), list(19_900, `{"a":[`, text(`"\t\t\t"`), `]}`)),
		"Removals":   two(list(19_990, `{"a":[`, number(1), `]}`), list(19_000, `{"a":[`, number(1), `]}`)),
		"Operations": two(list(19_000, `{"a":[`, text(`"abcdefgh"`), `]}`), list(19_000, `{"a":[`, func(i int) string { return []string{"1", `"abcdefgh"`}[min(i%20, 1)] }, `]}`)),
		"Deep":       two(deep(60, list(4_900, `{`, member("m", 1), `}`)), deep(60, list(4_900, `{`, member("m", 1), `,"z":1}`))),
		"Paths":      two(`{"`+strings.Repeat("a", 900)+`":`+list(4_200, `{`, member("m", 1), `}}`), `{"`+strings.Repeat("a", 900)+`":`+list(4_200, `{`, member("m", 2), `}}`)),
		// by subsequence
		"Numbers":    arrays(1, 1_230, number),
		"Digits":     arrays(1, 1_350, one),
		"Booleans":   two(list(1_350, `{"a":[`, text("true"), `]}`), list(1_349, `{"a":[`, text("true"), `]}`)),
		"Objects":    arrays(1, 160, object(10, 1)),
		"Alike":      arrays(1, 160, object(10, 0)),
		"Pairs":      arrays(1, 360, object(1, 0)),
		"BigObjects": arrays(1, 55, object(100, 0)),
		"Nested": arrays(1, 60, func(plus int) func(i int) string {
			return func(i int) string { return list(300, `[`, one(0), fmt.Sprint(",", i+plus, "]")) }
		}),
		"LongStrings": arrays(1, 60, func(plus int) func(i int) string {
			return func(i int) string { return fmt.Sprintf(`"%s%d"`, long, i+100*plus) }
		}),
	}
}

// BenchmarkWorst is why the bounds are what they are.
func BenchmarkWorst(b *testing.B) {
	for name, pair := range worst() {
		for _, kind := range []Kind{JSONPatch, MergePatch} {
			from, to := []byte(pair[0]), []byte(pair[1])
			b.Run(name+"/"+string(kind), func(b *testing.B) {
				b.ReportAllocs()
				patch, ok := Make(kind, from, to)
				for b.Loop() {
					Make(kind, from, to)
				}
				b.ReportMetric(float64(len(to)), "bytes")
				if ok {
					b.ReportMetric(float64(len(patch)), "patch-bytes")
				}
				x, okx := read(from)
				y, oky := read(to)
				if okx && oky && longest(x, y) {
					b.ReportMetric(1, "subsequence")
				}
				if !okx || !oky {
					b.ReportMetric(1, "unread")
				}
			})
		}
	}
}

// BenchmarkMake is a patch of a state of common size.
func BenchmarkMake(b *testing.B) {
	item := func(i int) string {
		return fmt.Sprintf(`{"id":%d,"name":"item %d","price":%d.50,"stock":%d}`, i, i, i, i*3)
	}
	from := []byte(list(50, `{"items":[`, item, `]}`))
	to := []byte(strings.Replace(string(from), `"stock":75`, `"stock":74`, 1))
	for _, kind := range []Kind{JSONPatch, MergePatch} {
		b.Run(string(kind), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Make(kind, from, to)
			}
		})
	}
}
