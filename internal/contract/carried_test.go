package contract_test

import (
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// Contract 7.4: what those who share a check have in common, and what it carries.

// seenByBackend is a request as a handler behind us sees it.
type seenByBackend struct {
	header   http.Header
	host     string
	uri      string
	orig     string
	remote   string
	clientIP string
	trusted  bool
	proto    string
	tls      *tls.ConnectionState
	vars     map[string]any
	trailer  http.Header
}

// watched has the site's backend note what it sees.
func watched(s *site, says caddyhttp.HandlerFunc) (all func() []seenByBackend) {
	var mu sync.Mutex
	var seen []seenByBackend
	s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
		vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
		orig, _ := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
		e := seenByBackend{
			header: r.Header.Clone(), host: r.Host, uri: r.RequestURI, remote: r.RemoteAddr, proto: r.Proto, tls: r.TLS,
			vars: maps.Clone(vars), trailer: r.Trailer,
		}
		if orig.URL != nil {
			e.orig = orig.URL.String()
		}
		e.clientIP, _ = vars[caddyhttp.ClientIPVarKey].(string)
		e.trusted, _ = vars[caddyhttp.TrustedProxyVarKey].(bool)
		mu.Lock()
		seen = append(seen, e)
		mu.Unlock()
		return says(w, r)
	})
	return func() []seenByBackend {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
}

// pair has two clients ask the same site at once, and reports whether one check was made
// for both, and what the first one carried. Each poll waits for the first change.
func pair(t *testing.T, block string, one, other func(r *http.Request), before func(r *http.Request)) (shared bool, first seenByBackend) {
	t.Helper()
	virtual(func(t *testing.T) {
		s := newSite(t, steady+block)
		all := watched(s, tagged("1"))
		s.before = func(_ http.ResponseWriter, r *http.Request) {
			if before != nil {
				before(r)
			}
		}
		for _, change := range []func(*http.Request){one, other} {
			r := newRequest(http.MethodGet, "/", "", has("1"))
			if change != nil {
				change(r)
			}
			s.send(r).mustWait()
		}
		settle(1500 * time.Millisecond)
		seen := all()
		first = seen[0]
		shared = s.lot.Len() == 1
	})(t)
	return shared, first
}

