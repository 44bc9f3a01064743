package state

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/wire"
)

// Bits of what a state on the wire has.
const (
	hasUnshared = 1 << iota
	hasStale
	hasAnswer
	hasErr
	hasErrFields
	hasSource // other than the answer
	isSource  // the answer is
	hasVariation
)

// Append appends s for other Caddys: all of it that is not this process' own or its
// clients'. Neither cookies nor sessions that checks have renewed are: see [State.Personal].
func (s *State) Append(b []byte) []byte {
	var has byte
	set := func(bit byte, is bool) {
		if is {
			has |= bit
		}
	}
	set(hasUnshared, s.Unshared)
	set(hasStale, s.Stale)
	set(hasAnswer, s.Answer != nil)
	set(hasErr, s.Err != nil)
	set(hasErrFields, s.ErrFields != nil)
	set(hasSource, s.Source != nil && s.Source != s.Answer)
	set(isSource, s.Source != nil && s.Source == s.Answer)
	set(hasVariation, s.Variation != nil)
	b = append(b, has)
	b = wire.AppendText(wire.AppendNumber(b, uint64(s.Version.Status)), s.Version.Text)
	if s.Err != nil {
		b = wire.AppendText(b, s.Reason())
	}
	for _, a := range []*Answer{s.ErrFields, s.Answer} {
		if a != nil {
			b = a.append(b)
		}
	}
	if has&hasSource != 0 {
		b = s.Source.append(b)
	}
	if s.Variation != nil {
		b = append(s.Variation.Append(b), s.Varied[:]...)
	}
	return b
}

// Personal reports whether s is not to leave this process: it depends on what one request
// has alone, or it gives somebody a cookie. credentials reports whether those who share it
// have any.
func (s *State) Personal(credentials bool) bool {
	return s.Variation.Personal(credentials) || len(s.Renewed) > 0 ||
		s.Answer != nil && len(s.Answer.Cookies) > 0 || s.Source != nil && len(s.Source.Cookies) > 0 ||
		s.ErrFields != nil && len(s.ErrFields.Cookies) > 0
}

func (a *Answer) append(b []byte) []byte {
	b = wire.AppendNumber(b, uint64(a.Status))
	b = wire.AppendTexts(wire.AppendTexts(b, a.Absent), a.Added)
	b = wire.AppendNumber(b, uint64(len(a.Header)))
	for name, values := range a.Header {
		b = wire.AppendTexts(wire.AppendText(b, name), values)
	}
	return wire.AppendText(b, a.Body)
}

// Read reads a state that another Caddy has appended; limit is max_body. What it says is
// not trusted: what no check here could have read is an error. Its Err has no status yet.
func Read(b []byte, limit int64) (*State, error) {
	r := wire.NewReader(b)
	var has byte
	if first := r.Bytes(1); len(first) > 0 {
		has = first[0]
	}
	s := &State{Unshared: has&hasUnshared != 0, Stale: has&hasStale != 0}
	s.Version = Version{Status: r.Int(maxStatus), Text: r.String()}
	if has&hasErr != 0 {
		s.Err = failure(r.String())
	}
	if has&hasErrFields != 0 {
		s.ErrFields = readAnswer(r, limit, true)
	}
	if has&hasAnswer != 0 {
		s.Answer = readAnswer(r, limit, false)
	}
	switch {
	case has&hasSource != 0:
		s.Source = readAnswer(r, limit, false)
	case has&isSource != 0:
		s.Source = s.Answer
	}
	if has&hasVariation != 0 {
		s.Variation = share.ReadVariation(r)
		copy(s.Varied[:], r.Bytes(len(s.Varied)))
	}
	s.Ended = time.Now()
	if err := r.End(); err != nil {
		return nil, err
	}
	if !s.plausible() {
		return nil, wire.ErrMalformed
	}
	return s, nil
}

// plausible reports whether s is a state that a check could have read.
func (s *State) plausible() bool {
	switch {
	case s.Unshared:
		return s.Answer == nil && s.Source == nil && s.Err == nil && s.ErrFields == nil && s.Version == Version{}
	case s.Err != nil:
		return s.Answer == nil && s.Source == nil && s.Version.Status >= 400 && s.Version.Text == ""
	}
	return s.Source != nil && s.ErrFields == nil && s.Source.Status == s.Version.Status && s.Version.Text != "" && s.Answer != nil
}

// readAnswer reads an answer; bare is one that is fields and nothing else.
func readAnswer(r *wire.Reader, limit int64, bare bool) *Answer {
	status := r.Int(maxStatus)
	absent, added := r.Texts(), r.Texts()
	fields := r.Int(maxLines)
	header := make(http.Header)
	for range fields {
		name, values := r.String(), r.Texts()
		if !validField(name, values) || header[name] != nil {
			r.Fail()
		}
		if r.Failed() {
			break
		}
		header[name] = values
	}
	body := r.Text()
	if int64(len(body)) > limit || bare != (status == 0) || !bare && status < 200 || bare && len(body) > 0 {
		r.Fail()
	}
	a := NewAnswer(status, header, slices.Clone(body), nil, limit)
	a.Cookies, a.Absent, a.Added = nil, absent, added
	return a
}

// maxStatus bounds a status: net/http reads and writes any of three digits.
const maxStatus = 999

// maxLines bounds the fields of an answer that somebody else has read.
const maxLines = 1000

// validField reports whether a field could have come from a backend.
func validField(name string, values []string) bool {
	if name == "" || http.CanonicalHeaderKey(name) != name || strings.ContainsFunc(name, notToken) {
		return false
	}
	return !slices.ContainsFunc(values, func(v string) bool {
		return strings.ContainsFunc(v, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
	})
}

// notToken reports whether c can not stand in a field's name (RFC 9110, section 5.6.2).
func notToken(c rune) bool {
	return c <= ' ' || c >= 0x7f || strings.ContainsRune("()<>@,;:\\\"/[]?={}", c)
}

// failure is the error whose reason was given.
func failure(reason string) error {
	if reason == untrusted {
		reason = "x509: " + reason
	}
	return errors.New(reason)
}

// Again is s, read once more: nothing but the time is another.
func (s *State) Again(ended time.Time) *State {
	return &State{
		Answer: s.Answer, Err: s.Err, ErrFields: s.ErrFields, Source: s.Source, Version: s.Version, ETag: s.ETag, Unshared: s.Unshared,
		Owner: s.Owner, Variation: s.Variation, Varied: s.Varied, Renewed: s.Renewed, Held: s.Held, Stale: s.Stale, Ended: ended,
	}
}
