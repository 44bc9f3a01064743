package contract_test

import (
	"context"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// BenchmarkFirst is what the first poll of a resource costs, until it is parked, and what
// it keeps then: of the heap and of stacks, beside what Caddy keeps of any request that it
// has at hand.
func BenchmarkFirst(b *testing.B) {
	for _, name := range []string{"caddy", "same", "other"} {
		b.Run(name, func(b *testing.B) {
			s := realSite(b, "interval 1h\nmax_resources 1000000\nmax_parked 1000000")
			s.seen.Log = zap.NewNop()
			text := []byte(`{"padding":"` + strings.Repeat("x", 200) + `"}`)
			last := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				w.Header()["Content-Type"] = []string{"application/json"}
				w.Header()["Etag"] = []string{`"1"`}
				_, err := w.Write(text)
				return err
			})
			server := new(caddyhttp.Server)
			ctx, cancel := context.WithCancel(context.Background())
			var all, ready sync.WaitGroup
			poll := func(i int) {
				target := "/orders/42"
				if name == "other" {
					target = "/orders/" + strconv.Itoa(i)
				}
				r := newRequest(http.MethodGet, "http://example.com"+target, "", "Accept: application/json", "User-Agent: curl/8.0", `If-None-Match: "1"`)
				w := nowhere{make(http.Header)}
				w.reset()
				r = caddyhttp.PrepareRequest(r.WithContext(ctx), caddy.NewReplacer(), w, server)
				all.Go(func() {
					if name == "caddy" {
						ready.Done()
						<-r.Context().Done()
						runtime.KeepAlive(r)
						w.reset()
						return
					}
					s.ServeHTTP(w, r, last)
				})
			}
			before, n := kept(), 0
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				if n++; name == "caddy" {
					ready.Add(1)
				}
				poll(n)
				if n%64 == 0 && name != "caddy" {
					until(b, "parked", func() bool { return s.lot.Parked() == n })
				}
			}
			b.StopTimer()
			if ready.Wait(); name != "caddy" {
				until(b, "parked", func() bool { return s.lot.Parked() == n })
			}
			now := kept()
			b.ReportMetric(float64(now.HeapAlloc-before.HeapAlloc)/float64(n), "heap-B/op")
			b.ReportMetric(float64(int64(now.StackInuse-before.StackInuse))/float64(n), "stack-B/op")
			b.ReportMetric(float64(int64(now.HeapInuse-before.HeapInuse))/float64(n), "spans-B/op")
			cancel()
			all.Wait()
		})
	}
}

// kept is what is in use after a collection.
func kept() (m runtime.MemStats) {
	runtime.GC()
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m
}
