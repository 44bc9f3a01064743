package ops

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// adminServer serves the routes as the admin endpoint does.
func adminServer(t *testing.T) (*httptest.Server, *adminAPI) {
	t.Helper()
	return adminServerWith(t, 0)
}

// adminServerWith is adminServer with a read timeout; 0 is none.
func adminServerWith(t *testing.T, readTimeout time.Duration) (*httptest.Server, *adminAPI) {
	t.Helper()
	a := newAdminAPI()
	mux := http.NewServeMux()
	for _, route := range a.Routes() {
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
	server := httptest.NewUnstartedServer(mux)
	server.Config.ReadTimeout = readTimeout
	server.Start()
	t.Cleanup(func() {
		// Shutdown, not Close: it must not have to wait for the page's long poll.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := server.Config.Shutdown(ctx); err != nil {
			t.Errorf("shutting the admin server down: %v", err)
		}
		server.Close()
	})
	return server, a
}

func TestShownVersion(t *testing.T) {
	for version, want := range map[string]string{
		``: ``, `"abc"`: `abc`, `W/"abc"`: `abc`, `1234`: `1234`, `2026-01-01T00:00:00Z`: `2026-01-01T00:00:00Z`,
	} {
		if got := shownVersion(version); got != want {
			t.Errorf("%q: got %q; want %q", version, got, want)
		}
	}
	for _, version := range []string{"a b", "é", "\x00", strings.Repeat("a", 65), `{"a":1}`} {
		if got := shownVersion(version); len(got) != 32 {
			t.Errorf("%q: got %q; want a digest", version, got)
		}
	}
}

// The page's long poll: it answers when something changes, it is bounded in time
// and number, and it holds up no shutdown.
func TestAdminStatsWait(t *testing.T) {
	ask := func(url, tag string) (int, string) {
		r, err := http.NewRequest(http.MethodGet, url+"/long_poll/stats", nil)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		r.Header.Set("If-None-Match", tag)
		r.Header.Set("Prefer", "wait=8")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, resp.Header.Get("ETag")
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)

	t.Run("a change ends it", func(t *testing.T) {
		server, a := adminServer(t)
		status, tag := ask(server.URL, "")
		if status != http.StatusOK || tag == "" {
			t.Fatalf("got %d with tag %q", status, tag)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			status, other := ask(server.URL, tag)
			for status == http.StatusNotModified { // its time was up before the change
				status, other = ask(server.URL, tag)
			}
			if status != http.StatusOK || other == tag {
				t.Errorf("after a change: got %d with the tag %q and before %q", status, other, tag)
			}
		}()
		untilOneWaits(t, a)
		Woken(sourceAdmin)
		<-done
	})
	t.Run("time ends it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newAdminAPI()
			r := httptest.NewRequest(http.MethodGet, "/long_poll/stats", nil)
			r.Header.Set("If-None-Match", readStats().tag())
			r.Header.Set("Prefer", "wait=1000")
			began := time.Now()
			w := httptest.NewRecorder()
			if err := a.serveStats(w, r); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); w.Code != http.StatusNotModified || took != maxStatsWait {
				t.Errorf("got %d after %v; want 304 after %v", w.Code, took, maxStatsWait)
			}
			if a.waiting.Load() != 0 {
				t.Errorf("%d still wait", a.waiting.Load())
			}
		})
	})
	t.Run("who does not wait is answered at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			for _, prefer := range []string{"", "wait=0", "wait=x", "wait=-1"} {
				r := httptest.NewRequest(http.MethodGet, "/long_poll/stats", nil)
				r.Header.Set("If-None-Match", readStats().tag())
				r.Header.Set("Prefer", prefer)
				began := time.Now()
				w := httptest.NewRecorder()
				if err := newAdminAPI().serveStats(w, r); err != nil || w.Code != http.StatusNotModified || time.Since(began) != 0 {
					t.Errorf("Prefer %q: got %d, %v after %v", prefer, w.Code, err, time.Since(began))
				}
			}
		})
	})
	t.Run("too many are answered at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newAdminAPI()
			a.waiting.Store(maxStatsWaiting)
			r := httptest.NewRequest(http.MethodGet, "/long_poll/stats", nil)
			r.Header.Set("If-None-Match", readStats().tag())
			r.Header.Set("Prefer", "wait=8")
			began := time.Now()
			if err := a.serveStats(httptest.NewRecorder(), r); err != nil || time.Since(began) != 0 {
				t.Errorf("got %v after %v", err, time.Since(began))
			}
			if got := a.waiting.Load(); got != maxStatsWaiting {
				t.Errorf("%d wait; want %d", got, maxStatsWaiting)
			}
		})
	})
	t.Run("a shutdown ends it", func(t *testing.T) {
		server, a := adminServer(t)
		_, tag := ask(server.URL, "")
		var shut atomic.Bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			for status := http.StatusNotModified; status == http.StatusNotModified && !shut.Load(); {
				status, _ = ask(server.URL, tag)
			}
		}()
		untilOneWaits(t, a)
		shut.Store(true)
		passed := passing(t)
		if err := server.Config.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-done
		if took := passed(); took > 3*time.Second {
			t.Errorf("it was answered %v after the shutdown", took)
		}
	})
}

// passing counts the time that passes from now on while this machine does not stand still:
// a ticker drops what nobody takes.
func passing(t *testing.T) func() time.Duration {
	t.Helper()
	const tick = 10 * time.Millisecond
	var ticks atomic.Int64
	ticker := time.NewTicker(tick)
	ended := make(chan struct{})
	t.Cleanup(func() {
		ticker.Stop()
		close(ended)
	})
	go func() {
		for {
			select {
			case <-ticker.C:
				ticks.Add(1)
			case <-ended:
				return
			}
		}
	}()
	return func() time.Duration { return time.Duration(ticks.Load()) * tick }
}

// untilOneWaits waits until somebody waits for other stats.
func untilOneWaits(t *testing.T, a *adminAPI) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	for a.waiting.Load() != 1 {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("nobody waits")
		}
	}
}

// The policy forbids everything that the page does not need.
func TestPagePolicy(t *testing.T) {
	w := httptest.NewRecorder()
	if err := newAdminAPI().servePage(w, httptest.NewRequest(http.MethodGet, "/long_poll/", nil)); err != nil {
		t.Fatal(err)
	}
	policy := w.Header().Get("Content-Security-Policy")
	for _, directive := range strings.Split(policy, "; ") {
		name, sources, _ := strings.Cut(directive, " ")
		if strings.Contains(sources, "unsafe") || strings.Contains(sources, "*") || strings.Contains(sources, "http") {
			t.Errorf("%s allows %s", name, sources)
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none'; script-src 'sha256-") {
		t.Errorf("got policy %q", policy)
	}
	for _, forbidden := range []string{" style=", " onclick=", "innerHTML", "src=\"http", "@import", "url("} {
		if strings.Contains(page, forbidden) {
			t.Errorf("the page has %q, which its policy forbids or its safety", forbidden)
		}
	}
	if n := strings.Count(page, "<script") + strings.Count(page, "<style"); n != 2 {
		t.Errorf("the page has %d scripts and styles; want one of each, for each has one hash", n)
	}
}
