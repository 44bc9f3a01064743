package httphdr

import "strings"

// next cuts the first element off a list whose separator may stand inside of quoted
// strings too (RFC 9110, section 5.6.4). A quote that is never closed takes what follows
// with it. more is false for the last element.
func next(list string, separator byte) (element, rest string, more bool) {
	if strings.IndexByte(list, '"') < 0 {
		element, rest, more = cut(list, separator)
		return element, rest, more
	}
	quoted := false
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == separator && !quoted:
			return list[:i], list[i+1:], true
		}
	}
	return list, "", false
}

func cut(text string, separator byte) (before, after string, found bool) {
	if i := strings.IndexByte(text, separator); i >= 0 {
		return text[:i], text[i+1:], true
	}
	return text, "", false
}

// trim takes off the white space that may stand around an element.
func trim(text string) string { return strings.Trim(text, " \t") }

// isNamed reports whether the element of a list, with or without a value, has the name,
// in any case.
func isNamed(element, name string) bool {
	element, _, _ = cut(element, '=')
	return strings.EqualFold(trim(element), name)
}
