package reply

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// nowhere is a client that reads nothing.
type nowhere struct{ header http.Header }

func (w nowhere) Header() http.Header       { return w.header }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}
func (w nowhere) reset()                    { clear(w.header); w.header["Server"] = []string{"Caddy"} }

// told is a poll that was parked on a state that it has, and that state.
func told(tb testing.TB) (*poll.Poll, *state.Reading) {
	tb.Helper()
	rules := &poll.Rules{Hold: 25 * time.Second, MaxBody: 1 << 20, Methods: []string{http.MethodGet}, Share: new(share.Rules), State: new(state.Rules)}
	r := httptest.NewRequest(http.MethodGet, "http://example.com/orders/42", nil)
	r.Header.Set("If-None-Match", `"v7"`)
	p := rules.New(caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nowhere{make(http.Header)}, new(caddyhttp.Server)))
	if err := p.Ask(func() error { return nil }); err != nil {
		tb.Fatal(err)
	}
	a := state.NewAnswer(http.StatusOK, http.Header{
		"Content-Type": {"application/json"}, "Etag": {`"v7"`}, "Last-Modified": {"Mon, 23 Nov 2026 07:00:00 GMT"}, "X-Request-Id": {"1"},
	}, []byte(`{"version":7,"padding":"`+strings.Repeat("x", 200)+`"}`), nil, 1<<20)
	v := rules.State.Version(a, "")
	s := &state.Reading{State: &state.State{Answer: a, Source: a, Version: v, ETag: rules.State.ETag(a, v)}}
	p.ParkOn(s)
	p.ParkedAt, p.Held = p.Arrived, time.Second
	return p, s
}

// BenchmarkAnswer is what the release of one client costs here.
func BenchmarkAnswer(b *testing.B) {
	for _, bench := range []struct {
		name   string
		writer *Writer
		kind   poll.Kind
	}{
		{"news", new(Writer), poll.Ready},
		{"nothing_new", new(Writer), poll.Expire},
		{"replay", &Writer{OnTimeout: NewBody(&Reply{Replay: true})}, poll.Expire},
		{"on_change", &Writer{OnChange: NewBody(&Reply{Status: http.StatusOK, Body: `{"version":{lp.version}}`})}, poll.Ready},
	} {
		b.Run(bench.name, func(b *testing.B) {
			p, s := told(b)
			w := nowhere{make(http.Header)}
			b.ReportAllocs()
			for b.Loop() {
				w.reset()
				if err := bench.writer.Answer(p, w, poll.Verdict{Kind: bench.kind, State: s}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRender(b *testing.B) {
	p, s := told(b)
	p.Told = s
	text := NewBody(&Reply{Status: http.StatusOK, Body: `{"version":{lp.json.version},"status":"{lp.status}"}`})
	b.ReportAllocs()
	for b.Loop() {
		if out, _ := text.render(p.Replacer()); len(out) == 0 {
			b.Fatal("renders nothing")
		}
	}
}
