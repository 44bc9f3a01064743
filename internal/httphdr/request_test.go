package httphdr

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// contract 7.4
func TestPersonal(t *testing.T) {
	for _, name := range []string{
		"Connection", "Keep-Alive", "TE", "Upgrade", "If-None-Match", "If-Modified-Since", "If-Range", "If-Match", "If-Unmodified-Since",
		"Wait", "Range", "A-IM", "Cache-Control", "Pragma", "Last-Event-ID", "User-Agent", "Referer", "From", "Via", "Priority", "DNT",
		"Save-Data", "Early-Data", "Upgrade-Insecure-Requests", "Sec-Fetch-Mode", "Sec-CH-UA", "Forwarded", "X-Forwarded-For", "X-Real-IP",
		"True-Client-IP", "CF-Connecting-IP", "CF-Connecting-IPv6", "X-Cluster-Client-IP", "Fastly-Client-IP", "CloudFront-Viewer-Address",
		"X-Azure-SocketIP", "Traceparent", "tracestate", "baggage", "b3", "X-B3-TraceId", "X-Request-Id", "X-Correlation-ID", "CF-Ray", "CDN-Loop",
		"X-Amzn-Trace-Id", "X-Cloud-Trace-Context", "uber-trace-id", "sentry-trace", "x-datadog-parent-id", "x-ot-span-context", "newrelic",
		"elastic-apm-traceparent", "X-Request-Start", "Expect", "Max-Forwards", "Date",
	} {
		if !Personal(http.CanonicalHeaderKey(name)) {
			t.Errorf("%s: is compared", name)
		}
	}
	for _, name := range []string{
		"", "Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Cookie", "Proxy-Authorization", "Prefer", "Content-Type", "Origin",
		"X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Client-Cert", "X-Forwarded-User",
		"X-Api-Key", "X-Requested-With", "X-HTTP-Method-Override", "X-Tenant", "CF-IPCountry", "CF-Visitor", "Security", "X-B3", "Secret",
		"X-Client", "X-Transaction-Id", "Idempotency-Key", "Content-Length", "X-User-Id",
	} {
		if Personal(http.CanonicalHeaderKey(name)) {
			t.Errorf("%s: is not compared", name)
		}
	}
}

func TestPersonalFields(t *testing.T) {
	names := PersonalFields()
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Error("is not sorted, or has a name twice")
	}
	for _, name := range names {
		text, prefix := strings.CutSuffix(name, "*")
		if prefix {
			text += "Xyz"
		}
		if !Personal(text) || !prefix && http.CanonicalHeaderKey(name) != name {
			t.Errorf("%s: is listed, but not known", name)
		}
		if LikeCredentials(text) && !slices.Contains(hopByHop, text) { // Proxy-Authenticate is an answer's
			t.Errorf("%s: is named like a credential", name)
		}
	}
	for _, want := range []string{"Sec-*", "If-None-Match", "X-Forwarded-For", "X-Ot-*"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s: is not listed", want)
		}
	}
}

