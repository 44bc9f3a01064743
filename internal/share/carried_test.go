package share

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// drawn makes requests and rules of the bytes of a fuzzer.
type drawn struct{ left []byte }

// n is one of so many numbers; 0 where there are no bytes left.
func (d *drawn) n(of int) int {
	if len(d.left) == 0 {
		return 0
	}
	n := int(d.left[0]) % of
	d.left = d.left[1:]
	return n
}

func (d *drawn) flag() bool { return d.n(2) == 1 }

func pick[T any](d *drawn, of ...T) T { return of[d.n(len(of))] }

// some fields of each kind: compared, personal, credentials, for one hop, compared by
// their meaning.
var drawnFields = []string{
	"Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Cookie", "X-Api-Key", "X-Tenant", "Origin", "User-Agent", "Referer",
	"X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via", "If-None-Match", "Prefer", "Wait", "Cache-Control", "Traceparent", "Sec-Fetch-Mode",
	"Keep-Alive", "Te", "Upgrade", "Expect", "Range", "A-Im",
}

func (d *drawn) rules() *Rules {
	c := Config{Public: d.flag(), UserAgent: "long_poll/test", Seen: d.n(4) == 1}
	for range d.n(4) {
		c.Vary = append(c.Vary, pick(d, "", "-")+pick(d, append(drawnFields, "client_ip")...))
	}
	if d.flag() {
		c.StripQuery = []string{"index"}
	}
	if d.flag() {
		c.Looks = []string{pick(d, drawnFields...)}
	}
	ru, _ := New(c)
	return ru
}

func (d *drawn) request() (*http.Request, *Asker) {
	r := httptest.NewRequest(pick(d, "GET", "POST"), pick(d, "/", "/a", "/a%2Fb", "/a/b", "/?", "http://a.example/a", "http://u:p@a.example/a", "x:opaque"), nil)
	r.Host = pick(d, "a.example", "A.Example", "b.example")
	r.URL.RawQuery = pick(d, "", "index=1", "index=2", "index=1&page=1", "page=1")
	r.RemoteAddr = pick(d, "10.0.0.1:1000", "10.0.0.1:2000", "10.0.0.2:1000", "@", "[::1]:1")
	for range d.n(6) {
		name := pick(d, drawnFields...)
		r.Header[name] = append(r.Header[name], pick(d, "a", "b", "", "gzip", "br, gzip;q=0", "wait=5", "respond-async, wait=5", "respond-async"))
	}
	for range d.n(3) {
		r.Header["Connection"] = append(r.Header["Connection"], pick(d, "close", "keep-alive", strings.ToLower(pick(d, drawnFields...))))
	}
	a := &Asker{ID: 1, User: pick(d, "", "", "alice", "bob"), ClientIP: pick(d, "10.0.0.1", "10.0.0.2"), Trusted: d.flag(), Local: netip.MustParseAddrPort(pick(d, "192.0.2.7:80", "192.0.2.8:443"))}
	if d.flag() {
		r.TLS = &tls.ConnectionState{ServerName: pick(d, "", "a.example")}
		for range d.n(3) {
			r.TLS.PeerCertificates = append(r.TLS.PeerCertificates, &x509.Certificate{Raw: []byte(pick(d, "one", "two"))})
		}
	}
	if d.flag() {
		a.Method, a.URL = r.Method, pick(d, r.URL, &url.URL{Path: "/a/b", RawQuery: r.URL.RawQuery}, &url.URL{Path: "/a/b", RawPath: "/a%2Fb", RawQuery: r.URL.RawQuery}, &url.URL{Path: "/a", RawQuery: "index=3"})
	}
	a.Vars = map[string]any{"client_ip": a.ClientIP, "trusted_proxy": a.Trusted}
	if d.flag() {
		a.Vars["tenant"] = pick[any](d, "a", "b", 1, 2, true, nil)
	}
	if d.flag() {
		a.Groups = map[string]struct{}{pick(d, "group0", "group1"): {}}
	}
	if d.flag() {
		a.Body = []byte(pick(d, "body", "other"))
	}
	return r, a
}

func name(r *http.Request) lot.Name {
	return lot.Name{Method: r.Method, Host: strings.ToLower(r.Host), Path: r.URL.Path}
}

// check is the request that a check for those who share with r makes, as seen by who
// gets it.
func check(ru *Rules, r *http.Request, a *Asker, v *Variation) (*http.Request, *Asker) {
	c := &http.Request{
		Method: r.Method, URL: ru.URL(r.URL), Host: name(r).Host,
		Header: ru.Carried(r, a, v), RemoteAddr: ru.RemoteAddr(r, v),
	}
	if r.TLS != nil {
		c.TLS = &tls.ConnectionState{ServerName: r.TLS.ServerName}
		if !ru.Public {
			c.TLS.PeerCertificates = r.TLS.PeerCertificates
		}
	}
	ca := &Asker{
		ID: a.ID, Body: a.Body, User: a.User, Trusted: a.Trusted, Method: a.Method, Local: ru.LocalAddr(a), Groups: a.Groups,
		ClientIP: ru.ClientIP(r, a, v), Vars: maps.Clone(a.Vars),
	}
	if a.URL != nil {
		ca.URL = ru.URL(a.URL)
	}
	maps.DeleteFunc(ca.Vars, func(name string, _ any) bool { return !CarriesVar(name) })
	return c, ca
}

