package longpoll

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// answer makes a response of a verdict and of the state that it was passed on.
func (q *question) answer(w http.ResponseWriter, v verdict) error {
	if !q.parkedAt.IsZero() {
		q.held = time.Since(q.parkedAt)
		q.restartDeadlines(w)
	}
	switch v {
	case ready:
		q.outcome = answered
		if !q.parkedAt.IsZero() {
			q.outcome = changed
		}
		err := q.news(w)
		if q.outcome == changed {
			q.h.metrics.released(q.state.since)
		}
		return q.done(w, err)
	case same:
		q.outcome = answered
		return q.done(w, q.nothingNew(w))
	case expire:
		q.outcome = expired
		return q.done(w, q.nothingNew(w))
	case drain:
		q.outcome = drained
		return q.done(w, q.nothingNew(w))
	case fault:
		q.outcome = failed
		return q.done(w, q.copy(w))
	case refuse:
		q.outcome = refused
		return q.done(w, q.refuse(w))
	}
	q.outcome = left
	return q.done(w, q.leave())
}

// refuse turns a request away. Like leave it has a large stack frame, which those
// who are released in their thousands are spared.
//
//go:noinline
func (q *question) refuse(w http.ResponseWriter) error {
	q.h.refused(q.refusal)
	// Not the same for all, or they all come back at once.
	w.Header().Set("Retry-After", strconv.Itoa(1+rand.IntN(30)))
	q.mark(w)
	return caddyhttp.Error(http.StatusServiceUnavailable, q.refusal)
}

//go:noinline
func (q *question) leave() error { return caddyhttp.Error(499, q.r.Context().Err()) }

// done counts the request.
func (q *question) done(w http.ResponseWriter, err error) error {
	q.h.done(q)
	return err
}