func TestLikeCredentials(t *testing.T) {
	for name, want := range map[string]bool{
		"Authorization": true, "Cookie": true, "Proxy-Authorization": true, "X-Api-Key": true, "X-Vault-Token": true, "X-Session-Id": true,
		"Ocp-Apim-Subscription-Key": true, "Cf-Access-Jwt-Assertion": true, "X-Forwarded-Client-Cert": true, "X-Forwarded-User": true,
		"Accept": false, "Prefer": false, "X-Tenant": false, "Idempotency-Key": false, "X-Forwarded-Proto": false, "Keep-Alive": false,
	} {
		if got := LikeCredentials(name); got != want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestDropHop(t *testing.T) {
	header := http.Header{
		"Connection": {"keep-alive, x-mine ,close", "X-Other"}, "X-Mine": {"1"}, "X-Other": {"1"}, "Close": {"1"}, "Te": {"trailers"},
		"Proxy-Authenticate": {"Basic"}, "Proxy-Authorization": {"1"}, "X-Kept": {"1"}, "Upgrade": {"h2c"},
	}
	if got, want := Connections(header), []string{"Keep-Alive", "X-Mine", "X-Other"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
	DropHop(header)
	if len(header) != 3 || header["X-Kept"] == nil || header["Close"] == nil || header["Proxy-Authorization"] == nil {
		t.Errorf("got %v", header)
	}
}

// contract 3.4
func TestPreferWait(t *testing.T) {
	for field, want := range map[string]string{
		"":                             "none",
		"wait=5":                       "5",
		"Wait = \"5\"":                 "5",
		`wait="5`:                      `"5`,
		`wait=5"`:                      `5"`,
		`wait=""`:                      "",
		`wait="`:                       `"`,
		"respond-async, wait=5;a=b":    "5",
		"wait=60s;index=TOKEN":         "60s",
		"wait":                         "",
		"modes=snapshot,delta;wait=60": "60",
		"a;wait=60, wait=5":            "5",
		"a;wait=60, b;wait=5":          "60",
		"a;wait":                       "",
		`a="b, wait=5"`:                "none",
		`a="b; wait=5"`:                "none",
		`a="\", wait=5"`:               "none",
		`a="\\", wait=5`:               "5",
		"awaits=5":                     "none",
		"await=5, waiting":             "none",
	} {
		got, ok := PreferWait([]string{field})
		if !ok {
			got = "none"
		}
		if got != want {
			t.Errorf("%q: got %q; want %q", field, got, want)
		}
	}
}

// contract 7.4
func TestWithoutWait(t *testing.T) {
	for _, c := range []struct{ prefer, want []string }{
		{nil, nil},
		{[]string{""}, []string{""}},
		{[]string{"wait=5"}, nil},
		{[]string{"wait=60s;index=TOKEN", " , "}, []string{" , "}},
		{[]string{"respond-async,  wait=5"}, []string{"respond-async"}},
		{[]string{"wait=5, respond-async", "a=B"}, []string{"respond-async", "a=B"}},
		{[]string{"a;b = c,wait=5 ,  d"}, []string{"a;b = c,  d"}},
		{[]string{"modes=snapshot,delta;wait=60"}, []string{"modes=snapshot,delta"}},
		{[]string{"modes=snapshot,delta ; WAIT=60; x=\"1;2\""}, []string{"modes=snapshot,delta ; x=\"1;2\""}},
		{[]string{"a;wait=60", "wait=5"}, []string{"a"}},
		{[]string{`outlook.timezone="Pacific, Standard; Time"`, "wait=5"}, []string{`outlook.timezone="Pacific, Standard; Time"`}},
		{[]string{`outlook.timezone="Pacific, wait=5; wait=6"`}, []string{`outlook.timezone="Pacific, wait=5; wait=6"`}},
	} {
		got := WithoutWait(c.prefer)
		if !slices.Equal(got, c.want) || (got == nil) != (c.want == nil) {
			t.Errorf("%q: got %q; want %q", c.prefer, got, c.want)
		}
	}
	prefer := []string{"return=minimal", `a="wait=5"`}
	if got := WithoutWait(prefer); &got[0] != &prefer[0] {
		t.Error("it is a copy where there is nothing to take")
	}
}

// contract 7.4
func TestCoding(t *testing.T) {
	for field, want := range map[string]string{
		"gzip":                       "gzip",
		"gzip, deflate, br, zstd":    "gzip",
		"X-GZip":                     "gzip",
		"br;q=1.0, gzip;q=0.001, *":  "gzip",
		"gzip ; Q=0.5":               "gzip",
		"*":                          "gzip",
		"*;q=0.1, br":                "gzip",
		"":                           "identity",
		"br, zstd":                   "identity",
		"identity":                   "identity",
		"gzip;q=0":                   "identity",
		"gzip; q=0.000, br":          "identity",
		"*, gzip;q=0":                "identity",
		"gzip;q=0, *":                "identity",
		"*;q=0":                      "identity",
		"gzip;q=-1":                  "identity",
		"gzip;q=":                    "identity",
		"gzipped":                    "identity",
		"gzip;q=0, x-gzip":           "gzip",
		"deflate,gzip;level=1;q=0.0": "identity",
	} {
		if got := Coding(http.Header{"Accept-Encoding": {field}}); got != want {
			t.Errorf("%q: got %s; want %s", field, got, want)
		}
	}
	if got := Coding(nil); got != "identity" {
		t.Errorf("without: got %s", got)
	}
	if got := Coding(http.Header{"Accept-Encoding": {"br", "gzip"}}); got != "gzip" {
		t.Errorf("two fields: got %s", got)
	}
}

// contract 3.1
func TestUpgrades(t *testing.T) {
	for field, want := range map[string]bool{
		"": false, " , ": false, "h2c": false, "H2C": false, "TLS/1.2": false, "TLS/1.3, tls/1.2, h2c": false,
		"websocket": true, "h2c, websocket": true, "WebSocket, TLS/1.2": true, "h2cx": true, "tlsx/1": true,
	} {
		if got := Upgrades(http.Header{"Upgrade": {field}}); got != want {
			t.Errorf("%q: got %v", field, got)
		}
	}
	if Upgrades(nil) || !Upgrades(http.Header{"Upgrade": {"h2c", "websocket"}}) {
		t.Error("want an upgrade of the second field, and none of nothing")
	}
}

// contract 3.7
func TestFromBrowser(t *testing.T) {
	for field, want := range map[string]bool{
		"Sec-Fetch-Site: none": true, "Sec-Fetch-Dest: empty": true, "Sec-Purpose: prefetch": true, "User-Agent: Mozilla/5.0 (X11)": true,
		"Sec-Fetch-Mode: cors": false, "User-Agent: curl/8 Mozilla/5.0": false, "User-Agent: Mozillax": false, "Accept: */*": false,
	} {
		name, value, _ := strings.Cut(field, ": ")
		header := http.Header{name: {value}}
		if got := FromBrowser(header); got != want {
			t.Errorf("%q: got %v", field, got)
		}
		if got := Destination(header); (got == "empty") != (name == "Sec-Fetch-Dest") {
			t.Errorf("%q: got destination %q", field, got)
		}
	}
}

func BenchmarkPersonal(b *testing.B) {
	names := []string{"Accept", "Accept-Encoding", "Authorization", "If-None-Match", "Prefer", "Sec-Fetch-Mode", "User-Agent", "X-Forwarded-For", "X-Tenant"}
	b.ReportAllocs()
	for b.Loop() {
		for _, name := range names {
			Personal(name)
		}
	}
}

func BenchmarkCoding(b *testing.B) {
	header := http.Header{"Accept-Encoding": {"gzip, deflate, br;q=0.8, zstd"}}
	b.ReportAllocs()
	for b.Loop() {
		Coding(header)
	}
}

func BenchmarkWithoutWait(b *testing.B) {
	for name, prefer := range map[string][]string{"only": {"wait=30"}, "none": {"return=minimal"}, "both": {"return=minimal, wait=30"}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				WithoutWait(prefer)
			}
		})
	}
}

func BenchmarkLikeCredentials(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		LikeCredentials("X-Forwarded-Proto")
	}
}
