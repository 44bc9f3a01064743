package state

import (
	"bytes"
	"strings"

	"github.com/caddy-longpoll/caddy-longpoll/internal/delta"
)

// Remember has r know what the resource was before, old being what was read last, so that
// clients who have that can be told what is different (contract 13.8). It does nothing
// unless deltas are configured.
func (r *Reading) Remember(old *Reading, ru *Rules) {
	if ru.Delta == "" {
		return
	}
	if old != nil {
		r.History = old.History
	}
	if r.Unshared || r.Code()/100 != 2 || r.Answer == nil {
		return // clients are told no body
	}
	if r.History != nil && old.Version == r.Version && bytes.Equal(old.Answer.Body, r.Answer.Body) {
		return
	}
	s := delta.State{Version: r.Version.Text, Tag: r.ETag, Body: r.Answer.Plain(), Named: ru.namesBody(r.State)}
	if r.History == nil {
		r.History = delta.NewHistory(ru.Delta, s)
	} else {
		r.History = r.History.Next(s)
	}
}

// namesBody reports whether the version of s is that of no other body: a strong ETag, or the
// hash over all of it. Of any other there can be several, and a client that names it may
// have one that was never seen here. The version of a probe is one of these: the resource
// is read after it, and may have changed in between.
func (ru *Rules) namesBody(s *State) bool {
	return !ru.Hashes() && !ru.Configured && s.Source == s.Answer && !strings.HasPrefix(s.Answer.Header.Get("Etag"), "W/")
}

// Weight is how many bytes are kept because of r, about.
func (r *Reading) Weight() int64 {
	n := r.State.Weight()
	if r.History != nil {
		n += int64(r.History.Kept())
		if body := r.History.Present().Body; len(body) > 0 && (r.Answer == nil || len(r.Answer.Body) == 0 || &body[0] != &r.Answer.Body[0]) {
			n += int64(len(body)) // decoded, or what was before there was none
		}
	}
	return n
}
