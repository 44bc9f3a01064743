// Package state is what the backend said, and what is made of it: answers, their
// versions, members of their bodies, and the states that all who wait are told. It
// knows neither who asked nor who is told, and no Caddy.
package state

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
)

// State is what one check read, or what it failed with. It is made by one function of
// the check, and immutable from then on.
type State struct {
	Answer *Answer // what the backend said; nil if Err says it all, or if only the probe was asked
	Err    error   // the answer is to be made by Caddy's error routes
	Source *Answer // what the version was read from: the answer, or that of the probe

	Version  Version
	ETag     string // what the client's copy is known by; empty if by nothing
	Unshared bool   // it can not be shared or held: everybody asks for himself

	Owner     uint64           // the poll on whose behalf it was read; 0 if none
	Variation *share.Variation // what it depends on beyond what is always compared
	Varied    lot.Key          // a digest of that, as it was in the request that it was read by

	Held  bool      // it is a fault that a hold_while holds on, and so an answer
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
	Fails  int           // checks that have failed in a row
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

// Failure is the state of which nothing is known but that err has come in place of an
// answer: it is answered with status.
func Failure(err error, status int) *State {
	return &State{Err: err, Version: Version{Status: status}, Ended: time.Now()}
}

// Code is the status of what the backend said.
func (s *State) Code() int { return s.Version.Status }

// Outage reports whether a status is an outage rather than an answer (contract 7.7).
func Outage(status int) bool { return status >= 500 || status == http.StatusTooManyRequests }

// Fault reports whether s is an outage rather than an answer.
func (s *State) Fault() bool { return !s.Unshared && Outage(s.Code()) }

// Matches reports whether one of the tags of an If-None-Match is that of s, by weak
// comparison (RFC 9110, section 8.8.3.2).
func (s *State) Matches(tags []string) bool {
	if s.ETag == "" {
		return slices.Contains(tags, "*")
	}
	mine := s.opaque(s.ETag)
	for _, tag := range tags {
		if tag == "*" || s.opaque(tag) == mine {
			return true
		}
	}
	return false
}

// opaque is what tells a tag from others, less the suffix that Caddy's encode adds
// to a strong one ("v1-gzip"), since the 304 to it says "v1" again.
func (s *State) opaque(tag string) string {
	o := httphdr.Opaque(tag)
	if s.Answer != nil {
		if coding := s.Answer.Header["Content-Encoding"]; len(coding) > 0 && coding[0] != "" {
			o = strings.TrimSuffix(o, "-"+coding[0])
		}
	}
	return o
}

// Modified is the answer's Last-Modified; zero if it has none.
func (s *State) Modified() time.Time {
	if s.Answer == nil {
		return time.Time{}
	}
	at, _ := http.ParseTime(s.Answer.Header.Get("Last-Modified"))
	return at
}

// memo is what was found out about a state once, for all who ask.
type memo struct {
	members sync.Map // of strings by gjson path, and one by wholeBody

	once  sync.Once // see Fields
	shown []Field
	lines int
}

// wholeBody is the key in members of what no gjson path gives.
type wholeBody struct{}

// JSON is a member of the JSON body; "" if it is missing, or the body no JSON.
func (s *State) JSON(path string) string {
	if v, ok := s.members.Load(path); ok {
		return v.(string)
	}
	var v string
	if s.Source != nil {
		v = Member(s.Source.Plain(), path)
	}
	s.members.Store(path, v)
	return v
}

// Text is the whole body.
func (s *State) Text() string {
	if v, ok := s.members.Load(wholeBody{}); ok {
		return v.(string)
	}
	var v string
	if s.Source != nil {
		if v = string(s.Source.Plain()); v == "" {
			v = string(s.Source.Body) // its content coding may be unknown
		}
	}
	s.members.Store(wholeBody{}, v)
	return v
}

// Field is a header field of an answer as all clients get it.
type Field struct {
	Name   string
	Values []string
}

// Fields are the end-to-end fields of the answer, and how many lines they have. They
// are found out once, not for each of ten thousand clients.
func (s *State) Fields() ([]Field, int) {
	s.once.Do(func() {
		header := s.Answer.Header.Clone()
		if s.ETag != "" && s.Answer.Status/100 == 2 {
			header["Etag"] = []string{s.ETag}
		}
		if httphdr.HasBody(s.Answer.Status) {
			header["Content-Length"] = []string{strconv.Itoa(len(s.Answer.Body))}
		}
		if len(header["Cache-Control"]) > 0 {
			httphdr.Revalidate(header)
		}
		for name, values := range header {
			s.shown = append(s.shown, Field{name, values})
			s.lines += len(values)
		}
	})
	return s.shown, s.lines
}

// Known is the state of r; nil if there is none.
func (r *Reading) Known() *State {
	if r == nil {
		return nil
	}
	return r.State
}
