package reply

import (
	"maps"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
	"github.com/caddy-longpoll/caddy-longpoll/internal/tap"
)

// Own has next answer a request that is its client's own exchange with the backend
// (contract 3.8). The answer streams as it comes, but where its header can only be
// finished when its body is known. The error is that of next.
func (re *Writer) Own(p *poll.Poll, w http.ResponseWriter, next caddyhttp.Handler) error {
	serve := tap.Serve
	if re.Shown {
		serve = tap.ServeShown
	}
	err := serve(w, p.Request, next, re.Rules.MaxBody, &own{re: re, p: p})
	if err != nil {
		re.markIn(p, w.Header(), true) // of the error page
	}
	return err
}

// own looks at the answer of a client's own exchange.
type own struct {
	re *Writer
	p  *poll.Poll

	// What the configuration sets on the answer if its body does not come in time. That
	// is said on another goroutine, which must not touch the placeholders of the request:
	// the handlers behind still have them.
	late http.Header

	// The header that the handlers behind have given. Where the answer is kept back nobody
	// else changes it.
	said http.Header
}

// Begin reports whether an ETag has to be made, or a `header` speaks of the body: both
// take the body, and neither is worth holding back a stream.
func (o *own) Begin(status int, header http.Header) (needBody bool) {
	o.said = header
	o.p.Saw(status, header)
	if len(o.re.Header) > 0 {
		o.p.Told = o.re.Rules.State.Passing(status, maps.Clone(header), nil, 0)
		o.late = make(http.Header, len(o.re.Header))
		o.re.configured(o.p, o.late, true)
	}
	if (o.re.NeedsBody || o.tags(status, header)) && !httphdr.Streams(header) {
		return true
	}
	o.Late(status, header)
	return false
}

// Late has the answer go out as it is.
func (o *own) Late(_ int, header http.Header) {
	markOutcome(o.p, header)
	for name := range o.re.Header {
		header.Del(name)
	}
	maps.Copy(header, o.late)
}

// tags reports whether an ETag is to be made of an answer.
func (o *own) tags(status int, header http.Header) bool {
	return o.p.Request.Method == http.MethodGet && status/100 == 2 && status != http.StatusPartialContent &&
		!o.re.Probe && (o.re.Rules.State.MakesETag() || header.Get("Etag") == "" && !o.re.Rules.State.Configured) && state.Decodable(header)
}

// End makes the ETag, and answers 304 where the client has it already.
func (o *own) End(status int, header http.Header, body []byte) int {
	re, p := o.re, o.p
	s := re.Rules.State.Passing(status, header, body, re.Rules.MaxBody)
	// Placeholders speak of what the backend has said.
	said := o.said
	if status == http.StatusNoContent {
		said = maps.Clone(header) // it is not kept back: they are one
	}
	var text string
	if re.Rules.State.Configured {
		text = p.Configured(s)
	}
	s.Version = re.Rules.State.Version(s.Answer, text)
	tags := o.tags(status, header)
	if tags {
		s.ETag = re.Rules.State.ETag(s.Answer, s.Version)
		tags = s.ETag != header.Get("Etag") // `version` gave nothing: it is the backend's own
	}
	s.Answer.Header, p.Told = said, s
	if tags {
		header["Etag"] = []string{s.ETag}
		if len(header["Last-Modified"])+len(header["Expires"])+len(header["Cache-Control"]) == 0 {
			header["Cache-Control"] = []string{"no-store"} // no cache has kept it before
		}
		if p.HasTag(s.ETag) {
			for name := range header {
				if httphdr.OfRepresentation(name) {
					delete(header, name)
				}
			}
			status = http.StatusNotModified
		}
	}
	re.markIn(p, header, false)
	s.Answer.Forget() // the body is the handlers'
	return status
}

// Interface guard
var _ tap.Exchange = (*own)(nil)
