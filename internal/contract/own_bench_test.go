package contract_test

import (
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// BenchmarkOwn is what an ordinary GET costs (contract 3.8), beside what Caddy takes to
// prepare it and a backend to answer it with 1 KiB.
func BenchmarkOwn(b *testing.B) {
	var body [1024]byte
	answer := func(tag []string) caddyhttp.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) error {
			header := w.Header()
			header["Content-Type"], header["Content-Length"] = []string{"application/json"}, []string{"1024"}
			if tag != nil {
				header["Etag"] = tag
			}
			w.WriteHeader(http.StatusOK)
			_, err := w.Write(body[:])
			return err
		}
	}
	for _, bench := range []struct {
		name string
		next caddyhttp.HandlerFunc
		ours bool
	}{
		{"caddy", answer([]string{`"1"`}), false},
		{"tagged", answer([]string{`"1"`}), true},
		{"untagged", answer(nil), true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			s, w := realSite(b, ""), nowhere{make(http.Header)}
			s.seen.Log = zap.NewNop()
			get, server := newRequest(http.MethodGet, "http://example.com/orders", ""), new(caddyhttp.Server)
			b.ReportAllocs()
			for b.Loop() {
				w.reset()
				r := caddyhttp.PrepareRequest(get.Clone(get.Context()), caddy.NewReplacer(), w, server)
				var err error
				if bench.ours {
					err = s.ServeHTTP(w, r, bench.next)
				} else {
					err = bench.next(w, r)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
