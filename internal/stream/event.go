package stream

import (
	"net/http"
	"strconv"

	"github.com/caddy-longpoll/caddy-longpoll/internal/delta"
	"github.com/caddy-longpoll/caddy-longpoll/internal/sse"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Format is how a stream is written.
type Format string

// The formats there are.
const (
	SSE    Format = "sse"
	NDJSON Format = "ndjson"
)

// kinds are the media types of the formats, whether they are allowed or not: a check asks
// for none of them.
var kinds = []string{"text/event-stream", "application/x-ndjson"}

func (f Format) kind() string {
	if f == SSE {
		return kinds[0]
	}
	return kinds[1]
}

// eventOf is the key of what a state is told by in a format ([state.State.Made]).
type eventOf Format

// event is what s is told by; nil if it can not be told. It is made once for all who are
// told it in that format, but where on_change may say something else to each.
func (l *line) event(s *state.Reading) []byte {
	if s.Code()/100 == 2 && l.Replies.OnChange != nil {
		return l.whole(s, text(l.Replies.Rendered(l.p, s)))
	}
	return s.Made(eventOf(l.format), func() []byte { return l.whole(s, plain(s.Answer)) })
}

// plain is the text of a body; nil if it is none.
func plain(a *state.Answer) []byte {
	if a == nil {
		return nil
	}
	body := a.Plain()
	if body == nil && len(a.Body) > 0 {
		return nil // nobody knows its content coding
	}
	return text(body)
}

// text is a body as it is told, which may be empty; nil if it is none.
func text(body []byte) []byte {
	switch {
	case !sse.Streamable(body):
		return nil
	case body == nil:
		return []byte{}
	}
	return body
}

// whole says all that s says: its body, or that it has none that could be told.
func (l *line) whole(s *state.Reading, body []byte) []byte {
	switch {
	case s.Code()/100 != 2 && l.format == SSE:
		// Its text alone may be that of a success too: a revision, or an ETag.
		return sse.StatusEvent(strconv.Itoa(s.Code())+" "+s.Version.Text, s.Code())
	case s.Code()/100 != 2, body == nil:
		return nil
	case l.format == SSE:
		return sse.Event(sse.Message, s.Version.Text, body)
	case l.Delta != "":
		return sse.Line(sse.StateMember, body)
	}
	return sse.Line(sse.Bare, body)
}

// patch says what is different in s from what the client has, by an earlier event or
// since it has named it; nil where it has nothing, or that can not be said.
func (l *line) patch(s *state.Reading) []byte {
	if s.History == nil || s.Code() != http.StatusOK || l.Replies.OnChange != nil {
		return nil
	}
	var d *delta.Delta
	if heard := l.heard.Value(); heard != nil {
		d = s.History.PatchFrom(heard)
	} else if !l.told {
		d, _ = s.History.Patch(l.p.Names)
	}
	if d == nil {
		return nil
	}
	if l.format == NDJSON {
		return d.Encoded(1, func(patch []byte) []byte { return sse.Line(sse.PatchMember, patch) })
	}
	return d.Encoded(0, func(patch []byte) []byte { return sse.Event(sse.Patch, s.Version.Text, patch) })
}
