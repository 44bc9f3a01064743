package behind

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// somebody is embedded in types without a package, as modules of somebody else.
type somebody struct{ id caddy.ModuleID }

func (s somebody) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: s.id, New: func() caddy.Module { return new(struct{ somebody }) }}
}

func init() {
	for _, id := range []caddy.ModuleID{
		"http.encoders.else", "http.precompressed.else", "http.matchers.place",
		"http.reverse_proxy.transport.else", "http.reverse_proxy.upstreams.else", "http.reverse_proxy.selection_policies.else",
		"http.reverse_proxy.circuit_breakers.else", "http.authentication.providers.else", "tls.ca_pool.source.else",
	} {
		caddy.RegisterModule(somebody{id})
	}
}

func newLooker() *looker {
	return &looker{passed: make(map[string]bool), seen: make(map[any]bool)}
}

// TestAnswer is of who looks at the fields of the answer that is being made.
func TestAnswer(t *testing.T) {
	for _, test := range []struct {
		handler string
		looks   bool
	}{
		{`{"handler": "headers", "response": {"set": {"X-Copy": ["a {http.response.header.X-Nonce}"]}}}`, true},
		{`{"handler": "subroute", "routes": [{"match": [{"expression": "ph(req, 'http.response.header.A') == 'b'"}]}]}`, true},
		{`{"handler": "subroute", "routes": [{"match": [{"vars": {"{http.response.header.A}": ["b"]}}]}]}`, true},
		{`{"handler": "templates"}`, true},
		{`{"handler": "file_server", "browse": {"template_file": "x"}}`, true},
		{`{"handler": "headers", "response": {"set": {"X-Copy": ["{http.request.header.X-Nonce}"]}}}`, false},
		{`{"handler": "file_server", "browse": {}}`, false},
	} {
		l := newLooker()
		l.handlers([]json.RawMessage{json.RawMessage(test.handler)})
		if l.looks.Answer != test.looks {
			t.Errorf("%s: got %v", test.handler, l.looks.Answer)
		}
	}
}

// TestModules is of handlers that Caddy would not load in a test, or not at all.
func TestModules(t *testing.T) {
	for _, test := range []struct{ handler, address, fields string }{
		// Nobody knows what they look at.
		{`{"handler": "reverse_proxy", "transport": {"protocol": "else"}}`, "else", ""},
		{`{"handler": "reverse_proxy", "circuit_breaker": {"type": "else"}}`, "else", ""},
		{`{"handler": "reverse_proxy", "dynamic_upstreams": {"source": "else"}}`, "else", ""},
		{`{"handler": "reverse_proxy", "dynamic_upstreams": {"source": "multi", "sources": [{"source": "else"}]}}`, "else", ""},
		{`{"handler": "reverse_proxy", "load_balancing": {"selection_policy": {"policy": "else"}}}`, "else", ""},
		{`{"handler": "authentication", "providers": {"else": {}}}`, "else", ""},
		{`{"handler": "subroute", "routes": [{"match": [{"expression": "place('DE')"}]}]}`, "place", ""},

		// They are given no request.
		{`{"handler": "encode", "encodings": {"else": {}}}`, "", ""},
		{`{"handler": "file_server", "precompressed": {"else": {}}}`, "", ""},
		{`{"handler": "reverse_proxy", "transport": {"protocol": "http", "tls": {"ca": {"provider": "else"}}}}`, "", ""},

		// They can not be seen.
		{`{"handler": "unknown", "x": ["{http.request.header.via}"]}`, "unknown", "Via"},
		{`{"handler": "static_response", "body": 1, "x": {"y": "{http.request.header.via}"}}`, "static_response", "Via"},
		{`{"handler": 1}`, "http.handlers", ""},
		{`[]`, "http.handlers", ""},
		{`{"handler": "reverse_proxy", "transport": 1}`, "http.reverse_proxy.transport", ""},
		{`{"handler": "subroute", "routes": [{"match": [{"expression": {"expr": "true", "name": 1}}]}]}`, "expression", ""},
		{`{"handler": "subroute", "routes": [{"match": [{"unknown": null}]}]}`, "unknown", ""},

		// In unusual places.
		{`{"handler": "headers", "request": {"replace": {"user-agent": [{"search": "a", "replace": "b"}], "*": []}}}`, "", "User-Agent"},
		{`{"handler": "headers", "response": {"replace": {"user-agent": []}, "require": {"headers": {"Via": ["a"]}}}}`, "", ""},
		{`{"handler": "vars", "{http.request.remote}": {"a": [{"b": "{http.request.header.via}"}]}}`, "{remote}", "Via"},
		{`{"handler": "map", "source": "{http.vars.client_ip}", "mappings": [{"outputs": ["{http.request.header.via}"]}]}`, "{client_ip}", "Via"},
		{`{"handler": "reverse_proxy", "transport": {"protocol": "fastcgi", "env": {"A": "{http.request.remote.port}"}}}`, "{remote_port}", ""},
		{`{"handler": "reverse_proxy", "transport": null}`, "http.reverse_proxy.transport", ""},
		{`{"handler": "subroute", "routes": [{"match": [{"not": [{"header_regexp": {"via": {"pattern": "a"}}}]}]}]}`, "", "Via"},
		{`{"handler": "subroute", "routes": [{"match": [{"expression": {"expr": "header({'via': 'a'})", "name": "n"}}]}]}`, "", "Via"},
		{`{"handler": "log_append", "key": "a", "value": "{http.vars.client_ip}"}`, "{client_ip}", ""},
	} {
		l := newLooker()
		l.handlers([]json.RawMessage{json.RawMessage(test.handler)})
		if got := strings.Join(l.looks.Address, " "); got != test.address {
			t.Errorf("%s: address: %q, want %q", test.handler, got, test.address)
		}
		if got := strings.Join(l.looks.Fields, " "); got != test.fields {
			t.Errorf("%s: fields: %q, want %q", test.handler, got, test.fields)
		}
	}
}

