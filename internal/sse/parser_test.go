package sse_test

import "strings"

// dispatched is what a client's event listener gets.
type dispatched struct {
	kind, data, lastID string
}

// parsed is what a client has at the end of a stream.
type parsed struct {
	events []dispatched
	retry  string // the last one: digits
	lastID string // what the next request names: set by fields, sent even without an event
}

// parse reads a stream of events as the HTML Living Standard writes it (section 9.2.6,
// "Interpreting an event stream"), sentence by sentence.
func parse(stream []byte) (p parsed) {
	// "Streams must be decoded using the UTF-8 decode algorithm", which strips one BOM.
	text := strings.TrimPrefix(decode(stream), "\ufeff")
	var kind, data, id string
	for len(text) > 0 {
		// "Lines must be separated by either a U+000D CARRIAGE RETURN U+000A LINE FEED
		// (CRLF) character pair, a single U+000A LINE FEED (LF) character, or a single
		// U+000D CARRIAGE RETURN (CR) character."
		end := strings.IndexAny(text, "\r\n")
		if end < 0 {
			break // "any pending data must be discarded", a line without an end too
		}
		line := text[:end]
		if strings.HasPrefix(text[end:], "\r\n") {
			end++
		}
		text = text[end+1:]

		name, value, colon := strings.Cut(line, ":")
		switch {
		case line == "": // "Dispatch the event"
			p.lastID = id
			if data == "" {
				kind = ""
				continue
			}
			e := dispatched{kind: "message", data: strings.TrimSuffix(data, "\n"), lastID: id}
			if kind != "" {
				e.kind = kind
			}
			p.events = append(p.events, e)
			kind, data = "", ""
			continue
		case colon && name == "": // "Ignore the line"
			continue
		case colon: // "If value starts with a U+0020 SPACE character, remove it from value"
			value = strings.TrimPrefix(value, " ")
		}
		switch name { // "Field names must be compared literally, with no case folding"
		case "event":
			kind = value
		case "data":
			data += value + "\n"
		case "id":
			if !strings.Contains(value, "\x00") {
				id = value
			}
		case "retry":
			if value != "" && strings.Trim(value, "0123456789") == "" {
				p.retry = value
			}
		}
	}
	return p
}

// decode decodes UTF-8 as clients do: what is none becomes U+FFFD.
func decode(text []byte) string { return string([]rune(string(text))) }
