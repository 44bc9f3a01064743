package ops

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lines is a response that counts lines, and flushes after each.
type lines struct {
	http.ResponseWriter
	mu sync.Mutex
	at []time.Time
}

func newLines() *lines { return &lines{ResponseWriter: httptest.NewRecorder()} }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = append(l.at, time.Now())
	return l.ResponseWriter.Write(p)
}

func (l *lines) Flush() {}

func (l *lines) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.at)
}

func liveRequest(ctx context.Context) *http.Request {
	return httptest.NewRequestWithContext(ctx, http.MethodGet, "/long_poll/live", nil)
}

// A line comes at once, soon after a change, and now and then where there is none; the
// stream has an end.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w := newAdminAPI(), newLines()
		began := time.Now()
		var ended time.Time
		go func() {
			if err := a.serveLive(w, liveRequest(t.Context())); err != nil {
				t.Error(err)
			}
			ended = time.Now()
		}()
		wants := func(n int) {
			t.Helper()
			synctest.Wait()
			if got := w.count(); got != n {
				t.Errorf("after %v: got %d lines; want %d", time.Since(began), got, n)
			}
		}
		wants(1)
		time.Sleep(liveQuiet - time.Millisecond)
		wants(1)
		time.Sleep(time.Millisecond)
		wants(2)
		time.Sleep(liveLook / 2)
		for range 3 {
			Woken(sourceAdmin)
			time.Sleep(liveLook)
		}
		wants(5)
		for range 20 { // no more than one a look
			Woken(sourceAdmin)
		}
		time.Sleep(liveLook)
		wants(6)
		time.Sleep(liveLong)
		synctest.Wait()
		if ended.Sub(began) != liveLong || a.waiting.Load() != 0 {
			t.Errorf("it ended after %v, and %d still wait", ended.Sub(began), a.waiting.Load())
		}
	})
}

func TestLiveBounds(t *testing.T) {
	a := newAdminAPI()
	ask := func(method, query string) (*httptest.ResponseRecorder, error) {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, "/long_poll/live"+query, nil)
		return w, a.serveLive(w, r)
	}
	if w, err := ask(http.MethodHead, ""); err != nil || w.Body.Len() != 0 || w.Header().Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("HEAD: got %v, %v", w.Header(), err)
	}
	for query, says := range map[string]string{"?limit=x": "expected one whole number", "?sort=x": "expected waiters"} {
		if _, err := ask(http.MethodGet, query); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v", query, err)
		}
	}
	if _, err := ask(http.MethodPost, ""); err == nil {
		t.Error("POST is allowed")
	}
	a.waiting.Store(maxLive)
	if w, err := ask(http.MethodGet, ""); err == nil || w.Header().Get("Retry-After") == "" {
		t.Errorf("one too many: got %v, %v", err, w.Header())
	}
	if got := a.waiting.Load(); got != maxLive {
		t.Errorf("%d wait; want %d", got, maxLive)
	}
}

// It outlives the read timeout of its server, and not its shutdown.
func TestLiveOverHTTP(t *testing.T) {
	server, a := adminServerWith(t, 200*time.Millisecond)
	resp, err := http.Get(server.URL + "/long_poll/live?limit=3")
	// Where the machine stands still for as long, the server has not read the request in time.
	for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); {
		resp, err = http.Get(server.URL + "/long_poll/live?limit=3")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	read := bufio.NewScanner(resp.Body)
	read.Buffer(nil, 1<<20)
	for i := range 3 {
		Woken(sourceAdmin)
		if !read.Scan() {
			t.Fatalf("line %d: %v", i, read.Err())
		}
		var l live
		if err := json.Unmarshal(read.Bytes(), &l); err != nil || len(l.Rates.Requests) != historySteps {
			t.Fatalf("line %d: %v, %d steps", i, err, len(l.Rates.Requests))
		}
	}
	untilOneWaits(t, a)
	if err := server.Config.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for read.Scan() {
	}
	if err := read.Err(); err != nil {
		t.Errorf("after the shutdown: %v", err)
	}
}