// TestLocal is of who looks at the address that a request has come to.
func TestLocal(t *testing.T) {
	for handler, want := range map[string]bool{
		`{"handler": "vars", "a": "{http.request.local.host}"}`:                                                              true,
		`{"handler": "reverse_proxy", "upstreams": [{"dial": "{http.request.local.host}:80"}]}`:                              true,
		`{"handler": "log_append", "key": "a", "value": "{http.request.local}"}`:                                             true,
		`{"handler": "subroute", "routes": [{"match": [{"vars": {"{http.request.local.host}": ["::1"]}}]}]}`:                 true,
		`{"handler": "subroute", "routes": [{"match": [{"expression": "{http.request.local.host} == '::1'"}]}]}`:             true,
		`{"handler": "subroute", "routes": [{"match": [{"expression": "ph(req, 'http.request.local.host') == '::1'"}]}]}`:    true,
		`{"handler": "reverse_proxy", "transport": {"protocol": "fastcgi"}}`:                                                 true,
		`{"handler": "vars", "a": "{http.request.local.port}"}`:                                                              false,
		`{"handler": "reverse_proxy", "transport": {"protocol": "http"}, "upstreams": [{"dial": "{http.request.host}:80"}]}`: false,
	} {
		l := newLooker()
		l.handlers([]json.RawMessage{json.RawMessage(handler)})
		if l.looks.Local != want || len(l.looks.Address) > 0 {
			t.Errorf("%s: got %+v; want local: %t", handler, l.looks, want)
		}
	}
}

// TestEnded is of handlers after which nothing is reached.
func TestEnded(t *testing.T) {
	for handler, want := range map[string]bool{
		`{"handler": "error"}`:                                                    true,
		`{"handler": "static_response"}`:                                          true,
		`{"handler": "static_response", "abort": true}`:                           true,
		`{"handler": "static_response", "status_code": 103}`:                      false,
		`{"handler": "static_response", "status_code": "{http.vars.a}"}`:          false,
		`{"handler": "file_server"}`:                                              true,
		`{"handler": "file_server", "pass_thru": true}`:                           false,
		`{"handler": "reverse_proxy"}`:                                            true,
		`{"handler": "reverse_proxy", "handle_response": [{}]}`:                   false,
		`{"handler": "encode"}`:                                                   false,
		`{"handler": "invoke"}`:                                                   false,
		`{"handler": "subroute"}`:                                                 false,
		`{"handler": "subroute", "routes": [{"handle": [{"handler": "error"}]}]}`: true,
		`{"handler": "subroute", "routes": [{"terminal": true}]}`:                 true,
		`{"handler": "subroute", "routes": [{"terminal": true, "group": "g"}]}`:   false,
		`{"handler": "subroute", "routes": [{"handle": [{"handler": "error"}], "match": [{"path": ["/a"]}]}]}`: false,
		`{"handler": "subroute", "routes": [{"handle": [{"handler": "error"}]}], "errors": {}}`:                false,
		`{"handler": "subroute", "routes": [{"terminal": true}], "errors": {"routes": [{"terminal": true}]}}`:  true,
	} {
		if got := newLooker().handlers([]json.RawMessage{json.RawMessage(handler)}); got != want {
			t.Errorf("%s: ended: %t, want %t", handler, got, want)
		}
	}
}

