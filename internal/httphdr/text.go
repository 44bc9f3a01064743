package httphdr

import (
	"net/http"
	"strings"
)

// FieldValue makes of text something that can stand in a header field.
func FieldValue(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// HasBody reports whether an answer with that status may have a body.
func HasBody(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

// ValidMethod reports whether a request can have the method. Methods are
// case-sensitive, so that one in lower case would never match.
func ValidMethod(method string) bool {
	for i := range len(method) {
		if !isToken(method[i]) || 'a' <= method[i] && method[i] <= 'z' {
			return false
		}
	}
	return method != ""
}

// isToken reports whether c may stand in a token (RFC 9110, section 5.6.2).
func isToken(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
