// Package sse writes what a stream consists of: server-sent events (the HTML Living
// Standard, section 9.2) and NDJSON lines. It is told versions and bodies, and knows
// neither who reads them nor what they are versions of. It uses the standard library
// only, starts nothing and keeps nothing: what it returns belongs to the caller, who
// makes it once for all who are told the same.
//
// Whatever the body and the version are, what is written is one event, or one line, and
// nothing in them can begin another. Bodies have to be [Streamable]; what clients get
// of them is:
//
//   - as an event of an [Exact] body: the body, byte by byte;
//   - as an event of any other: the body with each CRLF and each lone CR turned into LF.
//     The format has no way to carry a CR: it ends a line of an event as LF does, and
//     clients join lines with LF. JSON loses nothing by it, since a CR can only stand
//     between its tokens; a text keeps its lines and loses which line ends they had;
//   - as an event of JSON behind a byte order mark: without that, as from a body that is
//     decoded as a whole. A client that gives an event's data to JSON.parse has nobody
//     else who takes it away;
//   - as a line, of JSON: the same JSON without the white space between its tokens,
//     numbers and strings in the spelling of the backend;
//   - as a line, of anything else: a JSON string that is the body, byte by byte.
package sse

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The types of events. One without a type is a state's body; clients call it "message".
const (
	Message = ""
	Patch   = "patch"
	Status  = "status"
)

// Heartbeat is what keeps a stream of events alive between two of them: a comment.
const Heartbeat = ":\n"

// Streamable reports whether a body can be streamed at all: whether it is UTF-8, which
// is the only encoding that either format has.
func Streamable(body []byte) bool { return utf8.Valid(body) }

// Exact reports whether clients get exactly these bytes by an event: whether there is
// no CR among them, nor a byte order mark before JSON.
func Exact(body []byte) bool { return lineFeedsOnly(body) && len(unmarked(body)) == len(body) }

func lineFeedsOnly(body []byte) bool { return bytes.IndexByte(body, '\r') < 0 }

// maxID is the longest version that is its own id, in bytes. Clients send the id back
// in a field of their next request, and servers in front refuse long ones (nginx over 8
// KiB, all fields included) with a 400, after which a browser never comes back.
const maxID = 1024

// token begins what is made of a version that can not be an id.
const token = "~"

// ID is the id of the event of a version, and so what a client names it by in
// Last-Event-ID: the version itself, or "~" and 32 hexadecimal digits made of it where
// it could not come back as it is. That is where it is empty (an empty id is none),
// begins or ends with a space (fields are trimmed), is longer than 1024 bytes, is no
// UTF-8, or holds a control character: NUL, CR and LF can not stand in an id, and servers
// refuse a field with any other. The id is the same in every process. Two versions never
// share one, but by a collision of SHA-256, cut to 128 bits.
func ID(version string) string {
	if len(version) == 0 || len(version) > maxID || version[0] == ' ' || version[len(version)-1] == ' ' ||
		strings.HasPrefix(version, token) && len(version) == len(token)+32 || !utf8.ValidString(version) {
		return tokenOf(version)
	}
	for i := range len(version) {
		if c := version[i]; c < ' ' || c == 0x7f {
			return tokenOf(version)
		}
	}
	return version
}

func tokenOf(version string) string {
	sum := sha256.Sum256([]byte(version))
	return token + hex.EncodeToString(sum[:16])
}

// AppendEvent appends the event that says that the state is of version now. Its type is
// one of [Message], [Patch] and [Status].
func AppendEvent(dst []byte, kind, version string, body []byte) []byte {
	dst = append(dst, "id: "...)
	dst = append(dst, ID(version)...)
	if kind != Message {
		dst = append(dst, "\nevent: "...)
		dst = append(dst, kind...)
	}
	body = unmarked(body)
	exact := lineFeedsOnly(body)
	for more := true; more; {
		var line []byte
		line, body, more = cutLine(body, exact)
		dst = append(dst, "\ndata: "...)
		dst = append(dst, line...)
	}
	return append(dst, "\n\n"...)
}

// cutLine cuts a body after its first line. A body that ends with a line end has an
// empty line behind it: clients take the last line end away from what they join. It
// never looks beyond the line, so that all lines cost what the body costs.
func cutLine(body []byte, exact bool) (line, rest []byte, more bool) {
	var end int
	if exact {
		end = bytes.IndexByte(body, '\n')
	} else {
		end = bytes.IndexAny(body, "\r\n")
	}
	if end < 0 {
		return body, nil, false
	}
	line, rest = body[:end], body[end+1:]
	if body[end] == '\r' && len(rest) > 0 && rest[0] == '\n' {
		rest = rest[1:]
	}
	return line, rest, true
}

// Event is the event of [AppendEvent] in bytes of its own, in one allocation.
func Event(kind, version string, body []byte) []byte {
	lines := 1 + bytes.Count(body, []byte{'\n'}) + bytes.Count(body, []byte{'\r'})
	size := len("id: ") + max(len(version), len(token)+32) + len("\nevent: ") + len(kind) + lines*len("\ndata: ") + len(body) + len("\n\n")
	return AppendEvent(make([]byte, 0, size), kind, version, body)
}

// StatusEvent is the event of a state that is no success, such as 404: its data is
// {"status":404}.
func StatusEvent(version string, status int) []byte {
	var space [32]byte
	body := append(space[:0], `{"status":`...)
	body = strconv.AppendInt(body, int64(status), 10)
	return Event(Status, version, append(body, '}'))
}

// AppendRetry appends how long a client is to wait before it comes again, in whole
// milliseconds. It stands before an event, whose bytes others share, and is part of it.
func AppendRetry(dst []byte, pause time.Duration) []byte {
	dst = append(dst, "retry: "...)
	dst = strconv.AppendInt(dst, max(0, pause.Milliseconds()), 10)
	return append(dst, '\n')
}
