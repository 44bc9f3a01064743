package httphdr

import (
	"strconv"
	"strings"
	"time"
)

// ParseWait reads a bare number in units, or a Go duration. What is too large for
// a duration is as long as can be.
func ParseWait(text string, unit time.Duration) (time.Duration, bool) {
	if text == "" || len(text) > 64 {
		return 0, false
	}
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		if strings.ContainsAny(text, "xXpPiInN_") || !(n >= 0) { // no hex, no Inf, no NaN
			return 0, false
		}
		if n > float64(1<<62)/float64(unit) {
			return 1 << 62, true
		}
		return time.Duration(n * float64(unit)), true
	}
	d, err := time.ParseDuration(text)
	return d, err == nil && d >= 0
}

// PreferWait finds the value of the first wait preference (RFC 7240, sections 2
// and 4.3), and where no preference is called wait that of the first parameter of
// another one that is. It is lenient: real clients send "wait=60s;index=TOKEN" and
// "modes=snapshot,delta;wait=60".
func PreferWait(fields []string) (string, bool) {
	value, found := "", false
	for _, field := range fields {
		for more := hasWait(field); more; {
			var preference string
			preference, field, more = next(field, ',')
			preference, parameters, any := next(preference, ';')
			if isNamed(preference, "wait") {
				return valueOf(preference), true
			}
			for any && !found {
				var parameter string
				parameter, parameters, any = next(parameters, ';')
				if isNamed(parameter, "wait") {
					value, found = valueOf(parameter), true
				}
			}
		}
	}
	return value, found
}

// valueOf is the value of a preference or of a parameter, without its quotes. A single
// one stays: what has it is malformed.
func valueOf(element string) string {
	_, value, _ := cut(element, '=')
	value = trim(value)
	if n := len(value); n > 1 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	return value
}

// hasWait reports whether a field may speak of wait at all.
func hasWait(field string) bool {
	for i := 0; i+4 <= len(field); i++ {
		if field[i]|0x20 == 'w' && strings.EqualFold(field[i:i+4], "wait") {
			return true
		}
	}
	return false
}

// WithoutWait is Prefer less what says how long the client waits: each preference wait
// with its parameters, and each parameter wait of another one, which would else count in
// its place (see PreferWait). The rest stays as it is, byte for byte; prefer itself is
// returned where there is nothing to take, and nil where nothing is left.
func WithoutWait(prefer []string) []string {
	var kept []string
	taken := false
	for i, field := range prefer {
		rest, changed := field, false
		if hasWait(field) {
			rest, changed = withoutWait(field)
		}
		if changed && !taken {
			taken = true
			kept = append(kept, prefer[:i]...)
		}
		if taken && (!changed || strings.Trim(rest, " \t,") != "") {
			kept = append(kept, rest)
		}
	}
	switch {
	case !taken:
		return prefer
	case len(kept) == 0:
		return nil
	}
	return kept
}

// withoutWait is one field of Prefer less what WithoutWait takes, and whether that was
// anything.
func withoutWait(field string) (rest string, changed bool) {
	kept := make([]string, 0, 4) // on the stack, as a rule
	for list, more := field, true; more; {
		var preference string
		preference, list, more = next(list, ',')
		name, parameters, any := next(preference, ';')
		if isNamed(name, "wait") {
			changed = true
			continue
		}
		if any && hasWait(parameters) {
			if left := name + withoutParameter(parameters); left != preference {
				changed = true
				if preference = left; trim(left) == "" {
					continue // it was a parameter of nothing
				}
			}
		}
		kept = append(kept, preference)
	}
	if !changed {
		return field, false
	}
	return trim(strings.Join(kept, ",")), true
}

// withoutParameter is the parameters of a preference less wait, each with the semicolon
// before it.
func withoutParameter(parameters string) string {
	var kept strings.Builder
	for more := true; more; {
		var parameter string
		parameter, parameters, more = next(parameters, ';')
		if !isNamed(parameter, "wait") {
			kept.WriteByte(';')
			kept.WriteString(parameter)
		}
	}
	return kept.String()
}
