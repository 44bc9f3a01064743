package httphdr

import (
	"net/http"
	"strings"
)

// FieldValue makes of text something that can stand in a header field: a control
// character becomes a space.
func FieldValue(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// HasBody reports whether an answer with that status has a body, be it empty (RFC 9110,
// section 6.4.1). That its request is no HEAD is for the caller to see.
func HasBody(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}
