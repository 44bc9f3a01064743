package share

import (
	"hash/maphash"
	"net/http"
	"slices"
	"strings"
)

// Trait is one of the things that a check carries of those who share it: its name, and a
// sum that is another where its value is. Names never hold a value; sums are good for this
// process only, and tell nobody what they are of.
type Trait struct {
	Name string
	Sum  uint64
}

// Of a request that has more of them, or longer ones, the rest is one trait.
const (
	maxTraits    = 48
	maxTraitName = 48
)

// rest is the name of the traits that are too many.
const rest = "other fields"

var traitSeed = maphash.MakeSeed()

// Traits are those of the request that checks are made from, by name: its fields, its
// ?parameters, its query where that is no list of plainly named parameters, and where it
// comes from. It keeps nothing of the request.
func Traits(r *http.Request) []Trait {
	ts := make([]Trait, 0, min(len(r.Header)+2, maxTraits))
	ts = addTrait(ts, "client address", r.RemoteAddr)
	if r.TLS != nil {
		ts = addTrait(ts, "scheme", "https")
		for _, certificate := range r.TLS.PeerCertificates {
			ts = addTrait(ts, "client certificate", string(certificate.Raw))
		}
	}
	ts = addQuery(ts, r.URL.RawQuery)
	names := make([]string, 0, 16)
	for name := range r.Header {
		names = append(names, name)
	}
	if len(names) > maxTraits-len(ts) {
		slices.Sort(names) // the rest is always the same
	}
	for _, name := range names {
		values := r.Header[name]
		if len(name) > maxTraitName {
			name = rest
		}
		ts = addTrait(ts, name, values...)
	}
	slices.SortFunc(ts, func(a, b Trait) int { return strings.Compare(a.Name, b.Name) })
	return ts
}

// addTrait adds a trait, or adds to the one of that name; beyond maxTraits, to the rest.
// Traits of one name come in any order.
func addTrait(ts []Trait, name string, values ...string) []Trait {
	var h maphash.Hash
	h.SetSeed(traitSeed)
	h.WriteString(name)
	for _, v := range values {
		h.WriteString(v)
		h.WriteByte(0)
	}
	if len(ts) >= maxTraits {
		name = rest
	}
	for i := range ts {
		if ts[i].Name == name {
			ts[i].Sum += h.Sum64()
			return ts
		}
	}
	return append(ts, Trait{strings.Clone(name), h.Sum64()})
}

// addQuery adds the parameters of a query. What has no value, or no plain name, may be a
// value itself: it is the query.
func addQuery(ts []Trait, query string) []Trait {
	if query == "" {
		return ts
	}
	before := len(ts)
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if value == "" || !plainName(name) {
			ts = addTrait(ts, "query", part)
			continue
		}
		ts = addTrait(ts, "?"+name, value)
		if len(ts)-before > maxTraits/2 {
			return addTrait(ts[:before], "query", query)
		}
	}
	return ts
}

// plainName reports whether text looks like the name of a parameter, and not like a token
// in the place of one.
func plainName(text string) bool {
	if text == "" || len(text) > 32 {
		return false
	}
	for i := range len(text) {
		c := text[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_-.[]", c) >= 0) {
			return false
		}
	}
	return true
}

// Differ are the names of the traits that not all of them have alike, sorted.
func Differ(of [][]Trait) (names []string) {
	if len(of) == 0 {
		return nil
	}
	first := make(map[string]uint64, len(of[0]))
	for _, t := range of[0] {
		first[t.Name] = t.Sum
	}
	differ := make(map[string]struct{})
	for _, ts := range of[1:] {
		alike := 0
		for _, t := range ts {
			if sum, ok := first[t.Name]; !ok || sum != t.Sum {
				differ[t.Name] = struct{}{}
			}
			if _, ok := first[t.Name]; ok {
				alike++
			}
		}
		if alike < len(first) { // it lacks some
			for name := range first {
				if !slices.ContainsFunc(ts, func(t Trait) bool { return t.Name == name }) {
					differ[name] = struct{}{}
				}
			}
		}
	}
	for name := range differ {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
