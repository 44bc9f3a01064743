package reply

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// Body is what on_change or on_timeout answers.
type Body struct {
	status int
	replay bool
	json   bool
	parts  []part
}

// part is a piece of a body: text, then a placeholder.
type part struct {
	text   string
	name   string // of the placeholder; empty at the end
	quoted bool   // it stands in a JSON string
}

// placeholderForm is what is a placeholder in a body; other braces, such as those
// of JSON, are text.
var placeholderForm = regexp.MustCompile(`\{[A-Za-z][^\s{}"',:]*\}`)

// Placeholders are those in the text of a body.
func Placeholders(text string) []string { return placeholderForm.FindAllString(text, -1) }

// SpeaksOfBody reports whether a `header` speaks of the body of an answer.
func SpeaksOfBody(header http.Header) bool {
	for _, values := range header {
		for _, v := range values {
			for _, name := range []string{"json.", "version}", "hash}", "body}"} {
				if poll.Speaks(v, name) {
					return true
				}
			}
		}
	}
	return false
}

// NewBody reads a Reply that is valid; nil gives nil.
func NewBody(r *Reply) *Body {
	if r == nil {
		return nil
	}
	b := &Body{status: r.Status, replay: r.Replay}
	var sample bytes.Buffer // the body with something harmless in each place
	var start int
	var quoted bool
	for _, at := range placeholderForm.FindAllStringIndex(r.Body, -1) {
		text := r.Body[start:at[0]]
		quoted = quotedAfter(text, quoted)
		b.parts = append(b.parts, part{text: text, name: r.Body[at[0]+1 : at[1]-1], quoted: quoted})
		start = at[1]
		sample.WriteString(text)
		if quoted {
			sample.WriteString("x") // no escape sequence has it
		} else {
			sample.WriteString("null") // unlike a digit, it is no part of a number
		}
	}
	b.parts = append(b.parts, part{text: r.Body[start:]})
	sample.WriteString(r.Body[start:])
	b.json = json.Valid(sample.Bytes())
	return b
}

// quotedAfter reports whether JSON is inside of a string after text, if it was or
// was not before.
func quotedAfter(text string, quoted bool) bool {
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && quoted:
			i++
		case text[i] == '"':
			quoted = !quoted
		}
	}
	return quoted
}

// render replaces the placeholders, and gives the Content-Type; empty for no body.
// In JSON their values can neither end a string nor add to the structure: what is
// no JSON value by itself becomes a string.
func (b *Body) render(repl *caddy.Replacer) (text []byte, kind string) {
	var buf bytes.Buffer
	for _, p := range b.parts {
		buf.WriteString(p.text)
		if p.name == "" {
			continue
		}
		v, known := repl.Get(p.name)
		if !known && !b.json {
			buf.WriteString("{" + p.name + "}")
			continue
		}
		value := caddy.ToString(v)
		switch {
		case !b.json:
			buf.WriteString(value)
		case p.quoted:
			escaped := quote(value)
			buf.Write(escaped[1 : len(escaped)-1])
		case json.Valid([]byte(value)):
			buf.WriteString(value)
		default:
			buf.Write(quote(value))
		}
	}
	switch {
	case buf.Len() == 0:
		return nil, ""
	case b.json:
		return buf.Bytes(), "application/json"
	}
	return buf.Bytes(), "text/plain; charset=utf-8"
}

// quote makes a JSON string.
func quote(s string) []byte {
	text, _ := json.Marshal(s) // a string can always be marshalled
	return text
}
