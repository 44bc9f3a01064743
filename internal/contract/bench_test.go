package longpoll

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// The inner loops: what each request costs once, and what each release costs for
// every client. Hold a change against them with benchstat.

// nowhere is a client that reads nothing.
type nowhere struct{ header http.Header }

func (w nowhere) Header() http.Header       { return w.header }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}
func (w nowhere) reset()                    { clear(w.header); w.header["Server"] = []string{"Caddy"} }

// benchQuestion is a question like that of a browser, and a state that it has.
func benchQuestion(b *testing.B, block string, fields ...string) (*question, nowhere) {
	b.Helper()
	h := parseHandler(b, block)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	b.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { h.Cleanup() })
	h.logger = zap.NewNop()
	r := newRequest(http.MethodGet, "http://example.com/orders/42?page=1&index=7", "", append([]string{
		`If-None-Match: "v7"`, "Accept: application/json", "Accept-Encoding: gzip, deflate, br, zstd", "Accept-Language: en,de;q=0.7",
		"Authorization: Bearer abc", "Cookie: session=abc", "User-Agent: Mozilla/5.0", "Sec-Fetch-Mode: cors", "Referer: http://example.com/",
	}, fields...)...)
	w := nowhere{make(http.Header)}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
	q := h.question(r)
	if err := q.ask(); err != nil {
		b.Fatal(err)
	}
	text := []byte(`{"version":7,"padding":"` + strings.Repeat("x", 200) + `"}`)
	s := &state{answer: &answer{
		status: http.StatusOK,
		header: http.Header{"Content-Type": {"application/json"}, "Etag": {`"v7"`}, "Last-Modified": {"Mon, 23 Nov 2026 07:00:00 GMT"}, "X-Request-Id": {"1"}},
		body:   text,
		plain:  decoder("", text, 1<<20),
	}}
	s.seen = s.answer
	s.version.status = http.StatusOK
	h.identify(s, "7")
	q.state = s
	return q, w
}

// BenchmarkAsk is what a request costs before anybody is looked for to share with.
func BenchmarkAsk(b *testing.B) {
	for _, bench := range []struct{ name, block string }{
		{"conditional", ""},
		{"placeholders", "since {query.index} unset 0\nversion {lp.json.version}\nstrip_query index"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			q, _ := benchQuestion(b, bench.block)
			b.ReportAllocs()
			for b.Loop() {
				asked := *q
				if err := asked.ask(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDigest(b *testing.B) {
	q, _ := benchQuestion(b, "")
	b.ReportAllocs()
	for b.Loop() {
		q.digest()
	}
}

// BenchmarkHolds is the comparison of what a client has with what there is.
func BenchmarkHolds(b *testing.B) {
	for _, bench := range []struct{ name, block string }{
		{"etag", ""},
		{"since", "since {query.index}\nversion {lp.json.version}"},
		{"hold_while", "hold_while {lp.json.version} is 7"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			q, _ := benchQuestion(b, bench.block)
			b.ReportAllocs()
			for b.Loop() {
				if !q.holds(q.state) {
					b.Fatal("does not hold")
				}
			}
		})
	}
}

// BenchmarkAnswer is what the release of one client costs here.
func BenchmarkAnswer(b *testing.B) {
	for _, bench := range []struct {
		name, block string
		answer      func(*question, http.ResponseWriter) error
	}{
		{"news", "", (*question).news},
		{"nothing_new", "", (*question).nothingNew},
		{"replay", "on_timeout replay", (*question).nothingNew},
		{"on_change", `on_change 200 {"version":{lp.version}}`, (*question).news},
	} {
		b.Run(bench.name, func(b *testing.B) {
			q, w := benchQuestion(b, bench.block)
			b.ReportAllocs()
			for b.Loop() {
				w.reset()
				if err := bench.answer(q, w); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRender(b *testing.B) {
	q, _ := benchQuestion(b, "")
	text := newBody(&Reply{Status: http.StatusOK, Body: `{"version":{lp.json.version},"status":"{lp.status}"}`})
	b.ReportAllocs()
	for b.Loop() {
		if out, _ := text.render(q.repl); len(out) == 0 {
			b.Fatal("renders nothing")
		}
	}
}

// BenchmarkDone is the counting of a request that was released.
func BenchmarkDone(b *testing.B) {
	q, _ := benchQuestion(b, "")
	q.outcome, q.parkedAt = changed, q.arrived
	b.ReportAllocs()
	for b.Loop() {
		q.h.metrics.released(q.arrived)
		q.h.done(q)
	}
}

// BenchmarkPass is what is added to a request that can not be parked, and to a write
// that is seen.
func BenchmarkPass(b *testing.B) {
	for _, bench := range []struct {
		name, block string
		front       caddyhttp.MiddlewareHandler
	}{
		{"unseen", "", nil},
		{"write", "wake writes", new(WritesHandler)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			q, w := benchQuestion(b, bench.block)
			last := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				w.WriteHeader(http.StatusNoContent)
				return nil
			})
			next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { return q.h.ServeHTTP(w, r, last) })
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

// BenchmarkDelivery is all that a poll costs here, from its arrival until it has its
// answer: a hundred clients ask again at once with what they were given, and the
// backend changes when all of them have the last.
func BenchmarkDelivery(b *testing.B) {
	const clients = 100
	h := parseHandler(b, "interval 1h")
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	b.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { h.Cleanup() })
	h.logger = zap.NewNop()
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
				r := newRequest(http.MethodGet, "http://example.com/orders/42?page=1", "", "Accept: application/json", "User-Agent: Mozilla/5.0")
				if tag != "" {
					r.Header["If-None-Match"] = []string{tag}
				}
				w.reset()
				r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, server)
				if err := h.ServeHTTP(w, r, next); err != nil {
					b.Error(err)
				}
				tag = w.header.Get("Etag")
				if served.Add(1)%clients == 0 {
					version.Add(1)
					for _, r := range h.lot.Resources() {
						r.Wake()
					}
				}
			}
		})
	}
	all.Wait()
}