// with sets a request field.
func with(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func TestRule4NotComparedNotCarried(t *testing.T) {
	names := httphdr.PersonalFields()
	for i, name := range names {
		names[i] = strings.TrimSuffix(name, "*")
		if name != names[i] {
			names[i] += "Anything"
		}
	}
	for _, name := range names {
		switch name {
		case "If-None-Match", "If-Modified-Since", "Range", "If-Match", "If-Unmodified-Since", "Wait", "Connection", "Upgrade", "Prefer":
			continue // they say whether it is a poll, and which
		}
		if name == "Sec-Anything" {
			name = "Sec-Ch-Ua"
		}
		t.Run(name, func(t *testing.T) {
			shared, first := pair(t, "", with(name, "a"), with(name, "b"), nil)
			if !shared {
				t.Error("it is compared")
			}
			if got := first.header[name]; got != nil && name != "User-Agent" {
				t.Errorf("a check bears %q", got)
			}
		})
	}
	for _, field := range []string{"Wait: 7", "Wait: 8", "Prefer: wait=7", "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT", "Connection: keep-alive", "Upgrade: h2c"} {
		t.Run(field, func(t *testing.T) {
			name, value, _ := strings.Cut(field, ": ")
			shared, first := pair(t, "", nil, with(name, value), nil)
			if !shared || first.header[name] != nil {
				t.Errorf("compared: %v; a check bears %q", !shared, first.header[name])
			}
		})
	}
}

func TestRule4ComparedAndCarried(t *testing.T) {
	for _, test := range []struct{ name, a, b string }{
		{"Accept", "text/html", "application/json"},
		{"Accept-Language", "en", "de"},
		{"Authorization", "Bearer a", "Bearer b"},
		{"Cookie", "session=a", "session=b"},
		{"Content-Type", "a/b", "a/c"},
		{"Origin", "https://a.example", "https://b.example"},
		{"X-Tenant", "a", "b"},
		{"X-Forwarded-Proto", "http", "https"},
		{"X-Forwarded-Host", "a.example", "b.example"},
		{"X-Http-Method-Override", "GET", "DELETE"},
		{"Prefer", "wait=5, respond-async", "wait=5"},
		{"Proxy-Authorization", "a", "b"},
		{"X-Whatever", "a", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			set := func(v string) func(*http.Request) {
				return func(r *http.Request) {
					if v != "" {
						r.Header.Set(test.name, v)
					}
				}
			}
			shared, first := pair(t, "", set(test.a), set(test.b), nil)
			if shared {
				t.Error("it is not compared")
			}
			want := []string{test.a}
			if test.name == "Prefer" {
				want = []string{"respond-async"}
			}
			if got := first.header[test.name]; !slices.Equal(got, want) {
				t.Errorf("a check bears %q; want %q", got, want)
			}
			if shared, _ := pair(t, "", set(test.a), set(test.a), nil); !shared {
				t.Error("equal ones do not share")
			}
			if test.name == "Prefer" {
				return
			}
			shared, first = pair(t, "vary -"+test.name, set(test.a), set(test.b), nil)
			if !shared || first.header[test.name] != nil {
				t.Errorf("with vary -%s: shared %v, a check bears %q", test.name, shared, first.header[test.name])
			}
		})
	}

	t.Run("a personal field that vary names", func(t *testing.T) {
		for _, name := range []string{"User-Agent", "Referer", "X-Forwarded-For", "Traceparent", "Cache-Control", "Sec-Ch-Ua"} {
			shared, first := pair(t, "vary "+name, with(name, "a"), with(name, "b"), nil)
			if shared || first.header.Get(name) != "a" {
				t.Errorf("%s: shared %v, a check bears %q", name, shared, first.header[name])
			}
		}
	})

	t.Run("what Connection lists", func(t *testing.T) {
		lists := func(v string) func(*http.Request) {
			return func(r *http.Request) {
				r.Header.Set("Connection", "keep-alive, x-hop, Authorization, Accept")
				r.Header.Set("X-Hop", v)
				r.Header.Set("Authorization", v)
				r.Header.Set("Accept", v)
			}
		}
		shared, first := pair(t, "", lists("a"), lists("b"), nil)
		if !shared {
			t.Error("it is compared")
		}
		if first.header["X-Hop"] != nil || first.header["Authorization"] != nil || first.header["Connection"] != nil || first.header.Get("Accept") != "*/*" {
			t.Errorf("a check bears %v", first.header)
		}
		// Who says nothing of it is told nothing of what it has to say.
		if shared, _ := pair(t, "", nil, func(r *http.Request) { r.Header.Set("X-Hop", "b") }, nil); shared {
			t.Error("what is not listed is not compared")
		}
	})

	t.Run("by their meaning", func(t *testing.T) {
		for _, test := range []struct {
			name, a, b string
			shared     bool
			carried    string
		}{
			{"Accept", "", "*/*", true, "*/*"},
			{"Accept", "*/*", "text/html", false, "*/*"},
			{"Accept-Encoding", "gzip, deflate, br", "br;q=1, gzip;q=0.1", true, "gzip"},
			{"Accept-Encoding", "br", "", true, "identity"},
			{"Accept-Encoding", "gzip;q=0", "identity", true, "identity"},
			{"Accept-Encoding", "gzip", "", false, "gzip"},
			{"Accept-Encoding", "*", "gzip", true, "gzip"},
		} {
			set := func(v string) func(*http.Request) {
				return func(r *http.Request) {
					if v != "" {
						r.Header.Set(test.name, v)
					}
				}
			}
			shared, first := pair(t, "", set(test.a), set(test.b), nil)
			if shared != test.shared || first.header.Get(test.name) != test.carried {
				t.Errorf("%s %q and %q: shared %v, carried %q", test.name, test.a, test.b, shared, first.header[test.name])
			}
		}
		accepts := with("Accept-Encoding", "br, gzip")
		if shared, first := pair(t, "vary Accept-Encoding", accepts, with("Accept-Encoding", "gzip"), nil); shared || first.header.Get("Accept-Encoding") != "br, gzip" {
			t.Errorf("vary Accept-Encoding: shared %v, carried %q", shared, first.header["Accept-Encoding"])
		}
	})

	t.Run("what Caddy knows of it", func(t *testing.T) {
		setVar := func(name string, v any) func(*http.Request) {
			return func(r *http.Request) { r.Header.Set("Sec-Test", name+"="+fmt.Sprint(v)) }
		}
		before := func(r *http.Request) { // as a handler on the way sets what it has found out
			for _, text := range r.Header["Sec-Test"] {
				name, v, _ := strings.Cut(text, "=")
				switch name {
				case "user":
					r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("http.auth.user.id", v)
				case "trusted":
					caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, v == "true")
				case "rewritten":
					r.URL.Path = "/rewritten"
				case "group":
					r.Context().Value(caddy.CtxKey("route_group")).(map[string]struct{})[v] = struct{}{}
				default:
					caddyhttp.SetVar(r.Context(), name, v)
				}
			}
		}
		for _, test := range []struct {
			name   string
			a, b   func(*http.Request)
			shared bool
		}{
			{"var", setVar("tenant", "a"), setVar("tenant", "b"), false},
			{"equal var", setVar("tenant", "a"), setVar("tenant", "a"), true},
			{"var and none", setVar("tenant", "a"), nil, false},
			{"user", setVar("user", "a"), setVar("user", "b"), false},
			{"trust", setVar("trusted", "true"), setVar("trusted", "false"), false},
			{"route groups", setVar("group", "a"), setVar("group", "b"), false},
			{"before rewrites", setVar("rewritten", ""), func(r *http.Request) { r.URL.Path, r.RequestURI = "/rewritten", "/rewritten" }, false},
			{"SNI", func(r *http.Request) { r.TLS = &tls.ConnectionState{ServerName: "a"} }, func(r *http.Request) { r.TLS = &tls.ConnectionState{ServerName: "b"} }, false},
			{"query", func(r *http.Request) { r.URL.RawQuery = "a" }, func(r *http.Request) { r.URL.RawQuery = "b" }, false},
			{"no query, and an empty one", nil, func(r *http.Request) { r.URL.ForceQuery, r.RequestURI = true, "/?" }, false},
			{"escaped path", func(r *http.Request) { r.URL.Path = "/a/b" }, func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/a/b", "/a%2Fb" }, false},
			{"host", func(r *http.Request) { r.Host = "a.example" }, func(r *http.Request) { r.Host = "b.example" }, false},
			{"protocol", func(r *http.Request) { r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0 }, nil, true},
		} {
			if shared, _ := pair(t, "", test.a, test.b, before); shared != test.shared {
				t.Errorf("%s: shared %v; want %v", test.name, shared, test.shared)
			}
		}
	})
}

