// Package reply is what a client is told: the backend's answer again, a 304, a
// configured body, a refusal. It writes to the client, and knows neither how long the
// poll has waited nor who has read the answer.
package reply

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Writer is the part of the configuration that says what is told.
type Writer struct {
	Header    http.Header // set on every answer that is made here
	OnChange  *Body       // nil is the backend's answer
	OnTimeout *Body       // nil is what suits the client
	Probe     bool        // the version is read from a probe
}

// Answer makes a response of a verdict.
func (re *Writer) Answer(p *poll.Poll, w http.ResponseWriter, v poll.Verdict) error {
	p.Told = v.State
	switch v.Kind {
	case poll.Ready:
		p.Outcome = poll.Answered
		if !p.ParkedAt.IsZero() {
			p.Outcome = poll.Changed
		}
		return re.news(p, w)
	case poll.Same:
		p.Outcome = poll.Answered
		return re.nothingNew(p, w)
	case poll.Expire:
		p.Outcome = poll.Expired
		return re.nothingNew(p, w)
	case poll.Drain:
		p.Outcome = poll.Drained
		return re.nothingNew(p, w)
	case poll.Fault:
		p.Outcome = poll.Failed
		return re.copy(p, w)
	case poll.Refuse:
		p.Outcome = poll.Refused
		return re.refuse(p, w)
	}
	p.Outcome = poll.Left
	return leave(p)
}

// refuse turns a request away. Like leave it has a large stack frame, which those
// who are released in their thousands are spared.
//
//go:noinline
func (re *Writer) refuse(p *poll.Poll, w http.ResponseWriter) error {
	// Not the same for all, or they all come back at once.
	w.Header().Set("Retry-After", strconv.Itoa(1+rand.IntN(30)))
	re.mark(p, w)
	return caddyhttp.Error(http.StatusServiceUnavailable, p.Refusal)
}

//go:noinline
func leave(p *poll.Poll) error { return caddyhttp.Error(499, p.Request.Context().Err()) }

// Reject answers a request that could not be read.
func (re *Writer) Reject(p *poll.Poll, w http.ResponseWriter, err error) error {
	p.Outcome = poll.Answered
	re.mark(p, w)
	var bad poll.BadWait
	if !errors.As(err, &bad) {
		return caddyhttp.Error(http.StatusBadRequest, err)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprintln(w, err)
	return nil
}

// mark sets the fields that are on every answer that is made here.
func (re *Writer) mark(p *poll.Poll, w http.ResponseWriter) {
	header := w.Header()
	text := append(make([]byte, 0, 40), p.Outcome...)
	text = append(text, ";held="...)
	header["Long-Poll"] = []string{string(poll.AppendSeconds(text, p.Held.Seconds()))}
	if p.Applied != "" {
		header.Set("Preference-Applied", p.Applied)
	}
	if len(re.Header) > 0 {
		re.configured(p, header)
	}
}

// configured sets the fields that the configuration gives.
func (re *Writer) configured(p *poll.Poll, header http.Header) {
	for name, values := range re.Header {
		header.Del(name)
		for _, v := range values {
			header.Add(name, httphdr.FieldValue(p.Replacer().ReplaceAll(v, "")))
		}
	}
}

// news is what a client gets that does not have it.
func (re *Writer) news(p *poll.Poll, w http.ResponseWriter) error {
	s := p.Told
	// A client that has named no version asks what there is, not whether it has
	// changed; and an answer that is none (401, 404) is for the client to see.
	if b := re.OnChange; b != nil && s.Code()/100 == 2 && (re.unread(s) || p.Named() || !p.ParkedAt.IsZero()) {
		return re.body(p, w, b)
	}
	return re.copy(p, w)
}

// unread reports whether only the probe was asked, and not the resource.
func (re *Writer) unread(s *state.Reading) bool {
	return s.Answer == nil || s.Answer == s.Source && re.Probe
}

// nothingNew is what a client gets that has it all.
func (re *Writer) nothingNew(p *poll.Poll, w http.ResponseWriter) error {
	s := p.Told
	switch b := re.OnTimeout; {
	case b != nil && !b.replay:
		return re.body(p, w, b)
	case b == nil && p.Conditional() && p.Current(s):
		return re.notModified(p, w)
	case re.unread(s) && re.OnChange != nil:
		return re.body(p, w, re.OnChange)
	}
	return re.copy(p, w)
}

// copy sends what the backend has said, or has its error handled.
func (re *Writer) copy(p *poll.Poll, w http.ResponseWriter) error {
	s := p.Told
	if s.Answer == nil {
		re.mark(p, w)
		return s.Err
	}
	fields(p, w, s)
	re.mark(p, w)
	w.WriteHeader(s.Answer.Status)
	if p.Request.Method != http.MethodHead && httphdr.HasBody(s.Answer.Status) {
		w.Write(s.Answer.Body)
	}
	return nil
}

// fields copies the end-to-end fields of the backend's answer. Each client has its
// own copy: handlers around us change values in place.
func fields(p *poll.Poll, w http.ResponseWriter, s *state.Reading) {
	header := w.Header()
	for _, name := range s.Answer.Absent {
		delete(header, name)
	}
	if !httphdr.HasBody(s.Answer.Status) {
		delete(header, "Content-Length")
	}
	all, lines := s.Fields()
	own := make([]string, 0, lines)
	for _, f := range all {
		if f.Name == "Content-Length" && p.Request.Method == http.MethodHead {
			continue
		}
		n := len(own)
		own = append(own, f.Values...)
		header[f.Name] = own[n:len(own):len(own)]
	}
	if s.Owner == p.ID {
		for _, cookie := range s.Answer.Cookies {
			header.Add("Set-Cookie", cookie)
		}
	}
	if len(s.Answer.Header["Cache-Control"]) == 0 {
		httphdr.Revalidate(header) // what handlers on the way to us have set
	}
}

// notModified sends a 304 with the fields that a cache needs (RFC 9110, section
// 15.4.5).
func (re *Writer) notModified(p *poll.Poll, w http.ResponseWriter) error {
	header := w.Header()
	if a := p.Told.Answer; a != nil {
		for _, name := range []string{"Cache-Control", "Content-Location", "Expires", "Last-Modified", "Vary"} {
			if values, ok := a.Header[name]; ok {
				header[name] = slices.Clone(values)
			}
		}
	}
	if p.Told.ETag != "" {
		header["Etag"] = []string{p.Told.ETag}
	}
	httphdr.Revalidate(header)
	re.mark(p, w)
	w.WriteHeader(http.StatusNotModified)
	return nil
}

// body sends what the configuration says.
func (re *Writer) body(p *poll.Poll, w http.ResponseWriter, b *Body) error {
	if b.status == http.StatusNotModified {
		return re.notModified(p, w)
	}
	header := w.Header()
	text, kind := b.render(p.Replacer())
	if kind != "" {
		header.Set("Content-Type", kind)
	}
	header.Set("Cache-Control", "no-cache")
	if httphdr.HasBody(b.status) {
		header.Set("Content-Length", strconv.Itoa(len(text)))
	}
	re.mark(p, w)
	w.WriteHeader(b.status)
	if p.Request.Method != http.MethodHead && httphdr.HasBody(b.status) {
		w.Write(text)
	}
	return nil
}
