package poll

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// newRules are those of a configuration that says nothing, less the jitter.
func newRules() *Rules {
	return &Rules{
		Hold: 25 * time.Second, CheckTimeout: 10 * time.Second, Interval: time.Second, Linger: 30 * time.Second,
		MaxBody: 1 << 20, Methods: []string{http.MethodGet}, Share: new(share.Rules), State: new(state.Rules),
	}
}

// newPoll is a poll that has not been read yet, with fields such as "Wait: 5".
func newPoll(ru *Rules, target string, fields ...string) *Poll {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		r.Header.Add(name, value)
	}
	return ru.New(caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server)))
}

// ask is a poll that has been read.
func ask(t testing.TB, ru *Rules, target string, fields ...string) *Poll {
	t.Helper()
	p := newPoll(ru, target, fields...)
	if err := p.Ask(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	return p
}

// reading is what the rules make of an answer with that ETag, if it is not empty.
func reading(ru *Rules, status int, etag, body string) *state.Reading {
	header := make(http.Header)
	if etag != "" {
		header.Set("Etag", etag)
	}
	a := state.NewAnswer(status, header, []byte(body), nil, ru.MaxBody)
	s := &state.State{Answer: a, Source: a, Ended: time.Now()}
	s.Version = ru.State.Version(a, state.Member([]byte(body), "v"))
	s.ETag = ru.State.ETag(a, s.Version)
	return &state.Reading{State: s, Result: state.Changed, Since: s.Ended}
}

// browser is what a browser sends.
var browser = []string{
	`If-None-Match: "v7"`, "Accept: application/json", "Accept-Encoding: gzip, deflate, br, zstd", "Accept-Language: en,de;q=0.7",
	"Authorization: Bearer abc", "Cookie: session=abc", "User-Agent: Mozilla/5.0", "Sec-Fetch-Mode: cors", "Referer: http://example.com/",
}

const benchTarget = "http://example.com/orders/42?page=1&index=7"

// BenchmarkAsk is what a request costs before anybody is looked for to share with.
func BenchmarkAsk(b *testing.B) {
	placeholders := newRules()
	placeholders.Since, placeholders.Unset, placeholders.Version = "{http.request.uri.query.index}", []string{"0"}, "{lp.json.v}"
	placeholders.State.Configured, placeholders.State.Named = true, true
	placeholders.Share.StripQuery = []string{"index"}
	for _, bench := range []struct {
		name  string
		rules *Rules
	}{{"conditional", newRules()}, {"placeholders", placeholders}} {
		b.Run(bench.name, func(b *testing.B) {
			p := newPoll(bench.rules, benchTarget, append(browser, "Prefer: wait=20")...) // else a browser's is no poll
			b.ReportAllocs()
			for b.Loop() {
				asked := *p
				if err := asked.Ask(func() error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHolds is the comparison of what a client has with what there is.
func BenchmarkHolds(b *testing.B) {
	since := newRules()
	since.Since, since.Version = "{http.request.uri.query.index}", "{lp.json.v}"
	since.State.Configured, since.State.Named = true, true
	while := newRules()
	while.HoldWhile = []Condition{{Value: "{lp.json.v}", Op: "is", Literals: []string{"7"}}}
	for _, bench := range []struct {
		name  string
		rules *Rules
	}{{"etag", newRules()}, {"since", since}, {"hold_while", while}} {
		b.Run(bench.name, func(b *testing.B) {
			p := ask(b, bench.rules, benchTarget, browser...)
			s := reading(bench.rules, http.StatusOK, `"v7"`, `{"v":7,"padding":"`+strings.Repeat("x", 200)+`"}`)
			b.ReportAllocs()
			for b.Loop() {
				if !p.Holds(s) {
					b.Fatal("does not hold")
				}
			}
		})
	}
}
