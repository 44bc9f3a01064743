package contract_test

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	longpoll "github.com/caddy-longpoll/caddy-longpoll"
)

// What each request costs as a whole; the inner loops are measured in the rooms. Hold
// a change against them with benchstat.

// nowhere is a client that reads nothing.
type nowhere struct{ header http.Header }

func (w nowhere) Header() http.Header       { return w.header }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}
func (w nowhere) reset()                    { clear(w.header); w.header["Server"] = []string{"Caddy"} }

// BenchmarkPass is what is added to a request that can not be parked, and to a write
// that is seen.
func BenchmarkPass(b *testing.B) {
	for _, bench := range []struct {
		name, block string
		front       caddyhttp.MiddlewareHandler
	}{
		{"unseen", "", nil},
		{"write", "wake writes", new(longpoll.WritesHandler)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			s, w := realSite(b, bench.block), nowhere{make(http.Header)}
			s.seen.Log = zap.NewNop()
			last := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				w.WriteHeader(http.StatusNoContent)
				return nil
			})
			next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { return s.ServeHTTP(w, r, last) })
			if front := bench.front; front != nil {
				behind := next
				next = func(w http.ResponseWriter, r *http.Request) error { return front.ServeHTTP(w, r, behind) }
			}
			post := newRequest(http.MethodPost, "http://example.com/orders", "")
			server := new(caddyhttp.Server)
			for _, whole := range []bool{false, true} {
				b.Run(map[bool]string{false: "caddy", true: "all"}[whole], func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						w.reset()
						r := caddyhttp.PrepareRequest(post.Clone(post.Context()), caddy.NewReplacer(), w, server)
						if whole {
							if err := next(w, r); err != nil {
								b.Fatal(err)
							}
						}
					}
				})
			}
		})
	}
}

// BenchmarkOrdinary is what is added to a request that is no poll, where the backend
// gives an ETag and where it gives none.
func BenchmarkOrdinary(b *testing.B) {
	text := []byte(strings.Repeat("x", 1024))
	for _, tag := range []string{`"1"`, ""} {
		s, w := realSite(b, ""), nowhere{make(http.Header)}
		s.seen.Log = zap.NewNop()
		last := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			w.Header()["Content-Type"] = []string{"application/json"}
			if tag != "" {
				w.Header()["Etag"] = []string{tag}
			}
			_, err := w.Write(text)
			return err
		})
		get := newRequest(http.MethodGet, "http://example.com/orders/42?page=1", "", "Accept: application/json", "User-Agent: curl/8.0")
		server := new(caddyhttp.Server)
		for _, whole := range []bool{false, true} {
			b.Run(map[bool]string{true: "tagged/", false: "untagged/"}[tag != ""]+map[bool]string{false: "caddy", true: "all"}[whole], func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					w.reset()
					r := caddyhttp.PrepareRequest(get.Clone(get.Context()), caddy.NewReplacer(), w, server)
					var err error
					if whole {
						err = s.ServeHTTP(w, r, last)
					} else {
						err = last(w, r)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkDelivery is all that a poll costs here, from its arrival until it has its
// answer: a hundred clients ask again at once with what they were given, and the
// backend changes when all of them have the last.
func BenchmarkDelivery(b *testing.B) {
	const clients = 100
	s := realSite(b, "interval 1h")
	s.seen.Log = zap.NewNop()
	var version, served atomic.Int64
	text := []byte(`{"padding":"` + strings.Repeat("x", 200) + `"}`)
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Etag", strconv.Quote(strconv.FormatInt(version.Load(), 10)))
		_, err := w.Write(text)
		return err
	})
	server := new(caddyhttp.Server)
	rounds := b.N/clients + 1
	var all sync.WaitGroup
	b.ReportAllocs()
	for range clients {
		all.Go(func() {
			w, tag := nowhere{make(http.Header)}, ""
			for range rounds {
				r := newRequest(http.MethodGet, "http://example.com/orders/42?page=1", "", "Accept: application/json", "User-Agent: curl/8.0")
				if tag != "" {
					r.Header["If-None-Match"] = []string{tag}
				}
				w.reset()
				r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, server)
				if err := s.ServeHTTP(w, r, next); err != nil {
					b.Error(err)
				}
				tag = w.header.Get("Etag")
				if served.Add(1)%clients == 0 {
					version.Add(1)
					for _, r := range s.lot.Resources() {
						r.Wake()
					}
				}
			}
		})
	}
	all.Wait()
}
