package sse

import (
	"bytes"
	"encoding/json"
)

// The members of a line's object, where lines say which of both they are. A line
// without one is the body itself.
const (
	Bare        = ""
	StateMember = "state"
	PatchMember = "patch"
)

// LineHeartbeat is what keeps a stream of lines alive between two of them: an empty one.
const LineHeartbeat = "\n"

// byteOrderMark is what some backends begin JSON with (RFC 8259, section 8.1: who reads
// it may ignore that). No line is JSON with it, and no event's data.
var byteOrderMark = []byte("\ufeff")

// unmarked is JSON without the mark; any other text keeps it.
func unmarked(body []byte) []byte {
	if rest, marked := bytes.CutPrefix(body, byteOrderMark); marked && json.Valid(rest) {
		return rest
	}
	return body
}

// Line is a body on one line: JSON compacted, anything else as a JSON string; JSON that
// is nested deeper than encoding/json reads (10,000) is anything else. Where member is
// not [Bare] the line is an object whose only member has that name.
func Line(member string, body []byte) []byte {
	var b bytes.Buffer
	b.Grow(len(`{"":""}`) + len(member) + len(body) + len("\n"))
	if member != Bare {
		b.WriteString(`{"`)
		b.WriteString(member)
		b.WriteString(`":`)
	}
	begin := b.Len()
	if err := json.Compact(&b, bytes.TrimPrefix(body, byteOrderMark)); err != nil {
		b.Truncate(begin)
		appendString(&b, body)
	}
	if member != Bare {
		b.WriteByte('}')
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// appendString appends a text as a JSON string, and escapes what has to be (RFC 8259,
// section 7) and nothing else: encoding/json escapes U+2028 and U+2029 too.
func appendString(b *bytes.Buffer, text []byte) {
	const digits = "0123456789abcdef"
	b.WriteByte('"')
	plain := 0
	for i, c := range text {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b.Write(text[plain:i])
		plain = i + 1
		switch c {
		case '"', '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case '\n':
			b.WriteString(`\n`)
		case '\r':
			b.WriteString(`\r`)
		case '\t':
			b.WriteString(`\t`)
		default:
			b.WriteString(`\u00`)
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	b.Write(text[plain:])
	b.WriteByte('"')
}
