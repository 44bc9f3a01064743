package share

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// Variation is what the answers to some requests depend on, beyond what is always
// compared. It is immutable; nil is nothing.
type Variation struct {
	fields []string // canonical and sorted
	all    bool     // on everything: Vary: *
}

// ByWhoAsks reports whether answers differ by credentials.
func (v *Variation) ByWhoAsks() bool {
	return v != nil && (v.all || slices.Contains(v.fields, "Authorization") || slices.Contains(v.fields, "Cookie"))
}

// Equal reports whether both depend on the same.
func (v *Variation) Equal(o *Variation) bool {
	if v == nil || o == nil {
		return v == o
	}
	return v.all == o.all && slices.Equal(v.fields, o.fields)
}

// Key is the key of a resource whose answers depend on v, too: base is what is known
// without it, id tells the request from all others. A nil Variation adds nothing.
func (v *Variation) Key(base lot.Key, header http.Header, id uint64) lot.Key {
	if v == nil {
		return base
	}
	buf := digested.Get().(*[]byte)
	defer digested.Put(buf)
	text := append((*buf)[:0], base[:]...)
	if v.all {
		text = binary.BigEndian.AppendUint64(text, id)
	}
	for _, name := range v.fields {
		text = addPart(text, name)
	}
	text = addFields(text, header, v.fields)
	*buf = text
	return sha256.Sum256(text)
}

// Variation reads Vary and Cache-Control of an answer.
func (ru *Rules) Variation(header http.Header) *Variation {
	var v Variation
	for _, field := range header["Vary"] {
		for name := range strings.SplitSeq(field, ",") {
			name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name))
			switch {
			case name == "*":
				v.all = true
			case name == "", slices.Contains(alwaysCompared, name), slices.Contains(ClientsOwn, name):
			case !ru.Public && slices.Contains(credentials, name):
			case slices.ContainsFunc(ru.Vary, func(s string) bool { return textproto.CanonicalMIMEHeaderKey(s) == name }):
			default:
				v.fields = append(v.fields, name)
			}
		}
	}
	if ru.Public && httphdr.ReadCacheControl(header).Has("private") {
		v.fields = append(v.fields, "Authorization", "Cookie")
	}
	if v.all {
		v.fields = nil
	}
	if !v.all && len(v.fields) == 0 {
		return nil
	}
	slices.Sort(v.fields)
	v.fields = slices.Compact(v.fields)
	return &v
}

// Memory remembers what the answers to which requests depend on, so that a request
// finds the right resource at once. What is forgotten is learnt again: a reader makes
// sure in any case.
type Memory struct {
	Max int // names that are remembered

	mu sync.Mutex // protects m
	m  map[lot.Name]*Variation
}

// Of is what is known of the answers to such requests; nil if nothing is.
func (vs *Memory) Of(name lot.Name) *Variation {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	return vs.m[name]
}

// Learn adds v to what is known of the answers to such requests. It only ever
// grows: answers to other queries of the path may depend on less, which costs a
// check more and shows nothing to anybody.
func (vs *Memory) Learn(name lot.Name, v *Variation) *Variation {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	known := vs.m[name]
	if known != nil {
		fields := slices.Concat(known.fields, v.fields)
		slices.Sort(fields)
		v = &Variation{fields: slices.Compact(fields), all: known.all || v.all}
	}
	if v.Equal(known) {
		return known
	}
	if len(vs.m) >= vs.Max {
		clear(vs.m)
	}
	if vs.m == nil {
		vs.m = make(map[lot.Name]*Variation)
	}
	vs.m[name] = v
	return v
}
