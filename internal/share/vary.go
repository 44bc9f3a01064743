package share

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// Variation is what the answers to some requests depend on, beyond what is always
// compared: it is compared and carried too. It is immutable; nil is nothing.
type Variation struct {
	fields  []string // of the request, canonical and sorted
	wanted  []string // placeholders that were asked for, sorted
	private bool     // nobody shares who has no credentials
	all     bool     // nobody shares: Vary: *
}

// Sharer is one of those who may share, or the check that they may share.
type Sharer struct {
	Header      http.Header
	ID          uint64 // tells it from all others
	Alone       bool   // it shares with nobody, or is made for such a one
	Credentials bool
	Value       func(placeholder string) (value string, known bool)
}

// on reports whether the answers depend on a request field.
func (v *Variation) on(field string) bool { return v != nil && slices.Contains(v.fields, field) }

// Wants reports whether the answers depend on placeholders: to look these up takes a
// deep stack.
func (v *Variation) Wants() bool { return v != nil && len(v.wanted) > 0 }

// Set is the part of v that was set on the way to us, the placeholders: the configuration
// decides on these, and not what a backend says in an outage. It is nil if there are none.
func (v *Variation) Set() *Variation {
	if !v.Wants() {
		return nil
	}
	return &Variation{wanted: v.wanted}
}

// Alone reports whether nobody shares.
func (v *Variation) Alone() bool { return v != nil && v.all }

// Equal reports whether v and o name the same things.
func (v *Variation) Equal(o *Variation) bool {
	if v == nil || o == nil {
		return v == o
	}
	return v == o || v.all == o.all && v.private == o.private && slices.Equal(v.fields, o.fields) && slices.Equal(v.wanted, o.wanted)
}

// Key is the key of a resource whose answers depend on v, too: base is what is known
// without it. A nil Variation adds nothing.
func (v *Variation) Key(base lot.Key, s Sharer) lot.Key {
	if v == nil {
		return base
	}
	d := digests.Get().(*digest)
	defer digests.Put(d)
	text := append(d.text[:0], base[:]...)
	if v.all || v.private && !s.Credentials {
		text = append(binary.BigEndian.AppendUint64(text, s.ID), bit(v.all && s.Alone))
	}
	for _, name := range v.fields {
		values := s.Header[name]
		if forUs(s.Header, name) {
			values = nil
		}
		text = addField(text, name, values)
	}
	text = append(text, 0)
	for _, name := range v.wanted {
		value, known := s.Value(name)
		text = append(addPart(addPart(text, name), value), bit(known))
	}
	d.text = text
	return sha256.Sum256(text)
}

// MaxWanted bounds the placeholders that are remembered. They come from the
// configuration, as a rule.
const MaxWanted = 64

// Variation is what an answer depends on, by its Vary (RFC 9110, section 12.5.5) and by a
// Cache-Control that says private; wanted are the placeholders that were asked for to make
// it, sorted: where those are more than MaxWanted nobody shares. It is nil if it depends
// on nothing that is not compared anyway.
func (ru *Rules) Variation(header http.Header, wanted []string) *Variation {
	v := Variation{wanted: wanted}
	if len(wanted) > MaxWanted {
		v.wanted, v.all = nil, true
	}
	for _, field := range header["Vary"] {
		for name := range strings.SplitSeq(field, ",") {
			v.vary(ru, textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)))
		}
	}
	if (len(header["Cache-Control"]) > 0) && httphdr.ReadCacheControl(header).Has("private") {
		v.private = true
		if ru.Public {
			for _, name := range []string{"Authorization", "Cookie"} {
				v.vary(ru, name)
			}
		}
	}
	if len(v.fields) == 0 && len(v.wanted) == 0 && !v.private && !v.all {
		return nil
	}
	slices.Sort(v.fields)
	v.fields = slices.Compact(v.fields)
	return &v
}

// vary adds what one name in a Vary says.
func (v *Variation) vary(ru *Rules, name string) {
	switch {
	case name == "X-Forwarded-For" && ru.Address != Always && !ru.Without[name]:
		v.all = true // Caddy makes it of the address, whatever the client says in it
	case name == "" || ru.With[name] || ru.Without[name]:
	case name == "*":
		v.all = true
	case ru.Public && httphdr.LikeCredentials(name):
		v.fields = append(v.fields, name)
	case name == "Accept-Encoding" || name == "Prefer" || !httphdr.Personal(name):
		// compared anyway, if by their meaning
	case between[name]:
	case slices.Contains(carriedNowhere, name):
		v.all = true
	default:
		v.fields = append(v.fields, name)
	}
}

// carriedNowhere are fields that the backend gets from us and not from the client: an
// answer that depends on them depends on what no two clients are known to share.
var carriedNowhere = []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"}

// Memory remembers what the answers to which requests depend on, so that a request
// finds the right resource at once. What is forgotten is learnt again: a reader makes
// sure in any case.
type Memory struct {
	size atomic.Int32 // of m, so that polls need no lock where nothing was learnt

	mu sync.Mutex // protects m
	m  map[lot.Name]*learnt
}

// learnt is what is known of the answers to some requests, for as long as resources
// are known that it was learnt from.
type learnt struct {
	*Variation
	from int
}

// Of is what is known of the answers to such requests; nil if nothing is.
func (m *Memory) Of(name lot.Name) *Variation {
	if m.size.Load() == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.m[name]; l != nil {
		return l.Variation
	}
	return nil
}

// Learn adds v to what is known of the answers to such requests, from a resource that
// it was not learnt from before if first. It only ever grows: answers to other queries
// of the path may depend on less, which costs a check more and shows nothing to
// anybody.
func (m *Memory) Learn(name lot.Name, v *Variation, first bool) *Variation {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.m[name]
	if l == nil {
		if m.m == nil {
			m.m = make(map[lot.Name]*learnt)
		}
		l = &learnt{Variation: v}
		m.m[name] = l
		m.size.Add(1)
	}
	if first {
		l.from++
	}
	l.Variation = l.Variation.and(v)
	return l.Variation
}

// Forget undoes a first Learn.
func (m *Memory) Forget(name lot.Name) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.m[name]; l != nil {
		if l.from--; l.from <= 0 {
			delete(m.m, name)
			m.size.Add(-1)
		}
	}
}

// and is what either of v and o names; v itself if that is no more.
func (v *Variation) and(o *Variation) *Variation {
	both := func(a, b []string) []string {
		all := slices.Concat(a, b)
		slices.Sort(all)
		return slices.Compact(all)
	}
	u := &Variation{
		fields: both(v.fields, o.fields), wanted: both(v.wanted, o.wanted),
		private: v.private || o.private, all: v.all || o.all,
	}
	if u.Equal(v) {
		return v
	}
	return u
}
