package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-longpoll/caddy-longpoll"
)

func init() { caddy.RegisterModule(new(floor)) }

// version is what the floor and the bare server say; changed is closed when it
// changes.
type version struct {
	number  int64
	body    []byte
	changed chan struct{}
}

var current atomic.Pointer[version]

func init() { current.Store(newVersion(1)) }

func newVersion(n int64) *version {
	return &version{number: n, body: body(n), changed: make(chan struct{})}
}

// floor is a Caddy handler that blocks on a channel and answers from memory: what
// Caddy itself costs.
type floor struct{}

func (*floor) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_floor", New: func() caddy.Module { return new(floor) }}
}

func (*floor) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	block(w, r)
	return nil
}

// block answers a poll from memory: at once if it names another version than the
// current one, else when that changes.
func block(w http.ResponseWriter, r *http.Request) {
	v := current.Load()
	if r.Method == http.MethodPost {
		next := newVersion(v.number + 1)
		current.Store(next)
		close(v.changed)
		return
	}
	if r.Header.Get("If-None-Match") == tag(v.number) {
		select {
		case <-v.changed:
			v = current.Load()
		case <-r.Context().Done():
			return
		}
	}
	write(w, v.number, v.body)
}

func tag(n int64) string { return fmt.Sprintf(`"v%d"`, n) }

func write(w http.ResponseWriter, n int64, body []byte) {
	h := w.Header()
	h["Etag"] = []string{tag(n)}
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{fmt.Sprint(len(body))}
	w.Write(body)
}

// body is an answer of 200 bytes.
func body(n int64) []byte {
	b := fmt.Appendf(nil, `{"version":%d,"padding":"`, n)
	for len(b) < 198 {
		b = append(b, 'x')
	}
	return append(b, `"}`...)
}

// serve runs a subject until the process is killed. It listens on addr; backend is
// where the backend is.
func serve(subject, addr, backend string) error {
	if subject == "net/http" {
		return http.ListenAndServe(addr, http.HandlerFunc(block))
	}
	proxy := map[string]any{"handler": "reverse_proxy", "upstreams": []any{map[string]any{"dial": backend}}}
	var chain []any
	switch subject {
	case "long_poll":
		chain = []any{
			map[string]any{"handler": "long_poll_writes"},
			map[string]any{"handler": "long_poll", "hold": "10m", "jitter": 0, "wake": []any{map[string]any{"waker": "writes"}}},
			proxy,
		}
	case "floor":
		chain = []any{map[string]any{"handler": "bench_floor"}}
	case "reverse_proxy":
		chain = []any{proxy}
	default:
		return fmt.Errorf("subject %q is none of long_poll, floor, reverse_proxy, net/http", subject)
	}
	cfg, err := json.Marshal(map[string]any{
		"admin": map[string]any{"disabled": true},
		"apps": map[string]any{"http": map[string]any{"servers": map[string]any{"srv0": map[string]any{
			"listen":          []string{addr},
			"automatic_https": map[string]any{"disable": true},
			"routes":          []any{map[string]any{"handle": chain}},
		}}}},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}},
	})
	if err != nil {
		return err
	}
	if err := caddy.Load(cfg, true); err != nil {
		return err
	}
	select {}
}
