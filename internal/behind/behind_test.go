package behind_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-longpoll/caddy-longpoll/internal/behind"
)

// probe asks what is behind it, where long_poll would.
type probe struct {
	Label string `json:"label,omitempty"`
}

func (probe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.probe", New: func() caddy.Module { return new(probe) }}
}

func (p *probe) Provision(ctx caddy.Context) error {
	looks, before := behind.At(ctx, p), behind.Before(ctx, p)
	told.Lock()
	defer told.Unlock()
	told.looks[p.Label], told.before[p.Label] = looks, before
	return nil
}

func (*probe) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

var told struct {
	sync.Mutex // protects what follows
	looks      map[string]behind.Looks
	before     map[string]string
}

// The modules of somebody else have a type without a package here, which is not
// Caddy's either.
type stranger struct {
	Routes caddyhttp.RouteList `json:"routes,omitempty"`
}

func (stranger) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.stranger", New: func() caddy.Module { return new(struct{ strangerHandler }) }}
}

type strangerHandler struct{ stranger }

// Provision sets up its routes, or makes a probe of its own where it has none.
func (s *strangerHandler) Provision(ctx caddy.Context) error {
	if s.Routes == nil {
		return (&probe{Label: "made"}).Provision(ctx)
	}
	return s.Routes.Provision(ctx)
}

func (*strangerHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

type strangerMatcher struct{}

func (strangerMatcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.matchers.strange", New: func() caddy.Module { return new(struct{ strangerMatcher }) }}
}

func (strangerMatcher) MatchWithError(*http.Request) (bool, error) { return true, nil }

func TestMain(m *testing.M) {
	told.looks, told.before = make(map[string]behind.Looks), make(map[string]string)
	caddy.RegisterModule(probe{})
	caddy.RegisterModule(stranger{})
	caddy.RegisterModule(strangerMatcher{})
	httpcaddyfile.RegisterHandlerDirective("probe", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		p := new(probe)
		h.Next()
		h.Args(&p.Label)
		return p, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("probe", httpcaddyfile.Before, "encode")
	os.Exit(m.Run())
}

// ask provisions a configuration and says what each probe in it was told.
func ask(t *testing.T, config []byte) map[string]behind.Looks {
	t.Helper()
	told.Lock()
	clear(told.looks)
	clear(told.before)
	told.Unlock()
	var c *caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &c); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(c); err != nil {
		t.Fatalf("%v\n%s", err, config)
	}
	told.Lock()
	defer told.Unlock()
	return maps.Clone(told.looks)
}

const quiet = "{\nadmin off\nauto_https off\nlog {\noutput discard\n}\n}\n"

// adapt makes JSON of a Caddyfile.
func adapt(t *testing.T, file string) []byte {
	t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(quiet+file), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, file)
	}
	return config
}

// of writes what was told in one line.
func of(looks behind.Looks) string {
	return strings.Join(append(slices.Clone(looks.Address), looks.Fields...), " | ")
}

