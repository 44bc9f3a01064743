package behind

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// standard is where the modules of Caddy's standard distribution are.
const standard = "github.com/caddyserver/caddy/v2"

// project is where the modules of this project are.
var project = strings.TrimSuffix(reflect.TypeFor[Looks]().PkgPath(), "/internal/behind")

// blind are the namespaces of modules that are given no request, so that they look at
// nothing of it.
var blind = []string{"http.encoders", "http.precompressed", "http.authentication.hashes", "caddy.fs", "caddy.storage"}

// origin is the import path of a module's type.
func origin(module any) string {
	t := reflect.TypeOf(module)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath()
}

// of reports whether an import path is that of a project, or below it.
func of(path, project string) bool {
	return path == project || strings.HasPrefix(path, project+"/")
}

// ours reports whether the module is of this project. What one of ours does behind
// another does not happen in a check: it passes that on.
func ours(module any) bool { return of(origin(module), project) }

// foreign reports whether nobody knows what the module does.
func foreign(module any) bool { return !of(origin(module), standard) && !ours(module) }

// open reports whether the fields of a struct are configuration: of types of the
// standard library they are not.
func open(t reflect.Type) bool {
	path, _, _ := strings.Cut(t.PkgPath(), "/")
	return path == "" || strings.Contains(path, ".")
}

// visible reports whether a field of a struct, or one of those of a struct that it embeds,
// can be configuration.
func visible(field reflect.StructField) bool {
	return field.IsExported() || field.Anonymous && field.Type.Kind() == reflect.Struct
}

// config looks at a module with its configuration, as a pointer and as JSON, and reports
// whether it is a handler after which nothing is reached.
func (l *looker) config(id caddy.ModuleID, module reflect.Value, raw json.RawMessage) (ended bool) {
	namespace := id.Namespace()
	if foreign(module.Interface()) && !slices.Contains(blind, namespace) && !strings.HasPrefix(namespace, "tls.") {
		l.address(id.Name())
	}
	l.byID(id, module, raw)
	switch module := module.Interface().(type) {
	case *caddyhttp.Subroute:
		return l.subroute(module)
	case *caddyhttp.MatchHeader:
		l.fields(reflect.ValueOf(*module))
	case *caddyhttp.MatchHeaderRE:
		l.fields(reflect.ValueOf(*module))
	case *caddyhttp.VarsMatcher:
		l.vars(reflect.ValueOf(*module))
	case *caddyhttp.MatchVarsRE:
		l.vars(reflect.ValueOf(*module))
	case *caddyhttp.MatchExpression:
		l.expression(module.Expr)
	}
	l.value(module.Elem())
	return answers(id, raw)
}

// byID looks at what only the name of a module tells: its type is not exported, or says
// nothing of the client.
func (l *looker) byID(id caddy.ModuleID, module reflect.Value, raw json.RawMessage) {
	switch id {
	case "http.matchers.remote_ip", "http.matchers.client_ip",
		"http.reverse_proxy.selection_policies.ip_hash", "http.reverse_proxy.selection_policies.client_ip_hash":
		l.address(id.Name())
	case "http.handlers.templates": // whose pages may read anything
		l.address(id.Name())
		l.looks.Answer = true
	case "http.handlers.invoke":
		l.address(id.Name())
		invoke := module.Interface().(*caddyhttp.Invoke)
		if route, ok := l.named[invoke.Name]; ok {
			l.route(route)
		}
	case "http.reverse_proxy.transport.http":
		if read[struct {
			ProxyProtocol string `json:"proxy_protocol"`
		}](raw).ProxyProtocol != "" {
			l.address("proxy_protocol")
		}
	case "http.reverse_proxy.transport.fastcgi":
		l.looks.Local = true
	case "http.reverse_proxy.selection_policies.header":
		l.field(read[struct{ Field string }](raw).Field)
	case "http.reverse_proxy.selection_policies.cookie":
		l.field("Cookie")
	case "http.handlers.file_server":
		if read[struct {
			Browse struct {
				TemplateFile string `json:"template_file"`
			}
		}](raw).Browse.TemplateFile != "" {
			l.address("browse") // a page as those of templates
			l.looks.Answer = true
		}
	case "http.handlers.headers":
		l.replaced(raw)
	case "http.handlers.reverse_proxy":
		proxy := read[struct {
			Headers        json.RawMessage
			TrustedProxies []string `json:"trusted_proxies"`
		}](raw)
		l.replaced(proxy.Headers)
		if len(proxy.TrustedProxies) > 0 {
			l.address("trusted_proxies") // whose X-Forwarded-* are passed on
			l.field("X-Forwarded-For")
		}
	}
}

// read is a part of a configuration; what does not decode is zero.
func read[T any](raw json.RawMessage) (part T) {
	if json.Unmarshal(raw, &part) != nil {
		return *new(T)
	}
	return part
}

// answers reports whether a handler always answers, or fails, and never calls the next.
func answers(id caddy.ModuleID, raw json.RawMessage) bool {
	switch id {
	case "http.handlers.error":
		return true
	case "http.handlers.static_response":
		status := string(read[struct {
			StatusCode caddyhttp.WeakString `json:"status_code"`
		}](raw).StatusCode)
		return status != "103" && !strings.Contains(status, "{") // early hints are no answer
	case "http.handlers.file_server":
		return !read[struct {
			PassThru bool `json:"pass_thru"`
		}](raw).PassThru
	case "http.handlers.reverse_proxy":
		return len(read[struct {
			HandleResponse []json.RawMessage `json:"handle_response"`
		}](raw).HandleResponse) == 0
	}
	return false
}

// subroute looks at the routes of a subroute, and reports whether nothing after it is
// reached.
func (l *looker) subroute(sub *caddyhttp.Subroute) (ended bool) {
	ended = l.routes(sub.Routes)
	if sub.Errors == nil {
		return ended
	}
	return l.routes(sub.Errors.Routes) && ended
}

// fields notes the keys of a header matcher.
func (l *looker) fields(matcher reflect.Value) {
	for _, name := range sorted(matcher) {
		l.field(name.String())
	}
}

// vars notes that a matcher asks for the var that is the client's address.
func (l *looker) vars(matcher reflect.Value) {
	for _, name := range sorted(matcher) {
		if name.String() == caddyhttp.ClientIPVarKey {
			l.address("vars " + caddyhttp.ClientIPVarKey)
		}
	}
}

// replaced notes the request fields in which something is replaced. Those that are
// set, added or deleted are not looked at.
func (l *looker) replaced(headers json.RawMessage) {
	ops := read[struct {
		Request struct {
			Replace map[string]json.RawMessage
		}
	}](headers)
	for _, name := range slices.Sorted(maps.Keys(ops.Request.Replace)) {
		l.field(name)
	}
}
