package ops

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strings"
)

// page is self-contained: it asks nobody but the admin endpoint.
//
//go:embed page.html
var page string

// pagePolicy lets the page run its own script and style, which it knows by their
// hashes, and talk to the admin endpoint; nothing else.
var pagePolicy = strings.Join([]string{
	"default-src 'none'",
	"script-src " + sourceHash(page, "<script>", "</script>"),
	"style-src " + sourceHash(page, "<style>", "</style>"),
	"img-src data:",
	"connect-src 'self'",
	"base-uri 'none'",
	"form-action 'none'",
	"frame-ancestors 'none'",
}, "; ")

// sourceHash is the hash of what stands between two tags (CSP level 3, section 2.3.1).
func sourceHash(html, begin, end string) string {
	_, text, _ := strings.Cut(html, begin)
	text, _, _ = strings.Cut(text, end)
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// servePage answers a browser, and every path below /long_poll/ that is not known.
func (a *adminAPI) servePage(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Path != "/long_poll/" {
		return apiError(http.StatusNotFound, "unknown path %q: expected /long_poll/, /long_poll/live, /long_poll/stats, /long_poll/resources or /long_poll/wake", shownPath(r.URL.Path))
	}
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", pagePolicy)
	header.Set("X-Content-Type-Options", "nosniff")
	// Caddy tells by the Referer that the page's requests are its own.
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Cache-Control", "no-cache")
	_, _ = w.Write([]byte(page)) // whoever is gone needs no error
	return nil
}