// TestNamespaces keeps up with Caddy: each kind of module that its handlers load is
// one of those that are known to get a request, or to get none.
func TestNamespaces(t *testing.T) {
	request := []string{
		"http.handlers", "http.matchers", "http.authentication.providers", "http.handlers.templates.functions",
		"http.reverse_proxy.transport", "http.reverse_proxy.upstreams", "http.reverse_proxy.selection_policies",
	}
	other := []string{"http.ip_sources"} // which stand in front of all handlers
	for _, id := range caddy.Modules() {
		namespace := caddy.ModuleID(id).Namespace()
		if !strings.HasPrefix(namespace, "http.") || strings.HasSuffix(id, ".else") {
			continue
		}
		if !slices.Contains(request, namespace) && !slices.Contains(other, namespace) && !slices.Contains(blind, namespace) {
			t.Errorf("%s: is it given a request?", id)
		}
	}
}

// TestPartOf is of what Caddy leaves of a configuration.
func TestPartOf(t *testing.T) {
	for _, test := range []struct {
		part, whole string
		want        bool
	}{
		{`{}`, `{"a": 1}`, true},
		{`{"a": 1}`, `{"a": 1, "b": 2}`, true},
		{`{"a": 2}`, `{"a": 1}`, false},
		{`{"a": 2}`, `{}`, false},
		{`{"a": 0, "b": "", "c": false, "d": null, "e": [], "f": {}}`, `{}`, true},
		{`{"a": [{}, {"b": "c"}]}`, `{"a": [{"x": 1}, {"b": "c"}]}`, true},
		{`{"a": [{"b": "c"}]}`, `{"a": [{"b": "c"}, {}]}`, false},
		{`{"a": [1]}`, `{"a": 1}`, false},
		{`{"a": {"b": 1}}`, `{"a": "b"}`, false},
	} {
		if got := partOf(decode([]byte(test.part)), decode([]byte(test.whole))); got != test.want {
			t.Errorf("%s of %s: %t, want %t", test.part, test.whole, got, test.want)
		}
	}
}

// FuzzExpression reads what is no CEL too: that is for Caddy to reject.
func FuzzExpression(f *testing.F) {
	for _, s := range []string{
		"remote_ip('::1')", "{client_ip} == 'a'", "header({'Via': ['a', 'b']})", `header_regexp("n", 'Via', "a")`,
		"ph(req, 'http.request.' + 'remote')", "ph(", "header(", "header)", "'''a''' : ([{", `'\'' "`, "header(:,'a':",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l := newLooker()
		l.value(reflect.ValueOf(caddyhttp.MatchExpression{Expr: s}))
		l.expression(s)
		if strings.Contains(s, "{http.vars.client_ip}") && !slices.Contains(l.looks.Address, "{client_ip}") {
			t.Errorf("%q: address: %q, want {client_ip} too", s, l.looks.Address)
		}
		for _, name := range l.looks.Fields {
			if name != http.CanonicalHeaderKey(name) || strings.TrimSpace(name) == "" {
				t.Errorf("%q: field %q is not canonical", s, name)
			}
		}
		for _, list := range [][]string{l.looks.Address, l.looks.Fields} {
			if len(slices.Compact(slices.Sorted(slices.Values(list)))) != len(list) {
				t.Errorf("%q: %q says something twice", s, list)
			}
		}
	})
}

// FuzzHandlers reads handlers that Caddy would reject too.
func FuzzHandlers(f *testing.F) {
	for _, s := range []string{
		`{"handler": "subroute", "routes": [{"match": [{"not": [{"remote_ip": {}}]}], "handle": [{"handler": "error"}], "terminal": true}]}`,
		`{"handler": "reverse_proxy", "transport": {"protocol": "http"}, "load_balancing": {"selection_policy": {"policy": "cookie", "fallback": {"policy": "ip_hash"}}}}`,
		`{"handler": "static_response", "status_code": true}`, `{"handler": "vars", "a": null}`, `{"handler": "map", "mappings": [{"outputs": [null, 1, "{remote}"]}]}`,
		`{"handler": "subroute", "routes": [{"match": [{"expression": {}}]}]}`, `{"handler": "headers", "request": null}`, `null`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l := newLooker()
		l.handlers([]json.RawMessage{json.RawMessage(s)})
		if !json.Valid([]byte(s)) && len(s) > 0 && len(l.looks.Address) == 0 {
			t.Errorf("%q is not JSON, and nothing looks", s)
		}
	})
}
