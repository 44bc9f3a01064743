package tap

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// page answers as reverse_proxy does with 1 KiB: fields one by one, one write.
var page = caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
	header := w.Header()
	header["Via"] = []string{"1.1 Caddy"}
	header["Content-Type"] = []string{"application/json"}
	header["Content-Length"] = []string{"1024"}
	header["Date"] = []string{"Sat, 28 Nov 2026 13:00:00 GMT"}
	header["Vary"] = []string{"Accept"}
	header["Etag"] = []string{`"1"`}
	w.WriteHeader(http.StatusOK)
	_, err := w.Write(kilobyte[:])
	return err
})

var kilobyte [1024]byte

// quiet is an Exchange that does nothing.
type quiet struct{ need bool }

func (q quiet) Begin(int, http.Header) bool               { return q.need }
func (quiet) End(status int, _ http.Header, _ []byte) int { return status }
func (quiet) Late(int, http.Header)                       {}

// sink is a response writer to nobody.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }

func variants() map[string]caddyhttp.Handler {
	return map[string]caddyhttp.Handler{
		"direct":  page,
		"no need": owned(page, 1<<20, quiet{}),
		"need":    owned(page, 1<<20, quiet{need: true}),
	}
}

// BenchmarkExchange is what the exchange of an answer of 1 KiB costs by itself.
func BenchmarkExchange(b *testing.B) {
	for _, name := range []string{"direct", "no need", "need"} {
		h := variants()[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			r := httptest.NewRequest("GET", "/", nil)
			s := &sink{header: make(http.Header)}
			for b.Loop() {
				clear(s.header)
				s.header["Server"] = []string{"Caddy"}
				h.ServeHTTP(s, r)
			}
		})
	}
}

// BenchmarkServer is the same behind net/http, with its client.
func BenchmarkServer(b *testing.B) {
	for _, name := range []string{"direct", "no need", "need"} {
		h := variants()[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			s := newServer(b, false)
			s.handler = site(h)
			for b.Loop() {
				resp, err := s.Client().Get(s.URL)
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, resp.Body); n != 1024 || err != nil {
					b.Fatal(fmt.Errorf("%d bytes: %w", n, err))
				}
				resp.Body.Close()
			}
		})
	}
}
