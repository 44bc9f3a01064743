// Package reply is what a client is told: the backend's answer again, a 304, a
// configured body, a refusal. It writes to the client, and knows neither how long the
// poll has waited nor who has read the answer.
package reply

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Writer is the part of the configuration that says what is told.
type Writer struct {
	Header    http.Header // set on every answer that is made here
	OnChange  *Body       // nil is the backend's answer
	OnTimeout *Body       // nil is what suits the client: a 304, or the answer again
	Probe     bool        // the version is read from a probe
	NeedsBody bool        // Header speaks of the body of an answer
	Shown     bool        // handlers behind look at the fields of the answer that they make
	Rules     *poll.Rules
}

// Answer makes a response of a verdict that ends the poll, which is not [poll.Pass]. The
// error is for Caddy's error routes: the backend's, a 503 where a bound was hit, a 499
// where the client has left.
func (re *Writer) Answer(p *poll.Poll, w http.ResponseWriter, v poll.Verdict) error {
	p.Told = v.State
	if v.State != nil {
		for _, cookie := range v.State.Renewed {
			w.Header().Add("Set-Cookie", cookie)
		}
	}
	switch v.Kind {
	case poll.Ready:
		p.Outcome = poll.Answered
		if !p.ParkedAt.IsZero() {
			p.Outcome = poll.Changed
		}
		return re.news(p, w)
	case poll.Same:
		p.Outcome = poll.Answered
		if !p.ParkedAt.IsZero() {
			p.Outcome = poll.Changed // of what held it, not of what it has
		}
		return re.nothingNew(p, w)
	case poll.Expire:
		p.Outcome = poll.Expired
		return re.nothingNew(p, w)
	case poll.Drain:
		p.Outcome = poll.Drained
		return re.nothingNew(p, w)
	case poll.Fault:
		p.Outcome = poll.Failed
		return re.fault(p, w)
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
	httphdr.Revalidate(w.Header())
	re.mark(p, w)
	return caddyhttp.Error(http.StatusServiceUnavailable, p.Refusal)
}

// fault has the client told what the backend fails with, and when to come back.
//
//go:noinline
func (re *Writer) fault(p *poll.Poll, w http.ResponseWriter) error {
	s := p.Told
	if s.Answer != nil {
		fields(w, p, s)
	} else {
		errFields(w, s)
	}
	if state.Outage(s.Code()) {
		w.Header()["Retry-After"] = []string{strconv.Itoa(retryAfter(time.Until(s.Due)))}
	}
	re.mark(p, w)
	if s.Answer == nil {
		return s.Err
	}
	return send(w, p.Request, s.Answer.Status, s.Answer.Body)
}

// retryAfter is when a client should come back whose backend is left alone for so long:
// in so many seconds, and up to half of that more, at random, so that not all come back
// at once.
func retryAfter(left time.Duration) int {
	seconds := int(math.Ceil(max(left, 0).Seconds()))
	return max(seconds+rand.IntN(seconds/2+1), 1+rand.IntN(2))
}

// leave answers nobody: the client has gone. The context of a poll that is detached does
// not say so: its connection has (contract 15.1).
//
//go:noinline
func leave(p *poll.Poll) error {
	err := p.Request.Context().Err()
	if err == nil {
		err = context.Canceled
	}
	return caddyhttp.Error(499, err)
}

// Reject answers a request that could not be read, or was not for want of a place, by
// what [poll.Poll.Ask] has failed with: 400, or 503.
func (re *Writer) Reject(p *poll.Poll, w http.ResponseWriter, err error) error {
	if errors.Is(err, lot.ErrParked) || errors.Is(err, lot.ErrClient) {
		p.Outcome, p.Refusal = poll.Refused, err
		if p.Request.ProtoMajor == 1 {
			// The rest of the body is not read, for it may never come.
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.Header().Set("Connection", "close")
		}
		return re.refuse(p, w)
	}
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

// Mark sets in a header the fields that are on every answer that is made here.
func (re *Writer) Mark(p *poll.Poll, header http.Header) { re.markIn(p, header, false) }

// mark sets them on the answer to come.
func (re *Writer) mark(p *poll.Poll, w http.ResponseWriter) { re.markIn(p, w.Header(), false) }

// markIn sets them in a header. blind says that nothing is known of the answer's body:
// a `header` that would be empty because of that is left out.
func (re *Writer) markIn(p *poll.Poll, header http.Header, blind bool) {
	markOutcome(p, header)
	if len(re.Header) > 0 {
		re.configured(p, header, blind)
	}
}

// markOutcome sets the fields that say what has become of the poll.
func markOutcome(p *poll.Poll, header http.Header) {
	if p.Outcome == poll.Streamed {
		header["Long-Poll"] = []string{string(p.Outcome)} // how long is not known yet
		return
	}
	header["Long-Poll"] = []string{outcome(p)}
	if p.Applied != "" {
		// The backend may have applied what else the client prefers.
		header["Preference-Applied"] = []string{strings.Join(append(slices.Clone(header["Preference-Applied"]), p.Applied), ", ")}
	}
}

// outcome is the value of the field Long-Poll.
func outcome(p *poll.Poll) string {
	if p.Outcome == poll.Answered && p.Held == 0 {
		return string(poll.Answered) + ";held=0.000" // the usual one takes no memory
	}
	text := append(make([]byte, 0, 40), p.Outcome...)
	text = append(text, ";held="...)
	return string(poll.AppendSeconds(text, p.Held.Seconds()))
}

// configured sets the fields that the configuration gives.
func (re *Writer) configured(p *poll.Poll, header http.Header, blind bool) {
	for name, values := range re.Header {
		header.Del(name)
		for _, v := range values {
			if text := httphdr.FieldValue(p.Replacer().ReplaceAll(v, "")); text != "" || !blind {
				header.Add(name, text)
			}
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
	if s.History != nil && re.delta(p, w) {
		return nil
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
		errFields(w, s)
		re.mark(p, w)
		return s.Err
	}
	fields(w, p, s)
	re.mark(p, w)
	return send(w, p.Request, s.Answer.Status, s.Answer.Body)
}

// send sends an answer whose header is set.
func send(w http.ResponseWriter, r *http.Request, status int, body []byte) error {
	w.WriteHeader(status)
	if r.Method != http.MethodHead && httphdr.HasBody(status) {
		w.Write(body) // a client that has gone is no error of ours
	}
	return nil
}

// fields copies the end-to-end fields of the backend's answer. Each client has its
// own copy: handlers around us change values in place.
func fields(w http.ResponseWriter, p *poll.Poll, s *state.Reading) {
	header := w.Header()
	httphdr.DropShared(header) // what handlers on the way to us have set
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
			f.Values = s.Answer.Header[f.Name] // of the body that does not come
			if len(f.Values) == 0 {
				continue
			}
		}
		n := len(own)
		own = append(own, f.Values...)
		if values := own[n:len(own):len(own)]; f.Added {
			header[f.Name] = slices.Concat(header[f.Name], values)
		} else {
			header[f.Name] = values
		}
	}
	if len(s.Answer.Header["Cache-Control"]) == 0 {
		httphdr.Revalidate(header) // what handlers on the way to us have set
	}
}

// errFields copies the fields that the answer to an error is to bear.
func errFields(w http.ResponseWriter, s *state.Reading) {
	header := w.Header()
	if of := s.ErrFields; of != nil {
		for name, values := range of.Header {
			if slices.Contains(of.Added, name) {
				values = slices.Concat(header[name], values)
			}
			header[name] = slices.Clone(values)
		}
	}
	httphdr.Revalidate(header)
}

// notModified sends a 304 with the fields of the answer that it stands for, but those
// that describe a body (RFC 9110, section 15.4.5): a browser of another origin needs
// Access-Control-Allow-Origin on it, other clients their own.
func (re *Writer) notModified(p *poll.Poll, w http.ResponseWriter) error {
	header := w.Header()
	if s := p.Told; s.Answer != nil {
		for _, name := range s.Answer.Absent {
			delete(header, name)
		}
		all, _ := s.Fields()
		for _, f := range all {
			switch {
			case httphdr.OfRepresentation(f.Name):
			case f.Added:
				header[f.Name] = slices.Concat(header[f.Name], f.Values)
			default:
				header[f.Name] = slices.Clone(f.Values)
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

// Admit has who may read the answer that the poll is told read what is told in its place.
func (re *Writer) Admit(p *poll.Poll, header http.Header) {
	of := re.admission(p.Told)
	if of == nil {
		return
	}
	for name, values := range of.Header {
		switch {
		case !strings.HasPrefix(name, "Access-Control-"):
		case slices.Contains(of.Added, name):
			header[name] = slices.Concat(header[name], values)
		default:
			header[name] = slices.Clone(values)
		}
	}
}

// Admits reports whether a header that is told in place of s, which is nil if nothing is
// known, says which other origins may read it (the Fetch Standard, section 3.3.3). Who
// stands in front of us may have said so.
func (re *Writer) Admits(s *state.Reading, header http.Header) bool {
	of := re.admission(s)
	return namesOrigin(header) || namesOrigin(re.Header) || of != nil && namesOrigin(of.Header)
}

func namesOrigin(header http.Header) bool { return len(header["Access-Control-Allow-Origin"]) > 0 }

// admission is what says who may read s; nil if nothing does.
func (re *Writer) admission(s *state.Reading) *state.Answer {
	switch {
	case s == nil:
		return nil
	case re.unread(s):
		return s.ErrFields
	}
	return s.Answer
}

// Rendered is what on_change, which there is, makes of s for p.
func (re *Writer) Rendered(p *poll.Poll, s *state.Reading) []byte {
	defer p.Reclaim()()
	told := p.Told
	p.Told = s
	text, _ := re.OnChange.render(p.Replacer())
	p.Told = told
	return text
}

// body sends what the configuration says.
func (re *Writer) body(p *poll.Poll, w http.ResponseWriter, b *Body) error {
	if b.status == http.StatusNotModified {
		return re.notModified(p, w)
	}
	header := w.Header()
	re.Admit(p, header)
	text, kind := b.render(p.Replacer())
	if kind != "" {
		header.Set("Content-Type", kind)
	}
	httphdr.Revalidate(header) // what handlers on the way to us have set
	if httphdr.HasBody(b.status) {
		header.Set("Content-Length", strconv.Itoa(len(text)))
	}
	re.mark(p, w)
	return send(w, p.Request, b.status, text)
}