// The request that a check carries has the key of those that it is made for, and is the
// same whoever of them it is made for (contract 7.4).
func FuzzCarried(f *testing.F) {
	f.Add([]byte{}, []byte{}, []byte{})
	for i := range 64 { // some of each
		f.Add(bytesFrom(i, 8), bytesFrom(3*i+1, 40), bytesFrom(7*i+2, 40))
		f.Add(bytesFrom(i, 8), bytesFrom(3*i+1, 40), bytesFrom(3*i+1, 40))
	}
	f.Fuzz(func(t *testing.T, rules, one, other []byte) {
		ru := (&drawn{rules}).rules()
		r, a := (&drawn{one}).request()
		key := ru.Key(r, name(r), a)
		c, ca := check(ru, r, a, nil)
		if got := ru.Key(c, name(c), ca); got != key {
			t.Errorf("rules %+v: the check of %s has another key than it\ncheck %+v %+v\nrequest %+v %+v", ru, r.URL, c.Header, ca, r.Header, a)
		}
		if ru.Credentials(c, ca) != ru.Credentials(r, a) {
			t.Errorf("rules %+v: the check of %s says that it has credentials: %v\ncheck %+v\nrequest %+v", ru, r.URL, ru.Credentials(c, ca), c.Header, r.Header)
		}
		o, oa := (&drawn{other}).request()
		if ru.Key(o, name(o), oa) != key {
			return
		}
		d, da := check(ru, o, oa, nil)
		for _, diff := range []struct {
			what string
			a, b any
		}{
			{"header", c.Header, d.Header}, {"host", c.Host, d.Host}, {"URL", c.URL, d.URL}, {"address", c.RemoteAddr, d.RemoteAddr},
			{"TLS", c.TLS, d.TLS}, {"original URL", ca.URL, da.URL}, {"client", ca.ClientIP, da.ClientIP},
			{"vars", ca.Vars, da.Vars}, {"groups", ca.Groups, da.Groups}, {"body", ca.Body, da.Body}, {"trust", ca.Trusted, da.Trusted},
		} {
			if !reflect.DeepEqual(diff.a, diff.b) && !(fmt.Sprint(diff.a) == "map[]" && fmt.Sprint(diff.b) == "map[]") && !sameAsBefore(diff.what, c, ca, d, da) {
				t.Errorf("rules %+v: %s and %s share, but their checks differ in the %s: %+v and %+v", ru, r.URL, o.URL, diff.what, diff.a, diff.b)
			}
		}
	})
}

// sameAsBefore reports whether it is only that one of the two remembers what it was
// before rewrites, which is what it is.
func sameAsBefore(what string, c *http.Request, ca *Asker, d *http.Request, da *Asker) bool {
	if what != "original URL" {
		return false
	}
	url := func(c *http.Request, a *Asker) string {
		if a.URL != nil {
			return a.URL.String()
		}
		return c.URL.String()
	}
	return url(c, ca) == url(d, da)
}

// bytesFrom are some bytes that look like chance.
func bytesFrom(seed, n int) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 12345
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// What Vary adds is compared and carried as well: who reads what a check has read, has
// in these fields what the check had.
func FuzzVariedCarried(f *testing.F) {
	for i := range 64 {
		f.Add(bytesFrom(i, 8), bytesFrom(3*i+1, 40), bytesFrom(3*i+1, 40), "Referer, User-Agent", true)
		f.Add(bytesFrom(i, 8), bytesFrom(5*i+1, 40), bytesFrom(3*i+1, 40), "*", false)
	}
	f.Fuzz(func(t *testing.T, rules, one, other []byte, vary string, private bool) {
		ru := (&drawn{rules}).rules()
		r, a := (&drawn{one}).request()
		o, oa := (&drawn{other}).request()
		a.ID, oa.ID = 1, 2
		header := http.Header{"Vary": {vary}}
		if private {
			header["Cache-Control"] = []string{"private"}
		}
		v := ru.Variation(header, nil)
		if v == nil {
			return
		}
		c, ca := check(ru, r, a, v)
		sharer := func(r *http.Request, a *Asker, alone bool) Sharer {
			return Sharer{Header: r.Header, ID: a.ID, Alone: alone, Credentials: ru.Credentials(r, a)}
		}
		of := v.Key(ru.Key(c, name(c), ca), sharer(c, ca, v.Alone()))
		if of != v.Key(ru.Key(r, name(r), a), sharer(r, a, true)) && !slices.ContainsFunc(v.fields, func(f string) bool { return between[f] }) {
			t.Errorf("rules %+v, Vary %q: who is checked for may not read the answer\ncheck %+v\nrequest %+v", ru, vary, c.Header, r.Header)
		}
		if of != v.Key(ru.Key(o, name(o), oa), sharer(o, oa, true)) {
			return
		}
		if v.Alone() || private && !ru.Credentials(o, oa) {
			t.Errorf("rules %+v, Vary %q, private %v: shared with %+v", ru, vary, private, o.Header)
		}
		if d, _ := check(ru, o, oa, v); !reflect.DeepEqual(c.Header, d.Header) {
			t.Errorf("rules %+v, Vary %q: %s and %s share, but their checks differ: %+v and %+v", ru, vary, r.URL, o.URL, c.Header, d.Header)
		}
	})
}
