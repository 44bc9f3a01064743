package delta

import (
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"
)

// document is JSON that was read, and what it may cost to compare it.
type document struct {
	value   any           // as encoding/json has it, numbers as json.Number
	depth   int           // of nesting: 0 is a scalar
	weight  int           // about what it costs to compare it with its like, in comparisons of two scalars
	longest [maxDepth]int // array, by depth
}

// What a value weighs in comparisons: the member of an object is looked up in a map.
const (
	memberWeight = 6
	bytesWeight  = 32 // bytes of JSON that weigh as much as a scalar
)

// misread are names of members that well-known libraries do not apply patches to as they
// should: prototypes in JavaScript, and no name at all.
var misread = []string{"__proto__", "prototype", ""}

// read reads JSON that can be compared value by value without a doubt. It refuses what
// clients read differently: members given twice, strings that are no Unicode (an escape
// of half a surrogate pair), and members that are misread.
func read(text []byte) (*document, bool) {
	if len(text) > maxSize || !utf8.Valid(text) || !json.Valid(text) {
		return nil, false
	}
	d := &document{weight: len(text) / bytesWeight}
	re := &reader{document: d, text: text}
	d.value = re.read(0)
	return d, !re.refused
}

// reader reads valid JSON, and nothing else: so it looks only where values begin and end.
type reader struct {
	*document
	text    []byte
	at      int
	values  int
	path    int // bytes of the path of what is read
	paths   int // of all of them
	refused bool
}

// token skips white space, and is the next byte behind it.
func (re *reader) token() byte {
	for {
		switch c := re.text[re.at]; c {
		case ' ', '\t', '\r', '\n':
			re.at++
		default:
			return c
		}
	}
}

// read reads a value, depth levels deep.
func (re *reader) read(depth int) any {
	re.values++
	re.weight++
	re.paths += re.path
	if re.values > maxValues || re.paths > maxPaths {
		re.refused = true
		return nil
	}
	if depth > re.depth {
		re.depth = depth
	}
	switch re.token() {
	case '{':
		return re.object(depth)
	case '[':
		return re.array(depth)
	case '"':
		return re.string()
	case 't':
		re.at += len("true")
		return true
	case 'f':
		re.at += len("false")
		return false
	case 'n':
		re.at += len("null")
		return nil
	default:
		begin := re.at
		for re.at < len(re.text) && strings.IndexByte("+-.0123456789Ee", re.text[re.at]) >= 0 {
			re.at++
		}
		return json.Number(re.text[begin:re.at])
	}
}

func (re *reader) object(depth int) any {
	object := make(map[string]any)
	re.at++
	for re.deeper(depth) && re.token() != '}' {
		if re.text[re.at] == ',' {
			re.at++
			re.token()
		}
		name := re.string()
		if _, twice := object[name]; twice || slices.Contains(misread, name) {
			re.refused = true
		}
		re.token()
		re.at++ // the colon
		re.values++
		re.weight += memberWeight - 1
		re.path += 1 + len(name)
		object[name] = re.read(depth + 1)
		re.path -= 1 + len(name)
	}
	re.at++
	return object
}

func (re *reader) array(depth int) any {
	array := make([]any, 0)
	re.at++
	for re.deeper(depth) && re.token() != ']' {
		if re.text[re.at] == ',' {
			re.at++
		}
		re.path += len("/99999")
		array = append(array, re.read(depth+1))
		re.path -= len("/99999")
	}
	re.at++
	if !re.refused {
		re.longest[depth] = max(re.longest[depth], len(array))
	}
	return array
}

// deeper reports whether to read what is in an object or array, depth levels deep.
func (re *reader) deeper(depth int) bool {
	if depth >= maxDepth {
		re.refused = true
	}
	return !re.refused
}

func (re *reader) string() string {
	begin := re.at
	escaped := false
	for re.at++; re.text[re.at] != '"'; re.at++ {
		if re.text[re.at] == '\\' {
			escaped = true
			re.at++
		}
	}
	re.at++
	text := re.text[begin:re.at]
	if !escaped {
		return string(text[1 : len(text)-1])
	}
	var s string
	if err := json.Unmarshal(text, &s); err != nil || strings.ContainsRune(s, utf8.RuneError) {
		re.refused = true // it may have been half a surrogate pair
	}
	return s
}

// equal reports whether two values are the same JSON, numbers by their spelling.
func equal(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for name, v := range a {
			if w, ok := b[name]; !ok || !equal(v, w) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !equal(a[i], b[i]) {
				return false
			}
		}
		return true
	default: // string, bool, json.Number, nil
		switch b.(type) {
		case map[string]any, []any:
			return false
		}
		return a == b
	}
}