func TestRule4WhatACheckIs(t *testing.T) {
	agent := func(h http.Header) bool { return strings.HasPrefix(h.Get("User-Agent"), "long_poll/") }

	t.Run("nobody's", func(t *testing.T) {
		_, first := pair(t, "", func(r *http.Request) {
			r.RemoteAddr, r.Proto, r.ProtoMajor, r.ProtoMinor = "203.0.113.7:4711", "HTTP/2.0", 2, 0
			r.Header.Set("User-Agent", "curl/8")
			r.TLS = &tls.ConnectionState{ServerName: "a.example", Version: tls.VersionTLS12, HandshakeComplete: false, DidResume: true}
			r.Trailer = http.Header{"X-Trailer": nil}
		}, nil, nil)
		if first.remote != "192.0.2.1:0" || first.clientIP != "192.0.2.1" || !agent(first.header) || first.proto != "HTTP/1.1" || first.trailer != nil {
			t.Errorf("got %+v", first)
		}
		if c := first.tls; c == nil || !c.HandshakeComplete || c.ServerName != "a.example" || c.DidResume {
			t.Errorf("got TLS %+v", c)
		}
	})

	from := func(addr, cookie, ua string) func(*http.Request) {
		return func(r *http.Request) {
			r.RemoteAddr = addr
			r.Header.Set("User-Agent", ua)
			if cookie != "" {
				r.Header.Set("Cookie", cookie)
			}
		}
	}
	for _, test := range []struct {
		name, block string
		cookie      string
		a, b        string // addresses
		uaA, uaB    string
		shared      bool
		remote      string // the check's
		ua          string // the check's; empty for nobody's
	}{
		{"other addresses", "", "", "10.0.0.1:1", "10.0.0.2:2", "x", "y", true, "192.0.2.1:0", ""},
		{"cookies, the same address", "", "a=b", "10.0.0.1:1", "10.0.0.1:2", "x", "x", true, "10.0.0.1:0", "x"},
		{"cookies, other addresses", "", "a=b", "10.0.0.1:1", "10.0.0.2:2", "x", "x", false, "10.0.0.1:0", "x"},
		{"cookies, other agents", "", "a=b", "10.0.0.1:1", "10.0.0.1:2", "x", "y", false, "10.0.0.1:0", "x"},
		{"cookies, vary -client_ip", "vary -client_ip", "a=b", "10.0.0.1:1", "10.0.0.2:2", "x", "y", true, "192.0.2.1:0", ""},
		{"cookies, vary -Cookie", "vary -Cookie", "a=b", "10.0.0.1:1", "10.0.0.2:2", "x", "y", true, "192.0.2.1:0", ""},
		{"cookies, public", "public", "a=b", "10.0.0.1:1", "10.0.0.2:2", "x", "y", true, "192.0.2.1:0", ""},
		{"vary client_ip", "vary client_ip", "", "10.0.0.1:1", "10.0.0.2:2", "x", "y", false, "10.0.0.1:0", ""},
		{"vary client_ip, the same", "vary client_ip", "", "10.0.0.1:1", "10.0.0.1:2", "x", "y", true, "10.0.0.1:0", ""},
		{"key {client_ip}", "key {client_ip}", "", "10.0.0.1:1", "10.0.0.2:2", "x", "y", false, "10.0.0.1:0", ""},
		{"key {remote_host}", "key {remote_host}", "", "10.0.0.1:1", "10.0.0.1:2", "x", "y", true, "10.0.0.1:0", ""},
		{"IPv6", "vary client_ip", "", "[2001:db8::1]:1", "[2001:db8::1]:2", "x", "y", true, "[2001:db8::1]:0", ""},
		{"a Unix socket", "", "", "@", "@", "x", "y", true, "@", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			shared, first := pair(t, test.block, from(test.a, test.cookie, test.uaA), from(test.b, test.cookie, test.uaB), nil)
			if shared != test.shared || first.remote != test.remote {
				t.Errorf("shared %v, a check from %s; want %v, %s", shared, first.remote, test.shared, test.remote)
			}
			if test.ua == "" && !agent(first.header) || test.ua != "" && first.header.Get("User-Agent") != test.ua {
				t.Errorf("a check as %q; want %q", first.header.Get("User-Agent"), test.ua)
			}
			if host, _, err := net.SplitHostPort(test.remote); err == nil && first.clientIP != host {
				t.Errorf("the client is %s; want %s", first.clientIP, host)
			}
		})
	}

	t.Run("behind a trusted proxy", func(t *testing.T) {
		behind := func(client, cookie string) func(*http.Request) {
			return func(r *http.Request) {
				r.RemoteAddr = "10.0.0.1:1"
				for name, v := range map[string]string{"X-Forwarded-For": client, "X-Forwarded-Proto": "https", "X-Forwarded-Host": "a.example", "Cookie": cookie} {
					if v != "" {
						r.Header.Set(name, v)
					}
				}
			}
		}
		before := func(r *http.Request) {
			caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, true)
			if client := r.Header.Get("X-Forwarded-For"); client != "" {
				caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, client)
			}
		}
		shared, first := pair(t, "", behind("203.0.113.1", ""), behind("203.0.113.2", ""), before)
		if !shared || !first.trusted || first.header.Get("X-Forwarded-Proto") != "https" || first.header.Get("X-Forwarded-Host") != "a.example" || first.header["X-Forwarded-For"] != nil {
			t.Errorf("shared %v, trusted %v, %v", shared, first.trusted, first.header)
		}
		shared, first = pair(t, "", behind("203.0.113.1", "a=b"), behind("203.0.113.2", "a=b"), before)
		if shared || first.clientIP != "203.0.113.1" || first.header.Get("X-Forwarded-For") != "203.0.113.1" || first.remote != "10.0.0.1:0" {
			t.Errorf("with cookies: shared %v, of %s from %s, %v", shared, first.clientIP, first.remote, first.header)
		}
	})

	t.Run("less strip_query, before rewrites too", func(t *testing.T) {
		index := func(i string) func(*http.Request) {
			return func(r *http.Request) {
				r.URL.RawQuery, r.RequestURI = "a=b&index="+i, "/?a=b&index="+i
			}
		}
		shared, first := pair(t, "strip_query index", index("7"), index("8"), func(r *http.Request) { r.URL.Path = "/rewritten" })
		if want := "/?a=b"; !shared || first.orig != want || first.uri != "/rewritten?a=b" {
			t.Errorf("shared %v, uri %s, before %s; want %s", shared, first.uri, first.orig, want)
		}
	})

	t.Run("of what somebody else's rewrite was, nothing", func(t *testing.T) {
		// /a%2Fb and /a/b are two paths that a rewrite may make one of.
		shared, _ := pair(t, "", func(r *http.Request) { r.URL = &url.URL{Path: "/a/b", RawPath: "/a%2Fb"}; r.RequestURI = "/a%2Fb" },
			func(r *http.Request) { r.URL = &url.URL{Path: "/a/b"}; r.RequestURI = "/a/b" },
			func(r *http.Request) { r.URL.RawPath = "" })
		if shared {
			t.Error("they share, though what was asked for before rewrites differs")
		}
	})
}
