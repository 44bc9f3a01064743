// Package state is what the backend said, and what is made of it: answers, their
// versions, members of their bodies, and the states that all who wait are told. It
// knows neither who asked nor who is told, and no Caddy.
package state

import (
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/delta"
	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
)

// State is what one check read, or what it failed with. It is made by one function of
// the check, and immutable from then on.
type State struct {
	Answer    *Answer // what the backend said; nil if Err says it all, or if only the probe was asked
	Err       error   // the answer is to be made by Caddy's error routes
	ErrFields *Answer // with the fields of this, which has no more; nil if there are none
	Source    *Answer // what the version was read from: the answer, or that of the probe

	Version Version
	ETag    string // what the client's copy is known by; empty if by nothing

	Owner     uint64           // the poll on whose behalf a check read it, and which may be told even an error that is not for all; 0 if no check did
	Variation *share.Variation // what it depends on beyond what is always compared
	Varied    lot.Key          // a digest of that, as it was in the request that it was read by

	Renewed []string // Set-Cookie, for those who are told it: sessions that they share, renewed by checks

	Unshared bool // it can not be shared or held: everybody asks for himself

	Held  bool      // it is a fault that a hold_while holds on, and so an answer
	Stale bool      // it is a challenge that says that a nonce is stale: no news of the resource
	News  bool      // it could release somebody who is parked on what was read before
	Ended time.Time // when it had been read

	memo
}

// Reading is a State and what this process makes of it.
type Reading struct {
	*State
	Result Result
	Since  time.Time     // when the first state of this version had been read: when the change was seen
	Pause  time.Duration // until the next check, before jitter
	Due    time.Time     // when the next check begins, unless something wakes it
	Fails  int           // checks that have failed in a row
	Traits []share.Trait // of what checks carry

	History *delta.History // what it was before; nil unless deltas are configured

	Restless int  // checks in a row that polls asked for and that found another version
	Blind    int  // changes of the backend's ETag in a row that were none of the version
	Learnt   bool // what its answers depend on is remembered because of this resource, too
}

// Result is what a check found, as metrics call it.
type Result string

// What a check found. The first look at a resource is a change.
const (
	Changed   Result = "changed"
	Unchanged Result = "unchanged"
	Failed    Result = "failed"
)

// Results are all of them.
var Results = []Result{Changed, Unchanged, Failed}

// Version tells two states of a resource apart. The status is part of it: what
// turned into a 404 has changed, whatever its ETag says.
type Version struct {
	Status int
	Text   string
}

// Is reports whether a client that names text has this version.
func (v Version) Is(text string) bool { return v.Text == text }

// Weakly reports whether v is w, whatever their ETags say of how strong they are.
func (v Version) Weakly(w Version) bool {
	return v.Status == w.Status && httphdr.SameTag(v.Text, w.Text)
}

// Failure is the state of which nothing is known but that err has come in place of an
// answer: it is answered with status.
func Failure(err error, status int) *State {
	return &State{Err: err, Version: Version{Status: status}, Ended: time.Now()}
}

// Code is the status of what the backend said.
func (s *State) Code() int { return s.Version.Status }

// Outage reports whether a status is an outage rather than an answer (contract 7.7).
func Outage(status int) bool { return status >= 500 || status == http.StatusTooManyRequests }

// Passing is what an answer says that is on its way to its client; without a body if that
// is not known. Its version is what can be told without one.
func (ru *Rules) Passing(status int, header http.Header, body []byte, limit int64) *Reading {
	var s struct { // in one piece of memory
		Reading
		state  State
		answer Answer
	}
	s.answer.Overhear(status, header, body, limit)
	s.state.Answer, s.state.Source, s.state.Version.Status = &s.answer, &s.answer, status
	if tags := header["Etag"]; len(tags) > 0 && !ru.Configured && !ru.Hashes() {
		s.state.Version.Text = tags[0]
	}
	s.Reading.State = &s.state
	return &s.Reading
}

// Fault reports whether s is an outage rather than an answer.
func (s *State) Fault() bool { return !s.Unshared && Outage(s.Code()) }

// Matches reports whether one of the tags of an If-None-Match is that of s, by weak
// comparison (RFC 9110, section 8.8.3.2).
func (s *State) Matches(tags []string) bool {
	if s.ETag == "" {
		return slices.Contains(tags, "*")
	}
	return MatchesTag(tags, s.ETag)
}

// MatchesTag reports whether one of the tags of an If-None-Match is mine, by weak
// comparison. The suffix of a content coding makes no difference: Caddy's encode and
// other front ends add one ("v1-gzip"), and the 304 to it says "v1" again.
func MatchesTag(tags []string, mine string) bool {
	mine = httphdr.Opaque(mine)
	bare, suffixed := httphdr.WithoutSuffix(mine)
	for _, tag := range tags {
		o := httphdr.Opaque(tag)
		if o == mine || tag == "*" || suffixed && o == bare {
			return true
		}
		if b, ok := httphdr.WithoutSuffix(o); ok && (b == mine || suffixed && b == bare) {
			return true
		}
	}
	return false
}

// Modified is the answer's Last-Modified; zero if it has none.
func (s *State) Modified() time.Time {
	if s.Answer == nil {
		return time.Time{}
	}
	at, _ := http.ParseTime(s.Answer.Header.Get("Last-Modified"))
	return at
}

// Spared is until when the backend has asked to be left alone.
func (s *State) Spared() time.Time {
	if s.Source == nil {
		return s.Ended
	}
	return s.Ended.Add(httphdr.RetryAfter(s.Source.Header, s.Ended))
}

