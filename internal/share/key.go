// Package share says who may be told the same: it makes the keys of resources, and
// knows what the answers to them depend on. A cache would call it the cache key. It
// touches requests and header fields, never a client or a backend, and no Caddy.
package share

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// Rules is the part of the configuration that decides who shares (contract 7.4).
type Rules struct {
	Public     bool     // credentials tell nothing apart
	Vary       []string // request fields that tell resources apart in addition
	StripQuery []string // query parameters that do not
	Values     []string // texts with placeholders that do
	Memory     Memory   // what the backend's answers turned out to depend on
}

// Asker is what a key needs to know of a request beyond what stands in it.
type Asker struct {
	Body  []byte
	User  string              // who was authenticated on the way to us
	Value func(string) string // replaces placeholders
}

// alwaysCompared are the request fields that tell resources apart whatever the
// backend says of them.
var alwaysCompared = []string{"Accept", "Accept-Encoding", "Accept-Language", "Content-Type", "Content-Encoding"}

// credentials are the fields that say on whose behalf a client asks.
var credentials = []string{"Authorization", "Cookie", "Proxy-Authorization"}

// Key is the part of the key that is known before the backend has said anything.
func (ru *Rules) Key(r *http.Request, name lot.Name, a Asker) lot.Key {
	buf := digested.Get().(*[]byte)
	defer digested.Put(buf)
	text := (*buf)[:0]
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	text = addPart(text, scheme)
	text = addPart(text, name.Method)
	text = addPart(text, name.Host)
	text = addPart(text, r.URL.EscapedPath())
	text = addPart(text, StripQuery(r.URL.RawQuery, ru.StripQuery))
	text = addFields(text, r.Header, alwaysCompared)
	text = addFields(text, r.Header, ru.Vary)
	if !ru.Public {
		text = addFields(text, r.Header, credentials)
		text = addFields(text, r.Header, likeCredentials(r.Header))
		// The same, from handlers and handshakes on the way to us.
		text = addPart(text, a.User)
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			text = addPart(text, string(r.TLS.PeerCertificates[0].Raw))
		}
	}
	for _, value := range ru.Values {
		text = addPart(text, a.Value(value))
	}
	if len(a.Body) > 0 {
		sum := sha256.Sum256(a.Body) // it may be large
		text = append(text, sum[:]...)
	}
	*buf = text
	return sha256.Sum256(text)
}

// digested has buffers for what a key is made of.
var digested = sync.Pool{New: func() any { return new([]byte) }}

// likeCredentials are the fields whose names say that they are credentials too
// (X-Api-Key, X-Vault-Token, X-Session-Id): to take one for a credential that is none
// costs a few checks, the reverse shows answers to strangers.
func likeCredentials(header http.Header) (names []string) {
	for name := range header {
		if httphdr.LikeCredentials(name) {
			names = append(names, name)
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

// StripQuery takes parameters out of a query and leaves the rest as it is.
func StripQuery(query string, names []string) string {
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

// ClientsOwn are the fields of a poll that are between its client and us:
// preconditions, preferences, and what is only for one hop (RFC 9110, section 7.6.1).
var ClientsOwn = append([]string{"If-None-Match", "If-Modified-Since", "If-Range", "Range", "Prefer", "Wait", "Expect"}, httphdr.HopByHop()...)

// DropClientsOwn takes them out.
func DropClientsOwn(header http.Header) {
	httphdr.DropHop(header)
	for _, name := range ClientsOwn {
		delete(header, name)
	}
}
