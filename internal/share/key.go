// Package share says who may be told the same: it makes the keys of resources, says
// what a check carries, and knows what the answers depend on. A cache would call it
// the cache key. It touches requests and header fields, never a client or a backend,
// and no Caddy.
//
// What is compared and what is carried is one list, [Rules.Carried], which keys are
// made of: what is not compared is not carried, so that nothing that one client sends
// can steer what another one gets (contract 7.4).
package share

import (
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// Asker is what has to be known of a request beyond what stands in it: what has become
// of it on the way to us.
type Asker struct {
	ID       uint64 // tells it from all others
	Body     []byte
	User     string // who was authenticated
	ClientIP string // as the server knows it, behind trusted proxies too
	Trusted  bool   // its peer is a trusted proxy
	Method   string // as it was before rewrites; empty if it is what it was
	URL      *url.URL
	Local    netip.AddrPort      // that it has come to
	Vars     map[string]any      // that handlers have set
	Groups   map[string]struct{} // of routes that have matched
	Value    func(string) string // replaces placeholders
}

// Key is the part of a resource's key that is known before the backend has said anything:
// a digest of all that is compared (contract 7.4). [Variation.Key] adds the rest.
//
// It adds one thing after the other by functions that are never inlined: their stack
// frames are not all there at once, for a stack that has grown stays as large for as long
// as the request is parked.
func (ru *Rules) Key(r *http.Request, name lot.Name, a *Asker) lot.Key {
	d := digests.Get().(*digest)
	defer digests.Put(d)
	d.text = d.text[:0]
	ru.addWhere(d, r, name, a)
	ru.addFields(d, r)
	ru.addWho(d, r, a)
	d.text = addVars(d.text, a)
	d.text = addGroups(d.text, a.Groups)
	for _, value := range ru.Values {
		d.text = addPart(d.text, a.Value(value))
	}
	if len(a.Body) > 0 {
		sum := sha256.Sum256(a.Body) // it may be large
		d.text = append(d.text, sum[:]...)
	}
	return sha256.Sum256(d.text)
}

// digest is what a key is made of.
type digest struct {
	text  []byte
	names []string // of fields
}

var digests = sync.Pool{New: func() any { return new(digest) }}

// addWhere adds what is asked for, as it is and as it was before rewrites.
//
//go:noinline
func (ru *Rules) addWhere(d *digest, r *http.Request, name lot.Name, a *Asker) {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	text := addPart(addPart(addPart(d.text, scheme), name.Method), name.Host)
	local := ru.LocalAddr(a)
	ip := local.Addr().As16()
	text = addPart(append(binary.BigEndian.AppendUint16(text, local.Port()), ip[:]...), local.Addr().Zone())
	text = ru.addURL(text, r.URL)
	if a.URL != nil && (a.Method != r.Method || !ru.sameURL(a.URL, r.URL)) {
		text = ru.addURL(addPart(append(text, 3), a.Method), a.URL)
	}
	d.text = text
}

// addFields adds the request fields that are compared.
//
//go:noinline
func (ru *Rules) addFields(d *digest, r *http.Request) {
	d.names = ru.each(r, nil, d.names[:0], func(name string, values []string) { d.text = addField(d.text, name, values) })
	clear(d.names) // they are the client's
	d.text = append(d.text, 0)
}

// addWho adds who asks, and from where.
//
//go:noinline
func (ru *Rules) addWho(d *digest, r *http.Request, a *Asker) {
	host, network := ru.from(r, nil)
	text := append(addPart(d.text, host), bit(network))
	text = append(addPart(text, ru.ClientIP(r, a, nil)), bit(a.Trusted))
	if !ru.Public {
		text = addPart(text, a.User)
		if r.TLS != nil {
			for _, cert := range r.TLS.PeerCertificates {
				text = addPart(append(text, 1), string(cert.Raw))
			}
		}
	}
	if r.TLS != nil {
		text = addPart(text, r.TLS.ServerName)
	}
	d.text = text
}

// Carried is the header of a check for those who share with r: what is compared, in
// the form in which it is. v is what their answers turned out to depend on beyond
// that.
func (ru *Rules) Carried(r *http.Request, a *Asker, v *Variation) http.Header {
	header := make(http.Header, len(r.Header)+2)
	ru.carry(header, r, a, v)
	for name, values := range header {
		header[name] = slices.Clone(values)
	}
	return header
}

// carry fills header, which is empty, with what is carried: the values are those of r.
func (ru *Rules) carry(header http.Header, r *http.Request, a *Asker, v *Variation) {
	ru.each(r, v, nil, func(name string, values []string) { header[name] = values })
	if !ru.compares(r, v, "User-Agent") {
		header["User-Agent"] = []string{ru.UserAgent}
	}
	if a.Trusted && a.ClientIP != "" && ru.compares(r, v, addressField) && !ru.compares(r, v, "X-Forwarded-For") {
		// The backend is told by the peer, which is trusted, who the client is.
		header["X-Forwarded-For"] = []string{a.ClientIP}
	}
}

// each calls f for each field that is compared and carried, in a fixed order, with its
// values in the form in which they are. It returns the names of all, which are appended
// to names.
//
//go:noinline
func (ru *Rules) each(r *http.Request, v *Variation, names []string, f func(name string, values []string)) []string {
	names = append(names, "Accept", "Accept-Encoding") // there whether they are or not
	for name := range r.Header {
		if name != "Accept" && name != "Accept-Encoding" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	listed := httphdr.Connections(r.Header)
	for _, name := range names {
		if !ru.compares(r, v, name) {
			continue
		}
		values := r.Header[name]
		if slices.Contains(listed, name) {
			values = nil // it was for us
		}
		switch name {
		case "Accept":
			if len(values) == 0 {
				values = anything
			}
		case "Accept-Encoding":
			if !ru.With[name] && len(values) > 0 {
				values = codings[httphdr.Coding(r.Header)]
			} else if !ru.With[name] {
				values = codings["identity"]
			}
		case "Prefer":
			if values = httphdr.WithoutWait(values); len(values) == 0 {
				continue
			}
		}
		if len(values) > 0 {
			f(name, values)
		}
	}
	return names
}

var (
	anything = []string{"*/*"}
	codings  = map[string][]string{"gzip": {"gzip"}, "identity": {"identity"}}
)

// addressField stands for the client's address among the names of fields; no field can
// have that name in a request.
const addressField = "client_ip"

// compares reports whether a field of r is compared and carried.
func (ru *Rules) compares(r *http.Request, v *Variation, name string) bool {
	personal := httphdr.Personal(name) // as all are that are only between a client and us
	switch {
	case ru.Without[name], personal && between[name]:
		return false
	case ru.With[name], v.on(name):
		return true
	case name == addressField, name == "User-Agent":
		switch {
		case v != nil && v.all: // nobody shares
			return true
		case ru.Address == Always && name == addressField:
			return true
		}
		return ru.Address != Never && !ru.Public && len(r.Header["Cookie"]) > 0 && !ru.Without["Cookie"] && !forUs(r.Header, "Cookie")
	case ru.Public && httphdr.LikeCredentials(name):
		return false
	}
	return !personal
}

// forUs reports whether Connection lists a field: it goes no further then.
func forUs(header http.Header, name string) bool {
	return slices.Contains(httphdr.Connections(header), name)
}

// between are the fields that are only between a client and us, whatever `vary` says:
// those for one hop, and preconditions, of which a check has its own.
var between = func() map[string]bool {
	m := map[string]bool{"If-None-Match": true, "If-Modified-Since": true, "If-Range": true, "Range": true, "Wait": true, "Expect": true}
	for _, name := range httphdr.HopByHop() {
		m[name] = true
	}
	return m
}()

// RemoteAddr is where a check for those who share with r comes from. An address that
// is none of a network (of a Unix socket) tells nobody apart.
func (ru *Rules) RemoteAddr(r *http.Request, v *Variation) string {
	host, network := ru.from(r, v)
	if !network {
		return host
	}
	return net.JoinHostPort(host, "0")
}

// from is the host of RemoteAddr, or all of it where that is no address of a network.
func (ru *Rules) from(r *http.Request, v *Variation) (host string, network bool) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	switch {
	case err != nil:
		return r.RemoteAddr, false
	case ru.compares(r, v, addressField):
		return host, true
	}
	return Nobody, true
}

// ClientIP is what the server's variable of that name is in a check for those who
// share with r.
func (ru *Rules) ClientIP(r *http.Request, a *Asker, v *Variation) string {
	if ru.compares(r, v, addressField) || a.ClientIP == "" {
		return a.ClientIP
	}
	return Nobody
}

// LocalAddr is the address that a check for those who share with a has come to: the port
// alone, unless somebody behind looks at all of it.
func (ru *Rules) LocalAddr(a *Asker) netip.AddrPort {
	if !ru.Local {
		return netip.AddrPortFrom(netip.Addr{}, a.Local.Port())
	}
	return netip.AddrPortFrom(a.Local.Addr().Unmap(), a.Local.Port())
}

// Credentials reports whether r says on whose behalf it asks.
func (ru *Rules) Credentials(r *http.Request, a *Asker) bool {
	if ru.Public {
		return false
	}
	if a.User != "" || r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return true
	}
	for name := range r.Header {
		if httphdr.LikeCredentials(name) && !ru.Without[name] && !between[name] && !httphdr.Personal(name) && !forUs(r.Header, name) {
			return true
		}
	}
	return false
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// addPart adds a part, and where it ends.
func addPart(text []byte, part string) []byte {
	text = binary.BigEndian.AppendUint32(text, uint32(len(part)))
	return append(text, part...)
}

// addField adds a header field, and how many lines it has.
func addField(text []byte, name string, values []string) []byte {
	text = addPart(append(text, 1), name)
	text = binary.BigEndian.AppendUint32(text, uint32(len(values)))
	for _, v := range values {
		text = addPart(text, v)
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

// URL is what a check carries of u: what is compared.
func (ru *Rules) URL(u *url.URL) *url.URL {
	c := &url.URL{
		Scheme: u.Scheme, Host: strings.ToLower(u.Host), Opaque: u.Opaque,
		Path: u.Path, RawQuery: StripQuery(u.RawQuery, ru.StripQuery), ForceQuery: u.ForceQuery,
	}
	if escaped := u.EscapedPath(); escaped != c.EscapedPath() {
		c.RawPath = escaped
	}
	return c
}

// addURL adds what is compared of a URL. Most are a path and a query.
func (ru *Rules) addURL(text []byte, u *url.URL) []byte {
	text = addPart(addPart(text, u.EscapedPath()), StripQuery(u.RawQuery, ru.StripQuery))
	if u.ForceQuery {
		text = append(text, 4) // an empty query is none of those without one
	}
	if u.Scheme != "" || u.Host != "" || u.Opaque != "" {
		text = addPart(addPart(addPart(append(text, 2), u.Scheme), strings.ToLower(u.Host)), u.Opaque)
	}
	return text
}

// sameURL reports whether a check carries the same of both.
func (ru *Rules) sameURL(a, b *url.URL) bool {
	return a.Path == b.Path && a.RawPath == b.RawPath && a.Scheme == b.Scheme && a.Host == b.Host && a.Opaque == b.Opaque &&
		a.ForceQuery == b.ForceQuery && (a.RawQuery == b.RawQuery || StripQuery(a.RawQuery, ru.StripQuery) == StripQuery(b.RawQuery, ru.StripQuery))
}