// TestKinds is of what may stand behind, in a site of one address.
func TestKinds(t *testing.T) {
	for _, test := range []struct{ name, block, want string }{
		// What looks at the address.
		{"allow list", "@denied not remote_ip 127.0.0.1\nrespond @denied 403\nprobe /api/*\nreverse_proxy b:80", "remote_ip"},
		{"deny list", "@denied client_ip 10.0.0.0/8\nerror @denied 403\nprobe\nreverse_proxy b:80", "client_ip"},
		{"abort", "@denied remote_ip 10.0.0.0/8\nabort @denied\nprobe\nreverse_proxy b:80", "remote_ip"},
		{"handle", "@lan remote_ip private_ranges\nprobe\nhandle @lan {\nreverse_proxy a:80\n}\nhandle {\nreverse_proxy b:80\n}", "remote_ip"},
		{"nested", "probe\nroute {\nroute {\n@lan not not remote_ip ::1\nrespond @lan 403\n}\n}", "remote_ip"},
		{"expression", "probe\n@lan `path('/x') || !remote_ip('10.0.0.0/8')`\nrespond @lan 403", "remote_ip"},
		{"expression with client_ip", "probe\n@lan expression client_ip(\"10.0.0.0/8\")\nrespond @lan 403", "client_ip"},
		{"expression with a placeholder", "probe\n@lan `{client_ip}.startsWith('10.')`\nrespond @lan 403", "{client_ip}"},
		{"expression with ph", "probe\n@lan `ph(req, 'http.request.remote.host').startsWith('10.')`\nrespond @lan 403", "{remote_host}"},
		{"expression that puts a name together", "probe\n@lan `ph(req, 'http.request.' + 'remote') == ''`\nrespond @lan 403", "expression"},
		{"expression with a var", "probe\n@lan `vars({'a': 'b', 'client_ip': '::1'})`\nrespond @lan 403", "vars client_ip"},
		{"var", "probe\n@lan vars client_ip ::1\nrespond @lan 403", "vars client_ip"},
		{"var of a placeholder", "probe\n@lan vars {remote_host} ::1\nrespond @lan 403", "{remote_host}"},
		{"vars_regexp", "probe\n@lan vars_regexp client_ip ^10\nrespond @lan 403", "vars client_ip"},
		{"body", "probe\nrespond `{\"you\": \"{remote}\"}`", "{remote}"},
		{"port", "probe\nrespond {remote_port}", "{remote_port}"},
		{"part of the address", "probe\nrespond {http.request.remote.host/24,64}", "{http.request.remote.host/24,64}"},
		{"header_up", "probe\nreverse_proxy b:80 {\nheader_up X-Real-IP {remote_host}\n}", "{remote_host}"},
		{"header_down", "probe\nreverse_proxy b:80 {\nheader_down X-Client {client_ip}\n}", "{client_ip}"},
		{"ip_hash", "probe\nreverse_proxy a:80 b:80 {\nlb_policy ip_hash\n}", "ip_hash"},
		{"client_ip_hash", "probe\nreverse_proxy a:80 b:80 {\nlb_policy client_ip_hash\n}", "client_ip_hash"},
		{"fallback", "probe\nreverse_proxy a:80 b:80 {\nlb_policy cookie lb {\nfallback ip_hash\n}\n}", "ip_hash | Cookie"},
		{"proxy_protocol", "probe\nreverse_proxy b:80 {\ntransport http {\nproxy_protocol v2\n}\n}", "proxy_protocol"},
		{"proxies in front", "probe\nreverse_proxy b:80 {\ntrusted_proxies private_ranges\n}", "trusted_proxies | X-Forwarded-For"},
		{"retries", "probe\nreverse_proxy b:80 {\nlb_retries 2\nlb_retry_match {\nremote_ip 10.0.0.0/8\n}\n}", "remote_ip"},
		{"handle_response", "probe\nreverse_proxy b:80 {\nhandle_response {\n@lan remote_ip ::1\nrespond @lan 403\n}\n}", "remote_ip"},
		{"handle_response and what follows", "probe\nroute {\nreverse_proxy b:80 {\nhandle_response {\nheader A b\n}\n}\nrespond {client_ip}\n}", "{client_ip}"},
		{"intercept", "probe\nroute {\nintercept {\nhandle_response {\nrespond {client_ip}\n}\n}\nreverse_proxy b:80\n}", "{client_ip}"},
		{"forward_auth", "probe\nroute {\nforward_auth a:80 {\nuri /auth\ncopy_headers X-User\nheader_up X-Client {client_ip}\n}\nreverse_proxy b:80\n}", "{client_ip}"},
		{"templates", "probe\ntemplates\nfile_server", "templates"},
		{"page of a directory", "probe\nfile_server {\nbrowse page.html\n}", "browse"},
		{"map", "probe\nroute {\nmap {client_ip} {backend} {\ndefault b:80\n}\nreverse_proxy {backend}\n}", "{client_ip}"},
		{"rewrite", "probe\nroute {\nrewrite ?ip={client_ip}\nreverse_proxy b:80\n}", "{client_ip}"},

		// What names fields.
		{"matcher", "probe\n@phone header User-Agent *Phone*\nreverse_proxy @phone a:80\nreverse_proxy b:80", "User-Agent"},
		{"two upstreams", "@beta header X-Beta 1\nprobe\nreverse_proxy @beta a:80\nreverse_proxy b:80", "X-Beta"},
		{"header_regexp", "probe\n@phone header_regexp user-agent Phone\nrespond @phone 403", "User-Agent"},
		{"expression with header", "probe\n@phone `header({'User-Agent': ['*Phone*', 'curl'], 'x-a': 'y'})`\nrespond @phone 403", "User-Agent | X-A"},
		{"expression with header_regexp", "probe\n@phone `header_regexp('phone', 'referer', 'Phone') && path('/a', '/b') && method('GET', 'POST')`\nrespond @phone 403", "Phone | Referer"},
		{"field in a text", "probe\nrespond {header.user-agent}", "User-Agent"},
		{"field of the log", "probe\nrespond {>Referer}", "Referer"},
		{"forwarded for", "probe\nreverse_proxy b:80 {\nheader_up X-Real-IP {header.X-Forwarded-For}\n}", "X-Forwarded-For"},
		{"field of a policy", "probe\nreverse_proxy a:80 b:80 {\nlb_policy header Via\n}", "Via"},
		{"replaced field", "probe\nreverse_proxy b:80 {\nheader_up User-Agent Mozilla Opera\n}", "User-Agent"},
		{"cookie", "probe\nrespond {cookie.a}", "Cookie"},
		{"each once", "probe\n@a header Accept text/html\nrespond @a {client_ip}\nrespond {client_ip}{header.accept}", "{client_ip} | Accept"},

		// What does not look.
		{"nothing", "probe", ""},
		{"proxy", "probe\nencode\nreverse_proxy /api/* b:80", ""},
		{"files", "probe\nroot * /srv\nencode zstd gzip\ntry_files {path} /index.html\nfile_server {\nbrowse\n}", ""},
		{"PHP", "probe\nphp_fastcgi b:9000", ""},
		{"set and deleted fields", "probe\nreverse_proxy b:80 {\nheader_up User-Agent us\nheader_up -Referer\nheader_down Via us\nheader_down Vary a b\n}", ""},
		{"host", "probe\n@a header Host a\nrespond @a {host}", ""},
		{"in front", "@denied remote_ip 10.0.0.0/8\nroute {\nrespond @denied 403\nmap {client_ip} {a} {\ndefault b\n}\nprobe\nreverse_proxy b:80\n}", ""},
		{"the matcher of its own", "@lan not remote_ip 10.0.0.0/8\nprobe @lan\nreverse_proxy b:80", ""},
		{"after an answer", "route {\nprobe\nrespond hello\nrespond {client_ip}\n}\nrespond {remote}", ""},
		{"after early hints", "route {\nprobe\nrespond 103\nrespond {client_ip}\n}", "{client_ip}"},
		{"after an answer to some", "route {\nprobe\nrespond /a hello\nrespond {client_ip}\n}", "{client_ip}"},
		{"after passed files", "route {\nprobe\nfile_server {\npass_thru\n}\nrespond {client_ip}\n}", "{client_ip}"},
		{"the other block", "handle /api/* {\nprobe\nheader A b\n}\nhandle {\nrespond {client_ip}\n}", ""},
		{"after a block", "handle /api/* {\nprobe\nheader A b\n}\nhandle /b {\nrespond b\n}\nroute {\nheader C {header.Via}\n}\nrespond {client_ip}", "{client_ip} | Via"},
		{"errors of the site", "probe\nreverse_proxy b:80\nhandle_errors {\n@lan remote_ip ::1\nrespond @lan 403\n}", ""},
		{"other placeholders", "probe\nrespond `{host}{uri}{http.request.tls.client.subject}{http.request.local.host} {}`", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for where, file := range map[string]string{
				"a site":           ":0 {\n%s\n}\n",
				"one of the sites": "http://a {\n%s\n}\nhttp://b {\nrespond {client_ip}{header.Via}\n}\n",
				"a block":          "http://a {\nhandle /b* {\nroute {\nhandle {\n%s\n}\n}\n}\nhandle {\nrespond {client_ip}\n}\n}\n",
			} {
				if strings.Contains(test.block, "handle_errors") && where == "a block" {
					continue // which is for sites only
				}
				if got := of(ask(t, adapt(t, fmt.Sprintf(file, test.block)))[""]); got != test.want {
					t.Errorf("in %s, looks: %q, want %q", where, got, test.want)
				}
			}
		})
	}
}

