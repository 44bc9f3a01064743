package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	_ "net/http/pprof" // on the default mux, which Debug serves
	"runtime"
	"runtime/debug"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-longpoll/caddy-longpoll"
)

func init() {
	caddy.RegisterModule(new(floor))
	caddy.RegisterModule(new(nothing))
	http.HandleFunc("/stats", runtimeStats)
	http.HandleFunc("/collect", collect)
}

// spec is what a child process is told.
type spec struct {
	Subject  string         // of serve
	Addr     string         // to listen on
	Backend  string         // address
	Admin    string         // address; empty for none
	Debug    string         // address of pprof and of what the runtime says and does; empty for none
	Blocking bool           // the backend long-polls by itself
	Grip     bool           // the backend speaks to Pushpin
	HTTP2    bool           // without TLS
	Untagged bool           // the backend gives no ETag
	Size     int            // of the body
	LongPoll map[string]any // more configuration
}

// version is what a backend, the floor and the bare server say; changed is closed
// when it changes.
type version struct {
	number  int64
	body    []byte
	event   []byte // the same, as a server-sent event
	changed chan struct{}
}

var (
	current  atomic.Pointer[version]
	bodySize = 200
	untagged bool         // no ETag is given
	failing  atomic.Bool  // polls are answered 503
	asked    atomic.Int64 // requests but for writes
)

func newVersion(n int64) *version {
	v := &version{number: n, body: body(n, bodySize), changed: make(chan struct{})}
	v.event = fmt.Appendf(nil, "id: %s\ndata: %s\n\n", tag(n), v.body)
	return v
}

// advance makes the next version.
func advance() {
	v := current.Load()
	current.Store(newVersion(v.number + 1))
	close(v.changed)
}

// block answers a poll from memory: at once if it names another version than the
// current one, else when that changes. A write changes it.
func block(w http.ResponseWriter, r *http.Request) {
	if other(w, r) {
		return
	}
	v := current.Load()
	if r.Header.Get("Accept") == eventStream {
		follow(w, r, v)
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
	write(w, v)
}

const eventStream = "text/event-stream"

// follow writes each version from v on, and flushes.
func follow(w http.ResponseWriter, r *http.Request, v *version) {
	w.Header()["Content-Type"] = []string{eventStream}
	ctrl := http.NewResponseController(w)
	for {
		if _, err := w.Write(v.event); err != nil || ctrl.Flush() != nil {
			return
		}
		select {
		case <-v.changed:
			v = current.Load()
		case <-r.Context().Done():
			return
		}
	}
}

// plain answers a poll at once, and knows nothing of waiting.
func plain(w http.ResponseWriter, r *http.Request) {
	if other(w, r) {
		return
	}
	if failing.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	v := current.Load()
	if !untagged && r.Header.Get("If-None-Match") == tag(v.number) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	write(w, v)
}

// grip has Pushpin hold a poll.
func grip(w http.ResponseWriter, r *http.Request) {
	if other(w, r) {
		return
	}
	v := current.Load()
	if r.Header.Get("If-None-Match") == tag(v.number) {
		w.Header().Set("Grip-Hold", "response")
		w.Header().Set("Grip-Channel", "r")
		w.Header().Set("Grip-Timeout", "600")
	}
	write(w, v)
}

// other answers what is no poll: a write, a request that only passes through, or a
// question about the backend itself.
func other(w http.ResponseWriter, r *http.Request) bool {
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/pass":
		write(w, current.Load())
	case r.Method == http.MethodPost && r.URL.Path == "/fail":
		failing.Store(true)
	case r.Method == http.MethodPost && r.URL.Path == "/recover":
		failing.Store(false)
	case r.Method == http.MethodPost:
		advance()
	case r.URL.Path == "/asked":
		fmt.Fprint(w, asked.Load())
	default:
		asked.Add(1)
		return false
	}
	return true
}

func tag(n int64) string { return fmt.Sprintf(`"v%d"`, n) }

func write(w http.ResponseWriter, v *version) {
	h := w.Header()
	if !untagged {
		h["Etag"] = []string{tag(v.number)}
	}
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{fmt.Sprint(len(v.body))}
	w.Write(v.body)
}

