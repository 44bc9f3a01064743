package directive

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
)

// AboveZero accepts nil too, which is the default.
func AboveZero[T int | int64 | caddy.Duration](name string, v *T) error {
	if v != nil && *v <= 0 {
		return fmt.Errorf("%s %q: expected more than 0", name, Print(*v))
	}
	return nil
}

// NotNegative accepts nil too, which is the default.
func NotNegative[T int | int64 | caddy.Duration](name string, v *T) error {
	if v != nil && *v < 0 {
		return fmt.Errorf("%s %q: expected 0 or more", name, Print(*v))
	}
	return nil
}

// OneOf accepts the empty text too, which is the default.
func OneOf(name, read string, accepted ...string) error {
	if read == "" || slices.Contains(accepted, read) {
		return nil
	}
	return fmt.Errorf("%s %q: expected %s", name, read, list(accepted))
}

// Print writes a value as the Caddyfile has it.
func Print(v any) string {
	if d, ok := v.(caddy.Duration); ok {
		return time.Duration(d).String()
	}
	return fmt.Sprint(v)
}

// Status accepts the status of an answer, and a body only where that may have one
// (RFC 9110, section 6.4.1).
func Status(name string, status int, body string) error {
	read := Answer(status, body)
	if status < 200 || status > 599 {
		return fmt.Errorf("%s %q: expected a status from 200 to 599", name, read)
	}
	switch status {
	case http.StatusNoContent, http.StatusResetContent, http.StatusNotModified:
		if body != "" {
			return fmt.Errorf("%s %q: expected no body, since an answer with the status %d has none", name, read, status)
		}
	}
	return nil
}

// Answer writes a status and a body as the Caddyfile has them.
func Answer(status int, body string) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, body))
}

// Methods accepts those that a request can have.
func Methods(name string, methods []string) error {
	for _, method := range methods {
		if !Method(method) {
			return fmt.Errorf("%s %q: expected HTTP methods such as GET", name, method)
		}
	}
	return nil
}

// Method reports whether a request can have the method. Methods are case-sensitive,
// so that one in lower case would never match.
func Method(method string) bool {
	return httpguts.ValidHeaderFieldName(method) && method == strings.ToUpper(method)
}

// Header accepts fields that an answer can have.
func Header(name string, header http.Header) error {
	for _, field := range slices.Sorted(maps.Keys(header)) {
		if !isField(field) {
			return fmt.Errorf("%s %q: expected the name of a header field", name, field)
		}
		switch http.CanonicalHeaderKey(field) {
		case "Content-Length", "Transfer-Encoding", "Trailer", "Connection":
			return fmt.Errorf("%s %q: expected a field that says nothing of how the answer is sent", name, field)
		}
		for _, value := range header[field] {
			if !httpguts.ValidHeaderFieldValue(value) {
				return fmt.Errorf("%s %q: value %q: expected text without control characters", name, field, value)
			}
		}
	}
	return nil
}

// isField reports whether a header field can have the name. An asterisk is a token
// too, but names all fields where one names any.
func isField(name string) bool {
	return name != "*" && httpguts.ValidHeaderFieldName(name)
}

// Vary accepts the names of header fields, and client_ip, each with or without a
// minus, but not in both ways. Names are compared regardless of case.
func Vary(name string, fields []string) error {
	given := make(map[string]string)
	for _, field := range fields {
		bare, minus := strings.CutPrefix(field, "-")
		if !isField(bare) || bare[0] == '-' {
			return fmt.Errorf("%s %q: expected the name of a header field or client_ip, with or without a - in front", name, field)
		}
		other, ok := given[strings.ToLower(bare)]
		if ok && strings.HasPrefix(other, "-") != minus {
			return fmt.Errorf("%s %q with %q: expected one of them, since one compares what the other does not", name, field, other)
		}
		given[strings.ToLower(bare)] = field
	}
	return nil
}

// Regexps accepts what Go's RE2 reads. An empty one would match anywhere, and
// nothing.
func Regexps(name string, expressions []string) error {
	for _, expression := range expressions {
		if _, err := regexp.Compile(expression); err != nil {
			return fmt.Errorf("%s %q: %w; expected a regular expression of Go (RE2)", name, expression, err)
		}
		if expression == "" {
			return fmt.Errorf(`%s "": expected a regular expression that is not empty`, name)
		}
	}
	return nil
}

// Comparison accepts what a condition compares: value is (or is not) one of
// literals, is empty, or is a number below (or above) the one that the sole literal
// gives.
func Comparison(name, value, op string, literals []string) error {
	read := strings.Join(append([]string{value, op}, literals...), " ")
	switch op {
	case "is", "not":
		if len(literals) == 0 {
			return fmt.Errorf("%s %q: expected literals after %s", name, read, op)
		}
	case "empty":
		if len(literals) > 0 {
			return fmt.Errorf("%s %q: expected no literals after empty", name, read)
		}
	case "below", "above":
		if len(literals) != 1 || !mayBeNumber(literals[0]) {
			return fmt.Errorf("%s %q: expected one number after %s, or a placeholder that gives one", name, read, op)
		}
	default:
		return fmt.Errorf("%s %q: unknown comparison %q; expected is, not, empty, below or above", name, read, op)
	}
	if value == "" {
		return fmt.Errorf("%s %q: expected a value, usually a placeholder such as {lp.json.status}", name, read)
	}
	return nil
}

// mayBeNumber reports whether text is a number, or will be once its placeholders
// are replaced.
func mayBeNumber(text string) bool {
	n, err := strconv.ParseFloat(text, 64)
	return err == nil && !math.IsNaN(n) && !math.IsInf(n, 0) || strings.Contains(text, "{")
}