// routes makes the configuration of a server of routes.
func routes(t *testing.T, more, list string) []byte {
	t.Helper()
	config := `{"admin": {"disabled": true}, "logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
		"apps": {"http": {"servers": {"s": {"automatic_https": {"disable": true}, ` + more + `"routes": ` + list + `}}}}}`
	if !json.Valid([]byte(config)) {
		t.Fatalf("not JSON: %s", config)
	}
	return []byte(config)
}

// TestPlaces is of where handlers are, each with its own label.
func TestPlaces(t *testing.T) {
	const lan = `{"match": [{"remote_ip": {"ranges": ["::1"]}}], "handle": [{"handler": "static_response"}]}`
	for _, test := range []struct {
		name   string
		config []byte
		want   map[string]string
	}{
		{
			"other sites",
			adapt(t, "http://a {\nprobe a\nrespond {client_ip}\n}\nhttp://b {\nprobe b\nheader B b\n}\nhttp:// {\nprobe c\nrespond {remote}\n}\n"),
			map[string]string{"a": "{client_ip}", "b": "", "c": "{remote}"},
		}, {
			"several in one site",
			adapt(t, ":0 {\nprobe /a a\nhandle /b {\nprobe b\nrespond {header.Via}\n}\nhandle {\nroute {\nrespond /d {client_ip}\nprobe c\nheader X {remote_port}\n}\n}\n}\n"),
			map[string]string{"a": "{client_ip} | {remote_port} | Via", "b": "Via", "c": "{remote_port}"},
		}, {
			"two in one route",
			routes(t, "", `[{"handle": [{"handler": "probe", "label": "a"}, {"handler": "static_response", "status_code": 103, "body": "{http.vars.client_ip}"},
				{"handler": "probe", "label": "b"}, {"handler": "vars", "x": "{http.request.header.Via}"}]}]`),
			map[string]string{"a": "{client_ip} | Via", "b": "Via"},
		}, {
			"two subroutes in one route",
			routes(t, "", `[{"handle": [
				{"handler": "subroute", "routes": [{"handle": [{"handler": "probe", "label": "a"}]}]},
				{"handler": "subroute", "routes": [{"match": [{"client_ip": {"ranges": ["::1"]}}], "handle": [{"handler": "vars"}]}, {"handle": [{"handler": "probe", "label": "b"}]}]},
				{"handler": "vars", "x": "{http.request.remote}"}]}]`),
			map[string]string{"a": "client_ip | {remote}", "b": "{remote}"},
		}, {
			"not terminal",
			routes(t, "", `[{"match": [{"path": ["/a"]}], "handle": [{"handler": "probe", "label": "a"}]}, `+lan+`]`),
			map[string]string{"a": "remote_ip"},
		}, {
			"terminal",
			routes(t, "", `[{"match": [{"path": ["/a"]}], "handle": [{"handler": "probe", "label": "a"}], "terminal": true}, `+lan+`]`),
			map[string]string{"a": ""},
		}, {
			"terminal behind",
			routes(t, "", `[{"handle": [{"handler": "probe", "label": "a"}]}, {"terminal": true}, `+lan+`]`),
			map[string]string{"a": ""},
		}, {
			"in a terminal route of a subroute",
			routes(t, "", `[{"handle": [{"handler": "subroute", "routes": [{"handle": [{"handler": "probe", "label": "a"}], "terminal": true}]}]}, `+lan+`]`),
			map[string]string{"a": ""},
		}, {
			"in errors of a subroute",
			routes(t, "", `[{"handle": [{"handler": "subroute", "routes": [{"handle": [{"handler": "vars"}]}],
				"errors": {"routes": [{"handle": [{"handler": "probe", "label": "a"}]}, `+lan+`]}}]}, {"handle": [{"handler": "vars", "x": "{http.request.remote}"}]}]`),
			map[string]string{"a": "remote_ip | {remote}"},
		}, {
			"errors of a subroute around",
			routes(t, "", `[{"handle": [{"handler": "subroute", "routes": [{"handle": [{"handler": "probe", "label": "a"}]}], "errors": {"routes": [`+lan+`]}}]}]`),
			map[string]string{"a": ""},
		}, {
			"errors of a subroute behind",
			routes(t, "", `[{"handle": [{"handler": "probe", "label": "a"},
				{"handler": "subroute", "routes": [{"handle": [{"handler": "error"}]}], "errors": {"routes": [`+lan+`]}}, {"handler": "vars", "x": "{http.request.remote}"}]}]`),
			map[string]string{"a": "remote_ip | {remote}"},
		}, {
			"in errors of the server",
			routes(t, `"errors": {"routes": [{"handle": [{"handler": "subroute", "routes": [{"handle": [{"handler": "probe", "label": "a"}]}]}]}, `+lan+`]}, `,
				`[{"handle": [{"handler": "subroute", "routes": []}]}]`),
			map[string]string{"a": "remote_ip"},
		}, {
			"in handle_response",
			routes(t, "", `[{"handle": [{"handler": "intercept", "handle_response": [
				{"routes": [{"handle": [{"handler": "vars"}]}]}, {"routes": [{"handle": [{"handler": "probe", "label": "a"}]}, `+lan+`]}]}, {"handler": "vars", "x": "{http.request.remote}"}]}]`),
			map[string]string{"a": "remote_ip | {remote}"},
		}, {
			"invoke",
			adapt(t, "&(other) {\nrespond {header.Via}\n}\n:0 {\nprobe\ninvoke other\n}\n"),
			map[string]string{"": "invoke | Via"},
		}, {
			"invoke of itself",
			routes(t, `"named_routes": {"n": {"handle": [{"handler": "invoke", "name": "n"}]}}, `, `[{"handle": [{"handler": "probe", "label": "a"}, {"handler": "invoke", "name": "n"}]}]`),
			map[string]string{"a": "invoke"},
		}, {
			"in a named route",
			adapt(t, "&(other) {\nroute {\nprobe a\nheader A {header.Via}\n}\n}\n&(more) {\nroute {\nprobe b\nrespond b\n}\n}\n:0 {\ninvoke /a other\ninvoke more\n}\n"),
			map[string]string{"a": "invoke | Via", "b": ""},
		}, {
			"a module of somebody else",
			routes(t, "", `[{"handle": [{"handler": "probe", "label": "a"}, {"handler": "stranger", "routes": [`+lan+`]}]}]`),
			map[string]string{"a": "stranger | remote_ip"},
		}, {
			"a matcher of somebody else",
			routes(t, "", `[{"handle": [{"handler": "probe", "label": "a"}]}, {"match": [{"strange": {}}], "handle": [{"handler": "vars"}]}]`),
			map[string]string{"a": "strange"},
		}, {
			"in a module of somebody else",
			routes(t, "", `[{"handle": [{"handler": "stranger", "routes": [{"handle": [{"handler": "probe", "label": "a"}]}, `+lan+`]}, {"handler": "vars", "x": "{http.request.remote}"}]}]`),
			map[string]string{"a": "stranger | remote_ip | {remote}"},
		}, {
			"made by a module of somebody else",
			routes(t, "", `[{"handle": [{"handler": "stranger"}, {"handler": "vars", "x": "{http.request.remote}"}]}]`),
			map[string]string{"made": "stranger | {remote}"},
		}, {
			"a module of ours",
			routes(t, "", `[{"handle": [{"handler": "probe", "label": "a"}, {"handler": "probe", "label": "{http.vars.client_ip}"}]}]`),
			map[string]string{"a": "", "{http.vars.client_ip}": ""},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := make(map[string]string)
			for label, looks := range ask(t, test.config) {
				got[label] = of(looks)
			}
			if !maps.Equal(got, test.want) {
				t.Errorf("looks: %q, want %q", got, test.want)
			}
		})
	}
}

// TestNowhere is of handlers that are provisioned outside of the lists of a server.
func TestNowhere(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	if got := of(behind.At(ctx, new(probe))); got != "" {
		t.Errorf("without a server, looks: %q, want none", got)
	}
	ctx = ctx.WithValue(caddyhttp.ServerCtxKey, new(caddyhttp.Server))
	if got := of(behind.At(ctx, new(probe))); got != "server" {
		t.Errorf("loaded by nobody, looks: %q, want %q", got, "server")
	}
	if _, err := ctx.LoadModuleByID("http.handlers.probe", json.RawMessage(`{"label": "alone"}`)); err != nil {
		t.Fatal(err)
	}
	if got := of(told.looks["alone"]); got != "server" {
		t.Errorf("in no list, looks: %q, want %q", got, "server")
	}
}
