package directive

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// placeholders are those of long_poll, without their prefix. A part in capitals
// stands for any text; a last one may have dots in it.
var placeholders = []string{
	"status",
	"etag",
	"hash",
	"version",
	"body",
	"outcome",
	"held",
	"header.NAME",
	"json.PATH",
	"request.json.PATH",
	"request.form.NAME",
	"request.query_json.NAME.PATH",
}

// prefixes are the two names of each.
var prefixes = []string{"lp.", "http.long_poll."}

// lookalikes are what somebody may write in the place of these: nothing is known by them.
var lookalikes = []string{"http.longpoll.", "http.lp.", "long_poll.", "longpoll.", "http.long_poll.", "lp."}

// form is a placeholder as Caddy's replacer reads it, or a brace that a backslash
// takes its meaning.
var form = regexp.MustCompile(`\\[{}]|\{((?:\\[{}]|[^{}])*)\}`)

// names are the placeholders in texts.
func names(texts []string) (found []string) {
	for _, text := range texts {
		for _, m := range form.FindAllStringSubmatch(text, -1) {
			if m[1] != "" {
				found = append(found, m[1])
			}
		}
	}
	return found
}

// Placeholders accepts texts, by the subdirective that has them, if what they take
// from long_poll exists (contract 2): else it would be the empty text, silently.
func Placeholders(values map[string][]string) error {
	for _, subdirective := range slices.Sorted(maps.Keys(values)) {
		for _, name := range names(values[subdirective]) {
			for _, prefix := range prefixes {
				if own, ok := strings.CutPrefix(name, prefix); ok && !slices.ContainsFunc(placeholders, func(known string) bool { return matches(known, own) }) {
					return fmt.Errorf("%s: unknown placeholder %q; expected one of long_poll's, such as %q",
						subdirective, "{"+name+"}", "{"+prefix+Nearest(own, placeholders)+"}")
				}
			}
		}
	}
	return nil
}

// Constant lists the subdirectives that have a text without a placeholder: one that says
// the same whoever asks and whatever is answered.
func Constant(values map[string][]string) (found []string) {
	for _, subdirective := range slices.Sorted(maps.Keys(values)) {
		if slices.ContainsFunc(values[subdirective], func(text string) bool { return text != "" && len(names([]string{text})) == 0 }) {
			found = append(found, subdirective)
		}
	}
	return found
}

// matches reports whether name is the known one.
func matches(known, name string) bool {
	fixed, free := split(known)
	if len(free) == 0 {
		return name == fixed
	}
	rest, ok := strings.CutPrefix(name, fixed+".")
	given := strings.SplitN(rest, ".", len(free))
	return ok && len(given) == len(free) && !slices.Contains(given, "")
}

// split gives the part of a known name that is always the same, and the parts that
// stand for any text.
func split(known string) (fixed string, free []string) {
	parts := strings.Split(known, ".")
	n := slices.IndexFunc(parts, func(part string) bool { return part == strings.ToUpper(part) })
	if n < 0 {
		return known, nil
	}
	return strings.Join(parts[:n], "."), parts[n:]
}

// Nearest is the known name that takes the fewest letters to make of name, with what
// name has where the known one, in capitals, accepts anything. The earlier of two
// wins; without a known name it is empty.
func Nearest(name string, known []string) (nearest string) {
	fewest := -1
	for _, k := range known {
		fixed, free := split(k)
		head, rest := name, []string(nil)
		if n := strings.Count(fixed, ".") + 1; len(free) > 0 {
			parts := strings.Split(name, ".")
			n = min(n, len(parts))
			head = strings.Join(parts[:n], ".")
			if n < len(parts) {
				rest = strings.SplitN(strings.Join(parts[n:], "."), ".", len(free))
			}
		}
		if d := distance(strings.ToLower(head), fixed); fewest < 0 || d < fewest {
			fewest = d
			for i := range free {
				if i < len(rest) && rest[i] != "" {
					free[i] = rest[i]
				}
			}
			nearest = strings.Join(append([]string{fixed}, free...), ".")
		}
	}
	return nearest
}

// distance is how many letters have to be added, removed or replaced (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1) // from what of a was seen to each beginning of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// lookalike is what stands behind something that looks like one of our prefixes and is
// none.
func lookalike(name string) (own string, ok bool) {
	for _, prefix := range prefixes {
		if strings.HasPrefix(name, prefix) {
			return "", false // which Placeholders judges
		}
	}
	for _, prefix := range lookalikes {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return name[len(prefix):], true
		}
	}
	return "", false
}

// Unresolved finds, in texts by the subdirective that has them, what looks like one
// of the Caddyfile's short placeholders and was not replaced by the long one: Caddy
// does so only where the name is made of letters, digits, _ and -, and never in
// JSON. And what looks like one of ours under a prefix that is none. They give the empty text, silently. Each comes with what it was probably meant to
// be. long makes a short placeholder long, or gives it back.
func Unresolved(long func(placeholder string) string, values map[string][]string) (found []string) {
	for _, subdirective := range slices.Sorted(maps.Keys(values)) {
		for _, name := range names(values[subdirective]) {
			if own, ok := lookalike(name); ok {
				found = append(found, fmt.Sprintf("%s {%s}: expected {%s%s}", subdirective, name, prefixes[0], Nearest(own, placeholders)))
				continue
			}
			kind, rest, dotted := strings.Cut(name, ".")
			if kind == "file" && dotted {
				continue // the contents of a file; Caddy has it in both meanings
			}
			short, in := "{"+name+"}", "{"+name+"}"
			if dotted {
				in = "{" + kind + ".x}"
			}
			out := long(in)
			if out == in {
				continue
			}
			if dotted {
				out = strings.TrimSuffix(out, "x}") + rest + "}"
			}
			found = append(found, fmt.Sprintf("%s %s: expected %s", subdirective, short, out))
		}
	}
	return found
}
