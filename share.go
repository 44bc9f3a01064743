package longpoll

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// Who shares an answer (SPEC rule 7.4). Requests share a resource if their keys are
// equal, and they read a state only if it does not depend on more than that.

// alwaysCompared are the request fields that tell resources apart whatever the
// backend says of them.
var alwaysCompared = []string{"Accept", "Accept-Encoding", "Accept-Language", "Content-Type", "Content-Encoding"}

// digest is the part of the key that is known before the backend has said
// anything.
func (q *question) digest() lot.Key {
	h, r := q.h, q.r
	buf := digested.Get().(*[]byte)
	defer digested.Put(buf)
	text := (*buf)[:0]
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	text = addPart(text, scheme)
	text = addPart(text, q.name.Method)
	text = addPart(text, q.name.Host)
	text = addPart(text, r.URL.EscapedPath())
	text = addPart(text, stripQuery(r.URL.RawQuery, h.StripQuery))
	text = addFields(text, r.Header, alwaysCompared)
	text = addFields(text, r.Header, h.Vary)
	if !h.Public {
		text = addFields(text, r.Header, credentials)
		text = addFields(text, r.Header, likeCredentials(r.Header))
		// The same, from handlers and handshakes on the way to us.
		text = addPart(text, q.user)
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			text = addPart(text, string(r.TLS.PeerCertificates[0].Raw))
		}
	}
	for _, value := range h.Key {
		text = addPart(text, q.repl.ReplaceAll(value, ""))
	}
	if len(q.body) > 0 {
		sum := sha256.Sum256(q.body) // it may be large
		text = append(text, sum[:]...)
	}
	*buf = text
	return sha256.Sum256(text)
}

// digested has buffers for what a key is made of.
var digested = sync.Pool{New: func() any { return new([]byte) }}

// credentials are the fields that say on whose behalf a client asks.
var credentials = []string{"Authorization", "Cookie", "Proxy-Authorization"}

// likeCredentials are the fields whose names say that they are credentials too
// (X-Api-Key, X-Vault-Token, X-Session-Id): to take one for a credential that is none
// costs a few checks, the reverse shows answers to strangers.
func likeCredentials(header http.Header) (names []string) {
	for name := range header {
		switch name {
		case "Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Cookie", "Host", "If-None-Match", "Referer", "User-Agent":
			continue // the usual ones need no search
		}
		for _, word := range []string{"Token", "Api-Key", "Apikey", "Auth", "Secret", "Session"} {
			if strings.Contains(name, word) {
				names = append(names, name)
				break
			}
		}
	}
	slices.Sort(names)
	return names
}

// addPart adds a part, and where it ends.
func addPart(text []byte, part string) []byte {
	text = binary.BigEndian.AppendUint64(text, uint64(len(part)))
	return append(text, part...)
}

// addFields adds the values of header fields, and which of them are missing.
func addFields(text []byte, header http.Header, names []string) []byte {
	for _, name := range names {
		text = addPart(text, name)
		values := header[textproto.CanonicalMIMEHeaderKey(name)]
		text = append(text, byte(min(len(values), 255)))
		for _, v := range values {
			text = addPart(text, v)
		}
	}
	return text
}

// stripQuery takes parameters out of a query and leaves the rest as it is.
func stripQuery(query string, names []string) string {
	if query == "" || len(names) == 0 {
		return query
	}
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(part, "=")
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		if !slices.Contains(names, name) {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "&")
}

// variation is what the answers to some requests depend on, beyond what is always
// compared. It is immutable; nil is nothing.
type variation struct {
	fields []string // canonical and sorted
	alone  bool     // on everything: Vary: *
}

// credentials reports whether answers differ by who asks.
func (v *variation) credentials() bool {
	return v != nil && (v.alone || slices.Contains(v.fields, "Authorization") || slices.Contains(v.fields, "Cookie"))
}

func (v *variation) equal(o *variation) bool {
	if v == nil || o == nil {
		return v == o
	}
	return v.alone == o.alone && slices.Equal(v.fields, o.fields)
}

// key is what tells the resource of q from all others.
func (q *question) key() lot.Key {
	if q.variation == nil {
		return q.base
	}
	return q.variation.key(q.base, q.r.Header, q.id)
}

func (v *variation) key(base lot.Key, header http.Header, id uint64) lot.Key {
	buf := digested.Get().(*[]byte)
	defer digested.Put(buf)
	text := append((*buf)[:0], base[:]...)
	if v.alone {
		text = binary.BigEndian.AppendUint64(text, id)
	}
	for _, name := range v.fields {
		text = addPart(text, name)
	}
	text = addFields(text, header, v.fields)
	*buf = text
	return sha256.Sum256(text)
}

// sharing finds out who may read s.
func (t *template) sharing(s *state) {
	v := t.h.variationOf(s.answer.header)
	if v == nil {
		return
	}
	s.variation = v
	s.varied = v.key(lot.Key{}, t.r.Header, t.id)
}

// variationOf reads Vary and Cache-Control of an answer.
func (h *Handler) variationOf(header http.Header) *variation {
	var v variation
	for _, field := range header["Vary"] {
		for name := range strings.SplitSeq(field, ",") {
			name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name))
			switch {
			case name == "*":
				v.alone = true
			case name == "", slices.Contains(alwaysCompared, name), slices.Contains(notAsked, name):
			case !h.Public && slices.Contains(credentials, name):
			case slices.ContainsFunc(h.Vary, func(s string) bool { return textproto.CanonicalMIMEHeaderKey(s) == name }):
			default:
				v.fields = append(v.fields, name)
			}
		}
	}
	if h.Public && readCacheControl(header).has("private") {
		v.fields = append(v.fields, "Authorization", "Cookie")
	}
	if v.alone {
		v.fields = nil
	}
	if !v.alone && len(v.fields) == 0 {
		return nil
	}
	slices.Sort(v.fields)
	v.fields = slices.Compact(v.fields)
	return &v
}

// mayRead reports whether s is for q too.
func (q *question) mayRead(s *state) bool {
	return s.variation == nil || s.variation.key(lot.Key{}, q.r.Header, q.id) == s.varied
}

// variations remembers what the answers to which requests depend on, so that a
// request finds the right resource at once. What is forgotten is learnt again: a
// reader makes sure in any case.
type variations struct {
	mu  sync.Mutex // protects m
	m   map[lot.Name]*variation
	max int
}

func (vs *variations) of(name lot.Name) *variation {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	return vs.m[name]
}

// learn adds v to what is known of the answers to such requests. It only ever
// grows: answers to other queries of the path may depend on less, which costs a
// check more and shows nothing to anybody.
func (vs *variations) learn(name lot.Name, v *variation) *variation {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	known := vs.m[name]
	if known != nil {
		fields := slices.Concat(known.fields, v.fields)
		slices.Sort(fields)
		v = &variation{fields: slices.Compact(fields), alone: known.alone || v.alone}
	}
	if v.equal(known) {
		return known
	}
	if len(vs.m) >= vs.max {
		clear(vs.m)
	}
	if vs.m == nil {
		vs.m = make(map[lot.Name]*variation)
	}
	vs.m[name] = v
	return v
}