// body is an answer of that many bytes.
func body(n int64, size int) []byte {
	b := fmt.Appendf(make([]byte, 0, size), `{"version":%d,"padding":"`, n)
	for len(b) < size-2 {
		b = append(b, 'x')
	}
	return append(b, `"}`...)
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

// nothing is a Caddy handler that does nothing: what one more in the chain costs.
type nothing struct{}

func (*nothing) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_nothing", New: func() caddy.Module { return new(nothing) }}
}

func (*nothing) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

// prepare does what all children have in common.
func (s spec) prepare() {
	if s.Size > 0 {
		bodySize = s.Size
	}
	untagged = s.Untagged
	current.Store(newVersion(1))
	if s.Debug != "" {
		go func() { fatal(http.ListenAndServe(s.Debug, nil)) }()
	}
}

// runtimeStats says what the runtime holds after a collection.
func runtimeStats(w http.ResponseWriter, r *http.Request) {
	runtime.GC()
	runtime.GC() // what finalizers let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	json.NewEncoder(w).Encode(held{runtime.NumGoroutine(), m.HeapAlloc, m.StackInuse, m.HeapInuse, m.TotalAlloc, m.Mallocs})
}

// collect gives back what the runtime holds and does not need.
func collect(http.ResponseWriter, *http.Request) {
	runtime.GC() // twice, for what finalizers and pools let go
	debug.FreeOSMemory()
}

// held is what a process holds on to.
type held struct {
	Goroutines int
	Heap       uint64
	Stack      uint64
	Spans      uint64 // of the heap: more than Heap by what lies idle between what is held
	Allocated  uint64 // since the process began
	Objects    uint64 // the same, in numbers
}

// backend runs a backend until the process is killed.
func backend(s spec) error {
	s.prepare()
	switch {
	case s.Blocking:
		return http.ListenAndServe(s.Addr, http.HandlerFunc(block))
	case s.Grip:
		return http.ListenAndServe(s.Addr, http.HandlerFunc(grip))
	}
	return http.ListenAndServe(s.Addr, http.HandlerFunc(plain))
}

// serve runs a subject until the process is killed.
func serve(s spec) error {
	s.prepare()
	if s.Subject == "net/http" {
		server := &http.Server{Addr: s.Addr, Handler: http.HandlerFunc(block)}
		if s.HTTP2 {
			server.Protocols = new(http.Protocols)
			server.Protocols.SetHTTP1(true)
			server.Protocols.SetUnencryptedHTTP2(true)
		}
		return server.ListenAndServe()
	}
	cfg, err := s.config()
	if err != nil {
		return err
	}
	if err := caddy.Load(cfg, true); err != nil {
		return err
	}
	select {}
}

// config is Caddy's configuration of a subject.
func (s spec) config() ([]byte, error) {
	proxy := map[string]any{"handler": "reverse_proxy", "upstreams": []any{map[string]any{"dial": s.Backend}}}
	if s.Admin != "" {
		// The transport of a retired configuration keeps a connection or two to the
		// backend for as long as it would have kept them idle: 2 minutes by default.
		proxy["transport"] = map[string]any{"protocol": "http", "keep_alive": map[string]any{"idle_timeout": "5s"}}
	}
	var chain []any
	switch s.Subject {
	case "long_poll":
		handler := map[string]any{"handler": "long_poll", "hold": "10m", "jitter": 0, "max_body": 2 << 20, "wake": []any{map[string]any{"waker": "writes"}}}
		for name, value := range s.LongPoll {
			handler[name] = value
		}
		chain = append(chain, handler, proxy)
	case "floor":
		chain = []any{map[string]any{"handler": "bench_floor"}}
	case "reverse_proxy", "polling":
		chain = []any{proxy}
	case "nothing":
		chain = []any{map[string]any{"handler": "bench_nothing"}, proxy}
	default:
		return nil, fmt.Errorf("serving %q: expected long_poll, floor, reverse_proxy, polling, nothing or net/http", s.Subject)
	}
	admin := map[string]any{"disabled": true}
	if s.Admin != "" {
		admin = map[string]any{"listen": s.Admin}
	}
	server := map[string]any{
		"listen":          []string{s.Addr},
		"automatic_https": map[string]any{"disable": true},
		"routes":          []any{map[string]any{"handle": chain}},
	}
	if s.HTTP2 {
		server["protocols"] = []string{"h1", "h2c"}
	}
	return json.Marshal(map[string]any{
		"admin":   admin,
		"apps":    map[string]any{"http": map[string]any{"servers": map[string]any{"srv0": server}}},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR", "exclude": []string{"http.log.error"}}}},
	})
}
