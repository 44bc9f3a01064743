package contract_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // as in cmd/caddy

	"github.com/caddy-longpoll/caddy-longpoll/internal/ops"
)

// unixClient speaks HTTP to a socket in the file system: there is no port to lose a
// race for.
func unixClient(t testing.TB, path string) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// What operators see in a real Caddy, before, during and after reloads.
func TestSeenInCaddy(t *testing.T) {
	dir, err := os.MkdirTemp("", "lp") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	adminSocket, siteSocket := filepath.Join(dir, "admin"), filepath.Join(dir, "site")
	base, others := parkedNow(), len(ops.Live.Sites())
	load := func(name string) {
		t.Helper()
		config := fmt.Sprintf(`{
			"admin": {"listen": "unix/%s", "config": {"persist": false}},
			"storage": {"module": "file_system", "root": %q},
			"logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
			"apps": {"http": {"servers": {"site": {
				"listen": ["unix/%s"],
				"automatic_https": {"disable": true},
				"routes": [
					{"match": [{"path": ["/shadow*"]}], "handle": [{"handler": "long_poll", "shadow": true}]},
					{"handle": [
						{"handler": "long_poll", "hold": "1h", "wake": [{"waker": "writes"}]},
						{"handler": "static_response", "headers": {"Etag": ["\"1\""], "X-Config": [%q]}, "body": "state"}
					]}
				]
			}}}}
		}`, adminSocket, dir, siteSocket, name)
		if err := caddy.Load([]byte(config), true); err != nil {
			t.Fatal(err)
		}
		// What connects before gets hold of the old listener, maybe.
		until(t, "the old configuration is gone", func() bool { return len(ops.Live.Sites()) == others+2 })
	}
	load("first")
	t.Cleanup(func() {
		// The admin server outlives a stop.
		caddy.Load([]byte(`{"admin": {"disabled": true, "config": {"persist": false}}}`), true)
		caddy.Stop()
	})
	site, adminClient := unixClient(t, siteSocket), unixClient(t, adminSocket)
	get := func(path string) (int, string, http.Header) {
		t.Helper()
		r, err := adminClient.Get("http://localhost" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(body), r.Header
	}
	metric := func(line string) bool {
		t.Helper()
		status, body, _ := get("/metrics")
		return status == http.StatusOK && strings.Contains(body, "\n"+line+"\n")
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	park := func(n int, want string) {
		for range n {
			wg.Go(func() {
				r, err := http.NewRequest(http.MethodGet, "http://shop.example/orders/42?token=secret", nil)
				if err != nil {
					t.Error(err)
					return
				}
				r.Header.Set("If-None-Match", `"1"`)
				resp, err := site.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if got := resp.Header.Get("Long-Poll"); resp.StatusCode != http.StatusNotModified || !strings.HasPrefix(got, want) {
					t.Errorf("got %d %q; want 304 %s", resp.StatusCode, got, want)
				}
			})
		}
	}
	parked := func(n int) string { return fmt.Sprintf("caddy_long_poll_parked_requests %d", base+n) }

	park(50, "drained")
	until(t, "50 are parked", func() bool { return metric(parked(50)) })
	if _, body, _ := get("/metrics"); !strings.Contains(body, `caddy_long_poll_wakes_total{source="writes"}`) {
		t.Error("the waker is not among the metrics")
	}
	var list []resourceStats
	if status, body, _ := get("/long_poll/resources"); status != 200 || json.Unmarshal([]byte(body), &list) != nil || len(list) != 1 || list[0].Waiters != 50 || strings.Contains(body, "secret") {
		t.Errorf("got %d %s", status, body)
	}

	// A reload releases them, and counts go on. A page that waits is in nobody's way.
	_, _, header := get("/long_poll/stats")
	r, err := http.NewRequest(http.MethodGet, "http://localhost/long_poll/stats", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("If-None-Match", header.Get("ETag"))
	r.Header.Set("Prefer", "wait=8")
	wg.Go(func() {
		resp, err := adminClient.Do(r)
		if err != nil { // a reload can cut who is just connecting
			resp, err = adminClient.Do(r)
		}
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
	})
	passed := passing(t)
	load("second")
	park(7, "drained")
	until(t, "the 7 of the new configuration are parked, and no others", func() bool { return metric(parked(7)) })
	if took := passed(); took > 6*time.Second {
		t.Errorf("the reload took %v", took)
	}

	// A configuration that fails changes nothing.
	if err := caddy.Load(fmt.Appendf(nil, `{"admin": {"listen": "unix/%s", "config": {"persist": false}}, "apps": {"http": {"servers": {"site": {"listen": ["unix/%s"],
		"routes": [{"handle": [{"handler": "long_poll", "hold": 0}]}]}}}}}`, adminSocket, siteSocket), true); err == nil {
		t.Error("loading hold 0 succeeded")
	}
	until(t, "7 are parked", func() bool { return parkedNow() == base+7 })
	load("third")
	park(3, "drained")
	until(t, "3 are parked", func() bool { return metric(parked(3)) })

	// Errors have Caddy's form.
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/long_poll/nothing", "", 404},
		{"DELETE", "/long_poll/stats", "", 405},
		{"POST", "/long_poll/wake", `{"path": "x"}`, 400},
		{"POST", "/long_poll/wake", `{"path": "/x"}`, 200},
	} {
		r, err := http.NewRequest(c.method, "http://localhost"+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := adminClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		var form struct {
			Error string `json:"error"`
		}
		if err := json.Unmarshal(body, &form); resp.StatusCode != c.status || err != nil || (form.Error == "") != (c.status == 200) {
			t.Errorf("%s %s: got %d %s, %v; want %d", c.method, c.path, resp.StatusCode, body, err, c.status)
		}
		if kind := resp.Header.Get("Content-Type"); kind != "application/json" {
			t.Errorf("%s %s: got type %q", c.method, c.path, kind)
		}
	}
	if status, body, header := get("/long_poll"); status != 200 || !bytes.Contains([]byte(body), []byte("<title>long_poll")) || header.Get("Content-Security-Policy") == "" {
		t.Errorf("GET /long_poll: got %d", status)
	}

	passed = passing(t)
	if err := caddy.Stop(); err != nil {
		t.Error(err)
	}
	if took := passed(); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	until(t, "nobody is parked", func() bool { return parkedNow() == base })
}
