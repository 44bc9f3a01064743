package httphdr

import (
	"net/http"
	"net/url"
	"strings"
)

// Coding is the content coding that a check asks for on behalf of a client (contract
// 7.4): gzip where its Accept-Encoding takes that, else identity. What is malformed takes
// nothing, since identity is fit for all.
func Coding(header http.Header) string {
	named, refused, any := false, false, false
	for _, list := range header["Accept-Encoding"] {
		for more := true; more; {
			var element string
			element, list, more = cut(list, ',')
			name, parameters, _ := cut(element, ';')
			switch name = trim(name); {
			case strings.EqualFold(name, "gzip"), strings.EqualFold(name, "x-gzip"):
				if acceptable(parameters) {
					named = true
				} else {
					refused = true
				}
			case name == "*":
				any = any || acceptable(parameters)
			}
		}
	}
	if named || any && !refused {
		return "gzip"
	}
	return "identity"
}

// acceptable reports whether the quality among parameters is above 0 (RFC 9110, section
// 12.4.2). It is 1 where nothing says so.
func acceptable(parameters string) bool {
	for more := parameters != ""; more; {
		var parameter string
		parameter, parameters, more = cut(parameters, ';')
		if !isNamed(parameter, "q") {
			continue
		}
		_, quality, _ := cut(parameter, '=')
		quality = trim(quality)
		return strings.Trim(quality, "0123456789.") == "" && strings.ContainsAny(quality, "123456789")
	}
	return true
}

// Upgrades reports whether a request asks for another protocol for good (contract 3.1).
// h2c and TLS/... are offers that a server may ignore, which some clients make with every
// request.
func Upgrades(header http.Header) bool {
	for _, list := range header["Upgrade"] {
		for more := true; more; {
			var protocol string
			protocol, list, more = cut(list, ',')
			protocol = trim(protocol)
			if name, _, _ := cut(protocol, '/'); protocol != "" && !strings.EqualFold(protocol, "h2c") && !strings.EqualFold(name, "TLS") {
				return true
			}
		}
	}
	return false
}

// FromBrowser reports whether a request comes from a browser, whose cache sends
// preconditions by itself (contract 3.7). Sec-Fetch-Mode alone is Node's.
func FromBrowser(header http.Header) bool {
	if len(header["Sec-Fetch-Site"]) > 0 || len(header["Sec-Fetch-Dest"]) > 0 || len(header["Sec-Purpose"]) > 0 {
		return true
	}
	agent := header["User-Agent"]
	return len(agent) > 0 && strings.HasPrefix(agent[0], "Mozilla/")
}

// CheckAgent is what the User-Agent of checks begins with, unless they carry that of their
// clients. The version follows.
const CheckAgent = "long_poll/"

// FromCheck reports whether a request is a check of another Caddy, in front of this one.
func FromCheck(header http.Header) bool {
	agent := header["User-Agent"]
	return len(agent) > 0 && strings.HasPrefix(agent[0], CheckAgent)
}

// Destination is what a browser asks for (document, script, image; empty is fetch);
// the empty text if it does not say. Over plain HTTP it does not, but for pages.
func Destination(header http.Header) string {
	if values := header["Sec-Fetch-Dest"]; len(values) > 0 {
		return trim(values[0])
	}
	accept := header["Accept"]
	if len(header["Upgrade-Insecure-Requests"]) > 0 && len(accept) > 0 && strings.HasPrefix(accept[0], "text/html") {
		return "document" // a navigation bears both, and nothing else does
	}
	return ""
}

// FromAnotherOrigin reports whether r is a page's of another host, or of one that does not
// say which: a browser lets such a page read what the answer lets it (RFC 6454, section 7).
func FromAnotherOrigin(r *http.Request) bool {
	origin := r.Header["Origin"]
	if len(origin) == 0 {
		return false
	}
	u, err := url.Parse(origin[0])
	return err != nil || !strings.EqualFold(u.Host, r.Host)
}
