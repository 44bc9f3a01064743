package poll

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Outcome is why a request was answered, in one vocabulary for the Long-Poll field,
// logs and metrics (contract 6).
type Outcome string

const (
	Answered Outcome = "answered" // was not parked: there was something to say at once
	Changed  Outcome = "changed"  // was parked and released by a change
	Expired  Outcome = "expired"  // was parked until its time was up
	Drained  Outcome = "drained"  // was released early, by a reload or a stop
	Failed   Outcome = "failed"   // got the backend's error
	Refused  Outcome = "refused"  // hit a bound
	Left     Outcome = "left"     // was given up by its client
	Bypassed Outcome = "bypassed" // could not be parked, and was passed through
	Streamed Outcome = "streamed" // got a stream
)

// Outcomes are all outcomes there are.
var Outcomes = []Outcome{Answered, Changed, Expired, Drained, Failed, Refused, Left, Bypassed, Streamed}

// Saved reports whether the poll was answered without a request of its own to the
// backend: what it was told a check had read ([state.State.Owner]), and no check was made
// because of it.
func (p *Poll) Saved() bool {
	if p.Asked || p.Told == nil || p.Told.Owner == 0 {
		return false
	}
	switch p.Outcome {
	case Answered, Changed, Expired, Drained, Failed:
		return true
	}
	return false
}

// Speaks reports whether text has a placeholder of ours, under either name, that begins
// with name: `json.`, or empty for any.
func Speaks(text, name string) bool {
	return strings.Contains(text, "{lp."+name) || strings.Contains(text, "{http.long_poll."+name)
}

// OurKey takes off what the names of our placeholders begin with: `lp.`, or all of
// `http.long_poll.`. It reports false for a placeholder that is not ours.
func OurKey(key string) (string, bool) {
	if rest, ok := strings.CutPrefix(key, "lp."); ok {
		return rest, true
	}
	return strings.CutPrefix(key, "http.long_poll.")
}

// Placeholder resolves our placeholders for the request itself, in logs and in what it
// is told.
func (p *Poll) Placeholder(key string) (any, bool) {
	if ours, ok := OurKey(key); ok && p.detached && !strings.HasPrefix(ours, "request.") {
		return later{p, key}, true
	}
	return p.placeholder(key)
}

func (p *Poll) placeholder(key string) (any, bool) {
	switch key, ok := OurKey(key); {
	case ok && key == "outcome":
		return string(p.Outcome), true
	case ok && key == "held":
		return seconds(p.Held.Seconds()), true
	}
	known := p.Told.Known()
	if known == nil && p.passed != 0 {
		known = p.rules.State.Passing(int(p.passed), p.header, nil, 0).State
		known.Answer.Absent = []string{"Long-Poll"}
	}
	return p.Subject.Placeholder(p.rules.State, known, key)
}

// Placeholder resolves those of our placeholders that do not speak of what becomes of
// the request: the outcome and the time that it was held are empty and 0. st is the state
// that the others speak of; nil has them empty.
func (s *Subject) Placeholder(ru *state.Rules, st *state.State, key string) (any, bool) {
	key, ok := OurKey(key)
	if !ok {
		return nil, false
	}
	switch key {
	case "outcome":
		return "", true
	case "held":
		return seconds(0), true
	}
	if rest, ok := strings.CutPrefix(key, "request."); ok {
		return s.requestPlaceholder(rest)
	}
	return ru.Placeholder(st, key)
}

// requestPlaceholder resolves the placeholders that speak of the request's own body
// and query.
func (s *Subject) requestPlaceholder(key string) (any, bool) {
	if path, ok := strings.CutPrefix(key, "json."); ok {
		return state.Member(s.Body, path), true
	}
	if name, ok := strings.CutPrefix(key, "form."); ok {
		return formField(s.Request.Header.Get("Content-Type"), s.Body, name), true
	}
	if rest, ok := strings.CutPrefix(key, "query_json."); ok {
		name, path, _ := strings.Cut(rest, ".")
		return state.Member([]byte(s.Request.URL.Query().Get(name)), path), true
	}
	return nil, false
}

// formField is the first value of a field of a form, whichever of the two ways it is written
// in; a file is none.
func formField(contentType string, body []byte, name string) string {
	kind, parameters, _ := mime.ParseMediaType(contentType)
	if kind != "multipart/form-data" {
		form, _ := url.ParseQuery(string(body))
		return form.Get(name)
	}
	parts := multipart.NewReader(bytes.NewReader(body), parameters["boundary"])
	for range maxParts {
		part, err := parts.NextPart()
		if err != nil {
			break
		}
		if part.FormName() == name && part.FileName() == "" {
			value, _ := io.ReadAll(part)
			return string(value)
		}
	}
	return ""
}

// maxParts bounds how many fields of a form are looked at: that of a poll has few.
const maxParts = 100

// value replaces the placeholders in text by what they are for this client, s being
// what the backend answers.
func (p *Poll) value(text string, s *state.Reading) string {
	// The usual case needs neither the replacer nor the stack that it takes.
	if name, ok := soleName(text); ok {
		if _, ours := OurKey(name); ours {
			v, _ := p.Subject.Placeholder(p.rules.State, s.State, name)
			return caddy.ToString(v)
		}
	}
	if p.Lent != nil {
		p.Lent.Lock()
		defer p.Lent.Unlock()
	}
	text, _ = p.repl.ReplaceFunc(text, func(name string, v any) (any, error) {
		if ours, ok := p.Subject.Placeholder(p.rules.State, s.State, name); ok {
			return ours, nil
		}
		return v, nil
	})
	return text
}

// Configured is what the configuration's `version` gives for what the backend
// answers.
func (p *Poll) Configured(s *state.Reading) string {
	return VersionOf(p.rules.Version, func(st *state.State) string { return p.value(p.rules.Version, &state.Reading{State: st}) }, s.State)
}

// VersionOf is what text, a `version`, gives for s: value replaces its placeholders by
// what they are for a state. It is empty where those that speak of the answer all are:
// what stands around them would be the same for ever (contract 4).
func VersionOf(text string, value func(s *state.State) string, s *state.State) string {
	v := value(s)
	if _, sole := soleName(text); !sole && Speaks(text, "") && v == value(nil) {
		return ""
	}
	return v
}

// soleName is the name of the placeholder that is all of text.
func soleName(text string) (string, bool) {
	if len(text) < 3 || text[0] != '{' || strings.IndexByte(text, '}') != len(text)-1 || strings.IndexByte(text[1:], '{') >= 0 {
		return "", false
	}
	return text[1 : len(text)-1], true
}

func seconds(s float64) string { return string(AppendSeconds(nil, s)) }

// AppendSeconds appends a time in seconds, to the millisecond.
func AppendSeconds(text []byte, s float64) []byte { return strconv.AppendFloat(text, s, 'f', 3, 64) }

// OfTags reports whether `since` is the field of entity tags: they are read as without
// it, but name a version whoever sends them.
func OfTags(since string) bool {
	return since == "{http.request.header.If-None-Match}" || since == "{header.If-None-Match}"
}
