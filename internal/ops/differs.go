package ops

import (
	"crypto/x509"
	"net/http"
	"net/url"
	"slices"
)

// Of the resources of one name and what tells them apart.
const (
	maxCompared = 200 // of them are compared
	maxDiffers  = 8   // names are shown
	otherwise   = "other than by the request line and fields"
)

// differences are the names of what the checks of resources that share a method, a host
// and a path do not have in common: request fields, ?parameters and what else a check
// carries. A value is never among them. Nil is nothing known yet.
func differences(of []*listed) (names []string) {
	var first *http.Request
	differ := make(map[string]bool)
	compared := 0
	for _, l := range of {
		r := l.asked()
		switch {
		case r == nil: // not checked yet
		case first == nil:
			first = r
			compared++
		default:
			compare(first, r, differ)
			compared++
		}
	}
	for name := range differ {
		names = append(names, name)
	}
	slices.Sort(names)
	switch {
	case len(names) > maxDiffers:
		names = append(names[:maxDiffers], "…")
	case len(names) == 0 && compared > 1:
		names = []string{otherwise} // a body, a user, a var, a key
	}
	return names
}

// asked is what the checks of a resource are made from; nil before the first.
func (l *listed) asked() *http.Request {
	switch {
	case l.snap.Failed():
		return l.snap.Fault.Asked
	case l.snap.Known():
		return l.snap.State.Asked
	}
	return nil
}

// compare notes in what a and b differ.
func compare(a, b *http.Request, differ map[string]bool) {
	for _, h := range []http.Header{a.Header, b.Header} {
		for name := range h {
			if !slices.Equal(a.Header[name], b.Header[name]) {
				differ[printable(name)] = true
			}
		}
	}
	if a.URL.RawQuery != b.URL.RawQuery {
		compareQueries(a.URL.Query(), b.URL.Query(), differ)
	}
	if a.RemoteAddr != b.RemoteAddr {
		differ["client address"] = true
	}
	switch {
	case (a.TLS == nil) != (b.TLS == nil):
		differ["scheme"] = true
	case a.TLS == nil:
	case !slices.EqualFunc(a.TLS.PeerCertificates, b.TLS.PeerCertificates, (*x509.Certificate).Equal):
		differ["client certificate"] = true
	}
}

// compareQueries notes which parameters differ. A name that is not plainly one may be a
// value.
func compareQueries(a, b url.Values, differ map[string]bool) {
	found := false
	for _, q := range []url.Values{a, b} {
		for name, values := range q {
			if slices.Equal(a[name], b[name]) {
				continue
			}
			found = true
			if plain(name) && slices.ContainsFunc(values, func(v string) bool { return v != "" }) {
				differ["?"+name] = true
			} else {
				differ["query"] = true
			}
		}
	}
	if !found {
		differ["query"] = true // in its order, or what can not be read
	}
}

// plain reports whether text looks like the name of a parameter, and not like a token in
// the place of one.
func plain(text string) bool {
	if len(text) == 0 || len(text) > 32 {
		return false
	}
	for _, r := range text {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-' || r == '.' || r == '[' || r == ']') {
			return false
		}
	}
	return true
}
