package share

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// BenchmarkKey is the key of a request like that of a browser.
func BenchmarkKey(b *testing.B) {
	ru := new(Rules)
	r := httptest.NewRequest(http.MethodGet, "http://example.com/orders/42?page=1&index=7", nil)
	for name, value := range map[string]string{
		"If-None-Match": `"v7"`, "Accept": "application/json", "Accept-Encoding": "gzip, deflate, br, zstd", "Accept-Language": "en,de;q=0.7",
		"Authorization": "Bearer abc", "Cookie": "session=abc", "User-Agent": "Mozilla/5.0", "Sec-Fetch-Mode": "cors", "Referer": "http://example.com/",
	} {
		r.Header.Set(name, value)
	}
	name := lot.Name{Method: r.Method, Host: r.Host, Path: r.URL.Path}
	b.ReportAllocs()
	for b.Loop() {
		ru.Key(r, name, &Asker{})
	}
}
