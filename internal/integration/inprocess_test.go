package integration_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"

	longpoll "github.com/caddy-longpoll/caddy-longpoll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/ops"
)

// handler is a handler in this process, for what operators see of it.
type handler struct {
	*longpoll.Handler
	seen *ops.Site
	says atomic.Value // the func that is behind it

	clients sync.WaitGroup
	leave   context.CancelFunc
	ctx     context.Context
}

// provisioning is held while a handler is provisioned in this process, be it by validate:
// newHandler finds its own as the one that has come last.
var provisioning sync.Mutex

// newHandler provisions what the configuration says. It goes with the test.
func newHandler(t *testing.T, config *longpoll.Handler) *handler {
	t.Helper()
	h := &handler{Handler: config}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	provisioning.Lock()
	err := h.Provision(ctx)
	all := ops.Live.Sites()
	provisioning.Unlock()
	if err != nil {
		t.Fatalf("provisioning: %v", err)
	}
	h.seen = all[len(all)-1]
	h.seen.Log = zap.NewNop()
	h.ctx, h.leave = context.WithCancel(context.Background())
	t.Cleanup(func() {
		h.leave()
		h.clients.Wait()
		h.Cleanup()
	})
	if err := h.Validate(); err != nil {
		t.Fatalf("validating: %v", err)
	}
	return h
}

// say changes what is behind the handler.
func (h *handler) say(says func(w http.ResponseWriter, r *http.Request) error) { h.says.Store(says) }

// tagged answers with the ETag v.
func tagged(v string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("ETag", v)
		status := http.StatusOK
		if r.Header.Get("If-None-Match") == v {
			status = http.StatusNotModified
		}
		w.WriteHeader(status)
		return nil
	}
}

// poll has a client that has the ETag "1" ask for the path.
func (h *handler) poll(path string) { h.pollFor(path, "") }

// pollFor is poll with a query.
func (h *handler) pollFor(path, query string) {
	r := httptest.NewRequestWithContext(h.ctx, http.MethodGet, "http://shop.example/", nil)
	r.URL.Path, r.URL.RawQuery = path, query
	r.Header.Set("If-None-Match", `"1"`)
	h.clients.Go(func() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server)), caddyhttp.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) error {
				return h.says.Load().(func(http.ResponseWriter, *http.Request) error)(w, r)
			}))
	})
}

// source is a source of wake-ups that can be heard, or not.
type source struct{ down atomic.Bool }

func (s *source) as(name string) ops.Source {
	return ops.Source{Name: name, Up: func() bool { return !s.down.Load() }}
}

// gathered is what a configuration's registry says of long_poll.
func gathered(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := ops.Register(registry); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]*dto.MetricFamily)
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "caddy_long_poll_") {
			byName[f.GetName()] = f
		}
	}
	return byName
}

// adminServer serves the routes as the admin endpoint does.
func adminServer(t *testing.T) *httptest.Server {
	t.Helper()
	info, err := caddy.GetModule("admin.api.long_poll")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for _, route := range info.New().(caddy.AdminRouter).Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := route.Handler.ServeHTTP(w, r); err != nil {
				status := http.StatusInternalServerError
				var e caddy.APIError
				if errors.As(err, &e) {
					status = e.HTTPStatus
				}
				http.Error(w, err.Error(), status)
			}
		})
	}
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		// Shutdown, not Close: it must not have to wait for the page's long poll.
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		if err := server.Config.Shutdown(ctx); err != nil {
			t.Errorf("shutting the admin server down: %v", err)
		}
		server.Close()
	})
	return server
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	end := time.After(deadline)
	for !ok() {
		select {
		case <-ticker.C:
		case <-end:
			t.Fatalf("in vain waited until %s", what)
		}
	}
}