// reject answers a request that could not be read.
func (q *question) reject(w http.ResponseWriter, err error) error {
	q.outcome = answered
	q.mark(w)
	var bad badWait
	if !errors.As(err, &bad) {
		return q.done(w, caddyhttp.Error(http.StatusBadRequest, err))
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprintln(w, err)
	return q.done(w, nil)
}

// mark sets the fields that are on every answer that we make.
func (q *question) mark(w http.ResponseWriter) {
	header := w.Header()
	text := append(make([]byte, 0, 40), q.outcome...)
	text = append(text, ";held="...)
	header["Long-Poll"] = []string{string(appendSeconds(text, q.held.Seconds()))}
	if q.applied != "" {
		header.Set("Preference-Applied", q.applied)
	}
	if len(q.h.Header) > 0 {
		q.configured(header)
	}
}

// configured sets the fields that the configuration gives.
func (q *question) configured(header http.Header) {
	for name, values := range q.h.Header {
		header.Del(name)
		for _, v := range values {
			header.Add(name, fieldValue(q.repl.ReplaceAll(v, "")))
		}
	}
}

// fieldValue makes of text something that can stand in a header field.
func fieldValue(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// news is what a client gets that does not have it.
func (q *question) news(w http.ResponseWriter) error {
	s := q.state
	// A client that has named no version asks what there is, not whether it has
	// changed; and an answer that is none (401, 404) is for the client to see.
	if b := q.h.onChange; b != nil && s.code()/100 == 2 && (s.answer == nil || s.answer == s.seen && q.h.Probe != nil || q.named() || !q.parkedAt.IsZero()) {
		return q.reply(w, b)
	}
	return q.copy(w)
}

// nothingNew is what a client gets that has it all.
func (q *question) nothingNew(w http.ResponseWriter) error {
	s := q.state
	switch b := q.h.onTimeout; {
	case b != nil && !b.replay:
		return q.reply(w, b)
	case b == nil && q.conditional() && q.current(s):
		return q.notModified(w)
	case s.answer == nil || s.answer == s.seen && q.h.Probe != nil:
		if q.h.onChange != nil {
			return q.reply(w, q.h.onChange)
		}
	}
	return q.copy(w)
}

// copy sends what the backend has said, or has its error handled.
func (q *question) copy(w http.ResponseWriter) error {
	s := q.state
	if s.answer == nil {
		q.mark(w)
		return s.err
	}
	q.fields(w, s)
	q.mark(w)
	w.WriteHeader(s.answer.status)
	if q.r.Method != http.MethodHead && hasBody(s.answer.status) {
		w.Write(s.answer.body)
	}
	return nil
}

// field is a header field of an answer as all clients get it.
type field struct {
	name   string
	values []string
}

// fields are the end-to-end fields of the answer, and how many lines they have. They
// are found out once, not for each of ten thousand clients.
func (s *state) fields() ([]field, int) {
	s.once.Do(func() {
		header := s.answer.header.Clone()
		if s.etag != "" && s.answer.status/100 == 2 {
			header["Etag"] = []string{s.etag}
		}
		if hasBody(s.answer.status) {
			header["Content-Length"] = []string{strconv.Itoa(len(s.answer.body))}
		}
		if len(header["Cache-Control"]) > 0 {
			revalidate(header)
		}
		for name, values := range header {
			s.shown = append(s.shown, field{name, values})
			s.lines += len(values)
		}
	})
	return s.shown, s.lines
}

// fields copies the end-to-end fields of the backend's answer. Each client has its
// own copy: handlers around us change values in place.
func (q *question) fields(w http.ResponseWriter, s *state) {
	header := w.Header()
	for _, name := range s.answer.absent {
		delete(header, name)
	}
	if !hasBody(s.answer.status) {
		delete(header, "Content-Length")
	}
	all, lines := s.fields()
	own := make([]string, 0, lines)
	for _, f := range all {
		if f.name == "Content-Length" && q.r.Method == http.MethodHead {
			continue
		}
		n := len(own)
		own = append(own, f.values...)
		header[f.name] = own[n:len(own):len(own)]
	}
	if s.owner == q.id {
		for _, cookie := range s.answer.cookies {
			header.Add("Set-Cookie", cookie)
		}
	}
	if len(s.answer.header["Cache-Control"]) == 0 {
		revalidate(header) // what handlers on the way to us have set
	}
}

// notModified sends a 304 with the fields that a cache needs (RFC 9110, section
// 15.4.5).
func (q *question) notModified(w http.ResponseWriter) error {
	header := w.Header()
	if a := q.state.answer; a != nil {
		for _, name := range []string{"Cache-Control", "Content-Location", "Expires", "Last-Modified", "Vary"} {
			if values, ok := a.header[name]; ok {
				header[name] = slices.Clone(values)
			}
		}
	}
	if q.state.etag != "" {
		header["Etag"] = []string{q.state.etag}
	}
	revalidate(header)
	q.mark(w)
	w.WriteHeader(http.StatusNotModified)
	return nil
}

// reply sends what the configuration says.
func (q *question) reply(w http.ResponseWriter, b *body) error {
	if b.status == http.StatusNotModified {
		return q.notModified(w)
	}
	header := w.Header()
	text, kind := b.render(q.repl)
	if kind != "" {
		header.Set("Content-Type", kind)
	}
	header.Set("Cache-Control", "no-cache")
	if hasBody(b.status) {
		header.Set("Content-Length", strconv.Itoa(len(text)))
	}
	q.mark(w)
	w.WriteHeader(b.status)
	if q.r.Method != http.MethodHead && hasBody(b.status) {
		w.Write(text)
	}
	return nil
}

// hasBody reports whether an answer with that status may have a body.
func hasBody(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

// pass hands a request on that can not be parked, and changes nothing else.
func (q *question) pass(w http.ResponseWriter, next caddyhttp.Handler) error {
	if !q.parkedAt.IsZero() {
		q.held = time.Since(q.parkedAt)
		q.restartDeadlines(w)
	}
	q.outcome = bypassed
	q.rewind()
	w.Header().Set("Long-Poll", string(bypassed))
	q.h.done(q)
	if len(q.h.writes) > 0 && isWrite(q.r.Method) {
		return seeWrite(w, q.r, next)
	}
	return next.ServeHTTP(w, q.r)
}

// cacheControl is the directives of Cache-Control (RFC 9111, section 5.2).
type cacheControl map[string]string

func (c cacheControl) has(name string) bool { _, ok := c[name]; return ok }

func readCacheControl(header http.Header) cacheControl {
	c := make(cacheControl)
	for _, field := range header["Cache-Control"] {
		for directive := range strings.SplitSeq(field, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			if name != "" {
				c[strings.ToLower(strings.TrimSpace(name))] = strings.Trim(strings.TrimSpace(value), `"`)
			}
		}
	}
	return c
}

// revalidate makes sure that no cache between us and the client, its own neither,
// answers a poll without asking.
func revalidate(header http.Header) {
	if len(header["Cache-Control"]) == 0 {
		header["Cache-Control"] = []string{"no-cache"}
		return
	}
	c := readCacheControl(header)
	if c.has("no-store") || c.has("no-cache") && c["no-cache"] == "" {
		return
	}
	if c["max-age"] == "0" && (c.has("must-revalidate") || c.has("proxy-revalidate")) && !c.has("s-maxage") {
		return
	}
	value := "no-cache"
	for _, kept := range []string{"no-transform", "private"} { // which say nothing of reuse by the client
		if c.has(kept) {
			value = kept + ", " + value
		}
	}
	header["Cache-Control"] = []string{value}
}

// clearDeadlines takes away what would cut a request that is silent for longer:
// the server's write_timeout and read_timeout, and the rates that idle timeouts may
// ask for.
func (q *question) clearDeadlines(w http.ResponseWriter) {
	ctx := q.r.Context()
	reader, writer := caddyhttp.IdleTimeoutsFromContext(ctx)
	if reader != nil {
		reader.Deadline.HardDeadline = time.Time{}
	}
	if writer != nil {
		writer.Deadline.HardDeadline = time.Time{}
	}
	ctrl := http.NewResponseController(w)
	_ = ctrl.SetReadDeadline(time.Time{}) // what can not be set does not cut
	_ = ctrl.SetWriteDeadline(time.Time{})
	// For restartDeadlines: a context is a chain of values, and when ten thousand
	// are released none of it is in any cache.
	q.writer = writer
	if server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); server != nil {
		q.writeTimeout = time.Duration(server.WriteTimeout)
	}
}

// restartDeadlines has the server's timeouts count from now on, for the client may
// be slow in reading its answer.
func (q *question) restartDeadlines(w http.ResponseWriter) {
	now, writer := time.Now(), q.writer
	if writer != nil {
		writer.Deadline.Start = now
	}
	if q.writeTimeout <= 0 {
		return
	}
	deadline := now.Add(q.writeTimeout)
	if writer != nil {
		writer.Deadline.HardDeadline = deadline
		writer.Ctrl = http.NewResponseController(laterDeadline{writer.ResponseWriter, deadline})
	}
	_ = http.NewResponseController(w).SetWriteDeadline(deadline)
}

// laterDeadline sets no deadline that is before min. A `timeouts` handler around us
// puts the one back that it found, which may have passed while the request was
// parked, and with which the answer would be lost that is still in the buffers.
type laterDeadline struct {
	http.ResponseWriter
	min time.Time
}

func (w laterDeadline) SetWriteDeadline(deadline time.Time) error {
	if !deadline.IsZero() && deadline.Before(w.min) {
		deadline = w.min
	}
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(deadline)
}

// drainRate is how many requests a drain releases in a second: ten thousand take
// the whole second that it may last.
const drainRate = 10000

// drainSpread is over how long a drain releases so many.
func (h *Handler) drainSpread(parked int) time.Duration {
	return min(time.Second, time.Second*time.Duration(parked)/drainRate)
}

// drainPause is before what a drain releases nobody: the server is about to close
// its listener and the connections that are idle, and who came back by one of these
// would be reset.
const drainPause = 50 * time.Millisecond

// drainDelay is when one request of a drain is released.
func (h *Handler) drainDelay() time.Duration {
	return max(drainPause, time.Duration(rand.Float64()*float64(h.drainSpread(h.lot.Parked()))))
}
