package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// testOwnStreams has the backend say the next part of an answer only when the client
// has the one before: what comes in parts comes as it does without us, and costs the
// backend one request.
func testOwnStreams(t *testing.T, caddy binary) {
	var mu sync.Mutex
	steps := make(map[string]chan struct{})
	step := func(query string) chan struct{} {
		mu.Lock()
		defer mu.Unlock()
		if steps[query] == nil {
			steps[query] = make(chan struct{})
		}
		return steps[query]
	}
	const parts, part = 5, "a part of the answer\n"
	piece := strings.Repeat("x", 64<<10)
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, size := r.URL.Query().Get("kind"), r.URL.Query().Get("size")
		if kind != "" {
			w.Header().Set("Content-Type", kind)
		}
		text := part
		if size != "" {
			w.Header().Set("Content-Length", size)
			text = strings.Repeat(piece, 64) // five of them are 20 MiB
		}
		if r.URL.Query().Has("unbuffered") {
			w.Header().Set("X-Accel-Buffering", "no")
		}
		for range parts {
			io.WriteString(w, text)
			http.NewResponseController(w).Flush()
			select {
			case <-step(r.URL.RawQuery):
			case <-r.Context().Done():
				return
			}
		}
	}))
	port, twin := freePort(t), freePort(t)
	s := caddy.start(t, "", tlsSite(port, "\tlong_poll\n\treverse_proxy "+b.addr)+tlsSite(twin, "\treverse_proxy "+b.addr))
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			c, plain := s.newTLSClient(t, protocol, port), s.newTLSClient(t, protocol, twin)
			for _, stream := range []struct{ name, query string }{
				{"events", "kind=text/event-stream"},
				{"NDJSON", "kind=application/x-ndjson"},
				{"parts", "kind=multipart/mixed;boundary=b"},
				{"unbuffered", "kind=text/plain&unbuffered"},
				{"20 MiB", fmt.Sprint("kind=application/zip&size=", parts*64*len(piece))},
				// These may turn out to be short, and their first part waits for half a second.
				{"trickle", "kind=application/json"},
				{"untyped", ""},
			} {
				t.Run(stream.name, func(t *testing.T) {
					t.Parallel()
					for who, client := range map[string]*client{"ours": c, "theirs": plain} {
						query := strings.ReplaceAll(fmt.Sprintf("who=%s&run=%s&%s", who, strings.ReplaceAll(t.Name(), " ", "_"), stream.query), ";", "%3B")
						readInSteps(t, client, query, step(query), parts)
					}
				})
			}
		})
	}
	t.Run("cost", func(t *testing.T) {
		if n := b.asked.Load(); n != int64(2*7*len(protocols)) {
			t.Errorf("the backend was asked %d times for %d answers", n, 2*7*len(protocols))
		}
	})
}

// readInSteps reads an answer, and has the backend go on whenever it has all that was
// said so far.
func readInSteps(t *testing.T, c *client, query string, step chan struct{}, parts int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", c.base+"/?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "*/*")
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Fatalf("got %s", resp.Status)
	}
	size, behind := int64(len("a part of the answer\n")), int64(0)
	if resp.ContentLength > 0 {
		// Where the length is known nothing is flushed on the way, and the end of a part
		// comes with the next one.
		size, behind = resp.ContentLength/int64(parts), 256<<10
	}
	var read int64
	for i := range parts {
		n, err := io.CopyN(io.Discard, resp.Body, size*int64(i+1)-behind-read)
		if read += n; err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
		select {
		case step <- struct{}{}:
		case <-time.After(deadline):
			t.Fatalf("the backend does not take that part %d has come", i)
		}
	}
	if rest, err := io.ReadAll(resp.Body); err != nil || int64(len(rest)) != behind {
		t.Errorf("got %d bytes more, %v", len(rest), err)
	}
}
