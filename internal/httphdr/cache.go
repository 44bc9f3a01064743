package httphdr

import (
	"net/http"
	"strings"
)

// CacheControl is the directives of Cache-Control (RFC 9111, section 5.2), by name in
// lower case. The value of one without an argument is empty. Of one that is there twice the
// first counts (section 4.2.1).
type CacheControl map[string]string

// Has reports whether there is a directive of that name.
func (c CacheControl) Has(name string) bool { _, ok := c[name]; return ok }

// ReadCacheControl reads the directives of Cache-Control.
func ReadCacheControl(header http.Header) CacheControl {
	c := make(CacheControl)
	for _, field := range header["Cache-Control"] {
		for more := true; more; {
			var directive string
			directive, field, more = next(field, ',')
			name, value, _ := cut(directive, '=')
			if name = strings.ToLower(trim(name)); name != "" && !c.Has(name) {
				c[name] = strings.Trim(trim(value), `"`)
			}
		}
	}
	return c
}

// Revalidate makes sure that no cache between us and the client, its own neither,
// answers a poll without asking (contract 5): what a cache could reuse so gets no-cache,
// no-store and private are kept, and what a shared cache would read instead goes.
func Revalidate(header http.Header) {
	DropShared(header)
	if len(header["Cache-Control"]) == 0 {
		header["Cache-Control"] = []string{"no-cache"}
		return
	}
	c := ReadCacheControl(header)
	if c.Has("no-store") || c.Has("no-cache") && c["no-cache"] == "" {
		return
	}
	// Not with proxy-revalidate: the client's own cache may use what is stale then.
	if c["max-age"] == "0" && c.Has("must-revalidate") && !c.Has("s-maxage") {
		return
	}
	value := "no-cache"
	for _, kept := range []string{"no-transform", "private"} { // which say nothing of reuse by the client
		if c.Has(kept) {
			value = kept + ", " + value
		}
	}
	header["Cache-Control"] = []string{value}
}

// DropShared takes out of an answer what a shared cache would read instead of
// Cache-Control: the targeted fields of RFC 9213, whose names end with -Cache-Control, and
// those of surrogates and servers that came before it.
func DropShared(header http.Header) {
	for name := range header {
		switch name {
		case "Surrogate-Control", "Edge-Control", "X-Accel-Expires":
			delete(header, name)
		default:
			if strings.HasSuffix(name, "-Cache-Control") {
				delete(header, name)
			}
		}
	}
}
