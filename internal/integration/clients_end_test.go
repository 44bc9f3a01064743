package integration_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			if said, err := exec.CommandContext(ctx, node, "--input-type=module", "--eval", program, "file://"+client, server.URL).CombinedOutput(); err != nil {
				t.Errorf("it does not end: %v: %s", err, said)
			}
		})
	}
}

// The Python client takes no credentials along where it is sent to another place, as those
// in Go and JavaScript do not.
func TestPythonClientKeepsCredentials(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	var elsewhere *httptest.Server
	serve := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/elsewhere":
			http.Redirect(w, r, elsewhere.URL+"/", http.StatusFound)
		case "/here":
			http.Redirect(w, r, "/", http.StatusFound)
		default:
			_ = json.NewEncoder(w).Encode([]string{r.Header.Get("Authorization"), r.Header.Get("Cookie"), r.Header.Get("Prefer")})
		}
	}
	elsewhere = httptest.NewServer(http.HandlerFunc(serve))
	t.Cleanup(elsewhere.Close)
	here := httptest.NewServer(http.HandlerFunc(serve))
	t.Cleanup(here.Close)
	for path, want := range map[string]string{"/elsewhere": "['', '', 'wait=25']", "/here": "['Bearer x', 'a=b', 'wait=25']"} {
		const program = `import sys; sys.path.insert(0, "clients/python"); import long_poll
print(next(long_poll.watch(sys.argv[1], headers={"authorization": "Bearer x", "Cookie": "a=b"})))`
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		said, err := exec.CommandContext(ctx, python, "-B", "-c", program, here.URL+path).CombinedOutput()
		cancel()
		if got := strings.TrimSpace(string(said)); err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", path, got, err, want)
		}
	}
}

// What a server says can not end the Python client, nor have it come back at once.
func TestPythonClientOutlivesAnswers(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(strings.Repeat("[", 100_000)))
	}))
	t.Cleanup(server.Close)
	const program = `import sys, threading; sys.path.insert(0, "clients/python"); import long_poll
stop = threading.Event()
def told(error):
    print(type(error).__name__)
    stop.set()
for value in long_poll.watch(sys.argv[1], on_error=told, stop=stop): pass`
	const retryAfter = `import sys; sys.path.insert(0, "clients/python"); import long_poll
print(long_poll._retry_after({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT", "Date": "x"}))`
	for _, test := range []struct{ program, want string }{{program, "RecursionError"}, {retryAfter, "3600"}} {
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		said, err := exec.CommandContext(ctx, python, "-B", "-c", test.program, server.URL).CombinedOutput()
		cancel()
		if got := strings.TrimSpace(string(said)); err != nil || got != test.want {
			t.Errorf("got %s, %v; want %s", got, err, test.want)
		}
	}
}
