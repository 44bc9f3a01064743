package integration_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// The JavaScript client ends with its signal also where that is aborted by whoever is told
// a value or an error, right before a pause.
func TestJavaScriptClientEndsBeforeAPause(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed")
	}
	client, err := filepath.Abs("clients/js/long_poll.js")
	if err != nil {
		t.Fatal(err)
	}
	for name, status := range map[string]int{"value": http.StatusOK, "error": http.StatusServiceUnavailable} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(status)
				_, _ = w.Write([]byte("1"))
			}))
			t.Cleanup(server.Close)
			const program = `
				const [file, url] = process.argv.slice(-2)
				const { watch } = await import(file)
				const end = new AbortController()
				for await (const value of watch(url, { signal: end.signal, onError: () => end.abort() })) end.abort()`
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if said, err := exec.CommandContext(ctx, node, "--input-type=module", "--eval", program, "file://"+client, server.URL).CombinedOutput(); err != nil {
				t.Errorf("it does not end: %v: %s", err, said)
			}
		})
	}
}
