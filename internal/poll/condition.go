package poll

import (
	"math/big"
	"slices"
	"strings"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Condition is one `hold_while` (contract 3.3).
type Condition struct {
	// Text with placeholders, such as `{lp.json.status}`.
	Value string `json:"value,omitempty"`

	// `is` (the value is one of the literals), `not` (it is none of them), `empty` (it
	// is missing, blank, null, [] or {}), `below` or `above` (it is a number that is
	// less or more than the literal, compared exactly; what is no number holds nothing).
	Op string `json:"op,omitempty"`

	// What the value is compared with. That of `below` and `above` is one, and may have
	// placeholders.
	Literals []string `json:"literals,omitempty"`
}

// True reports whether the condition is true of value, which is what its Value is for s;
// replace replaces placeholders. A condition that would be true of what is missing is
// not where it looks into a body that is no JSON: nothing is known of that. An answer
// that has no body by its status (204) is not looked into, and says that there is nothing.
func (c *Condition) True(value string, replace func(string) string, s *state.State) bool {
	if c.Op == "" || c.Op == "is" {
		return slices.Contains(c.Literals, value)
	}
	if Speaks(c.Value, "json.") && s != nil && s.Source != nil && httphdr.HasBody(s.Source.Status) && !s.IsJSON() {
		return false
	}
	switch c.Op {
	case "empty":
		return empty(value)
	case "not":
		return !slices.Contains(c.Literals, value)
	case "below", "above":
		if len(c.Literals) != 1 {
			return false
		}
		a, ok := number(value)
		b, okB := number(replace(c.Literals[0]))
		if !ok || !okB {
			return false
		}
		if c.Op == "below" {
			return a.Cmp(b) < 0
		}
		return a.Cmp(b) > 0
	}
	return false
}

// empty reports whether a value is missing, blank, null, [] or {}.
func empty(value string) bool {
	value = strings.TrimSpace(value)
	if last := len(value) - 1; last > 0 && (value[0] == '[' && value[last] == ']' || value[0] == '{' && value[last] == '}') {
		return strings.TrimSpace(value[1:last]) == ""
	}
	return value == "" || value == "null" || value == `""`
}

// maxDigits bounds a number that is compared: what is longer is none.
const maxDigits = 64

// number reads a decimal number, without an exponent, exactly.
func number(text string) (*big.Rat, bool) {
	text = strings.TrimSpace(text)
	if text == "" || len(text) > maxDigits || strings.Trim(text, "+-.0123456789") != "" {
		return nil, false
	}
	return new(big.Rat).SetString(text)
}