// memo is what was found out about a state once, for all who ask.
type memo struct {
	members atomic.Pointer[sync.Map] // of strings by gjson path, and by the types below; nil until there is one
	grown   func()                   // see OnGrow
	shown   atomic.Pointer[shown]    // see Fields
}

// Keys in members of what no gjson path gives.
type (
	wholeBody struct{}
	isJSON    struct{}
	hashed    struct{}
)

// load is what was found out by that key.
func (m *memo) load(key any) (v any, ok bool) {
	if members := m.members.Load(); members != nil {
		return members.Load(key)
	}
	return nil, false
}

// loadOrStore is what was found out by that key, or else v, which is from now on. Most
// states are asked for nothing, and have no map.
func (m *memo) loadOrStore(key, v any) (actual any, loaded bool) {
	members := m.members.Load()
	if members == nil {
		members = new(sync.Map)
		if !m.members.CompareAndSwap(nil, members) {
			members = m.members.Load()
		}
	}
	return members.LoadOrStore(key, v)
}

// JSON is a member of the JSON body; "" if it is missing, or the body no JSON.
func (s *State) JSON(path string) string {
	if v, ok := s.load(path); ok {
		return v.(string)
	}
	var v string
	if s.Source != nil {
		v = Member(s.Source.Plain(), path)
	}
	s.keep(path, v)
	return v
}

// OnGrow has f called whenever Weight has grown by more than a little, because somebody
// has looked up a part of the body. It is to be called before anybody else looks.
func (s *State) OnGrow(f func()) { s.grown = f }

// littleText is how many bytes are kept without a word.
const littleText = 4 << 10

// keep keeps a text that was looked up for all who look.
func (s *State) keep(key any, v string) {
	if _, there := s.loadOrStore(key, v); !there && len(v) > littleText && s.grown != nil {
		s.grown()
	}
}

// made is what was made of a state once.
type made struct {
	once sync.Once
	what []byte
	size atomic.Int64 // of what, once it is there
}

// Made is what make makes of the state, once for all who ask with the same key, which is
// of a type of theirs. It must not be changed.
func (s *State) Made(key any, make func() []byte) []byte {
	v, there := s.load(key)
	if !there {
		v, _ = s.loadOrStore(key, new(made))
	}
	m := v.(*made)
	m.once.Do(func() {
		m.what = make()
		m.size.Store(int64(len(m.what)))
	})
	if !there && len(m.what) > littleText && s.grown != nil {
		s.grown()
	}
	return m.what
}

// IsJSON reports whether the body is JSON.
func (s *State) IsJSON() bool {
	if v, ok := s.load(isJSON{}); ok {
		return v.(bool)
	}
	v := s.Source != nil && validJSON(s.Source.Plain())
	s.loadOrStore(isJSON{}, v)
	return v
}

// Settle lets go of what need not be kept while somebody waits.
func (s *State) Settle() {
	s.Answer.Settle()
	s.Source.Settle()
}

// Weight is how many bytes are kept of the answer, about.
func (s *State) Weight() (n int64) {
	of := func(a *Answer) {
		if a == nil {
			return
		}
		n += int64(len(a.Body)) + 512
		for name, values := range a.Header {
			n += int64(len(name)) + 64
			for _, v := range values {
				n += 2 * int64(len(v)+16) // once more in Fields
			}
		}
	}
	of(s.Answer)
	if s.Source != s.Answer {
		of(s.Source)
	}
	if members := s.members.Load(); members != nil {
		members.Range(func(_, v any) bool {
			switch v := v.(type) {
			case string:
				n += int64(len(v)) + 64
			case *made:
				n += v.size.Load() + 64
			}
			return true
		})
	}
	return n
}

// Text is the whole body.
func (s *State) Text() string {
	if v, ok := s.load(wholeBody{}); ok {
		return v.(string)
	}
	var v string
	if s.Source != nil {
		if v = string(s.Source.Plain()); v == "" {
			v = string(s.Source.Body) // its content coding may be unknown
		}
	}
	s.keep(wholeBody{}, v)
	return v
}

// Field is a header field of an answer as all clients get it.
type Field struct {
	Name   string
	Values []string
	Added  bool // to what its own way to us has set
}

// shown are the fields of an answer, and how many lines they have.
type shown struct {
	fields []Field
	lines  int
}

// Fields are the end-to-end fields of the answer, and how many lines they have: without
// Date, which each that is sent has anew, and with the length of the body. They are found
// out once, not for each of ten thousand clients.
func (s *State) Fields() ([]Field, int) {
	m := s.shown.Load()
	if m == nil {
		m = s.show()
		s.shown.Store(m) // who has found out the same meanwhile has found the same
	}
	return m.fields, m.lines
}

func (s *State) show() *shown {
	header := s.Answer.Header.Clone()
	delete(header, "Date")
	if s.ETag != "" && s.Answer.Status/100 == 2 {
		header["Etag"] = []string{s.ETag}
	}
	if httphdr.HasBody(s.Answer.Status) {
		header["Content-Length"] = []string{strconv.Itoa(len(s.Answer.Body))}
	}
	if len(header["Cache-Control"]) > 0 {
		httphdr.Revalidate(header)
	}
	m := &shown{fields: make([]Field, 0, len(header))}
	for name, values := range header {
		m.fields = append(m.fields, Field{name, values, slices.Contains(s.Answer.Added, name)})
		m.lines += len(values)
	}
	return m
}

// Known is the state of r; nil if there is none.
func (r *Reading) Known() *State {
	if r == nil {
		return nil
	}
	return r.State
}
