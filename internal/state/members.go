package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// Member is a member of a JSON text; "" if it is missing, or the text no JSON. A byte
// order mark in front is no part of it.
func Member(text []byte, path string) string {
	if !validJSON(text) {
		return ""
	}
	member := gjson.GetBytes(withoutMark(text), path)
	if member.Type == gjson.Number && beyondFloat(member.Raw, member.String()) {
		return member.Raw
	}
	return member.String()
}

// beyondFloat reports whether shown, which gjson makes of a number, is another number:
// it reads a float64, unless the number is an integer without an exponent.
func beyondFloat(raw, shown string) bool {
	if raw == shown || len(raw) > 64 || strings.ContainsAny(raw, "eE") {
		return false
	}
	a, ok := new(big.Rat).SetString(raw)
	b, okB := new(big.Rat).SetString(shown)
	return ok && okB && a.Cmp(b) != 0
}

// validJSON reports whether text is JSON, less a byte order mark.
func validJSON(text []byte) bool {
	// Not gjson.Valid, which takes a stack as deep as the text is nested.
	return json.Valid(withoutMark(text))
}

// withoutMark is text without the byte order mark of UTF-8, which some servers write
// before JSON although RFC 8259, section 8.1, forbids it.
func withoutMark(text []byte) []byte { return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) }

// MemberPath splits the path of a JSON member, as `ignore` has it, into
// its parts. The syntax is the part of gjson's that says where a member is:
// names and array indexes between dots, `#` for every element of an array, and a
// backslash before a character that would mean something else. What gjson
// computes (queries, modifiers, wildcards) can not be dropped, so it is rejected.
func MemberPath(path string) ([]string, error) {
	var parts []string
	var part []byte
	reject := func(i int) error {
		return fmt.Errorf("parsing member path %q: unexpected %q at offset %d; "+
			"expected names, numbers or # between dots, and a backslash before any other special character",
			path, path[i], i)
	}
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c == '\\':
			i++
			if i == len(path) {
				return nil, fmt.Errorf("parsing member path %q: expected a character after the backslash at its end", path)
			}
			c = path[i]
		case c == '.':
			if len(part) == 0 {
				return nil, reject(i)
			}
			parts = append(parts, string(part))
			part = nil
			continue
		case c == '#' && (len(part) > 0 || i+1 < len(path) && path[i+1] != '.'),
			strings.IndexByte("|*?", c) >= 0,
			strings.IndexByte("@!{[", c) >= 0 && len(part) == 0: // gjson takes them for names elsewhere
			return nil, reject(i)
		}
		part = append(part, c)
	}
	if len(part) == 0 {
		return nil, fmt.Errorf("parsing member path %q: expected a name, a number or # at its end", path)
	}
	return append(parts, string(part)), nil
}

// dropMembers returns the JSON body without the members along the paths, in a
// form that is the same for equal members in whatever order and spacing. It
// reports false if the body is not one JSON value.
//
// A part of a path means what the value makes of it: in an object it is a name,
// in an array an index or, if it is #, every element.
func dropMembers(body []byte, paths [][]string) ([]byte, bool) {
	// The decoder would turn all bytes that are no UTF-8 into the same
	// character, and a change between two of them would go unseen.
	if !utf8.Valid(body) {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(withoutMark(body)))
	dec.UseNumber() // 1.0 and 1 differ, and so do large integers
	var root any
	if err := dec.Decode(&root); err != nil {
		return nil, false
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, false
	}
	for _, path := range paths {
		dropMember(root, path)
	}
	rest, err := json.Marshal(sweepElements(root))
	return rest, err == nil
}

// droppedElement takes the place of an element until every path has been
// followed, so that the indexes of its neighbours stay what they were.
type droppedElement struct{}

func dropMember(v any, path []string) {
	part, rest := path[0], path[1:]
	switch v := v.(type) {
	case map[string]any:
		if len(rest) == 0 {
			delete(v, part)
		} else {
			dropMember(v[part], rest)
		}
	case []any:
		elements := elementsAt(v, part)
		for i := range elements {
			if len(rest) == 0 {
				elements[i] = droppedElement{}
			} else {
				dropMember(elements[i], rest)
			}
		}
	}
}

// elementsAt returns the elements of the array that the part names.
func elementsAt(array []any, part string) []any {
	if part == "#" {
		return array
	}
	i, err := strconv.ParseUint(part, 10, 64)
	if err != nil || i >= uint64(len(array)) {
		return nil
	}
	return array[i : i+1]
}

// sweepElements removes the dropped elements.
func sweepElements(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			v[name] = sweepElements(member)
		}
	case []any:
		v = slices.DeleteFunc(v, func(element any) bool { return element == droppedElement{} })
		for i, element := range v {
			v[i] = sweepElements(element)
		}
		return v
	}
	return v
}
