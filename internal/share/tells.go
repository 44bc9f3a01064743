package share

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// KeyTells reports whether `key` has keys be made of what says on whose behalf a client asks,
// whether the client is compared by that anyway or not.
func (ru *Rules) KeyTells() bool { return slices.ContainsFunc(ru.Values, tellsCredentials) }

// tellsCredentials reports whether a text with placeholders has one of what says on whose
// behalf a client asks.
func tellsCredentials(text string) bool {
	for _, prefix := range []string{"{http.request.cookie.", "{http.auth.", "{http.request.tls.client.", "{cookie.", "{tls_client_"} {
		if strings.Contains(text, prefix) {
			return true
		}
	}
	for _, prefix := range []string{"{http.request.header.", "{header."} {
		for rest := text; ; {
			_, after, found := strings.Cut(rest, prefix)
			if !found {
				break
			}
			name, _, _ := strings.Cut(after, "}")
			if httphdr.LikeCredentials(http.CanonicalHeaderKey(name)) {
				return true
			}
			rest = after
		}
	}
	return false
}

// Tells reports whether v depends on placeholders that say on whose behalf a client asks.
func (v *Variation) Tells() bool {
	return v != nil && slices.ContainsFunc(v.wanted, func(name string) bool { return tellsCredentials("{" + name + "}") })
}

// HasVars reports whether a handler on the way to us has set a variable that is compared.
func (a *Asker) HasVars() bool {
	for name := range a.Vars {
		if CarriesVar(name) {
			return true
		}
	}
	return false
}

// Knows reports whether r says on whose behalf it asks, whether that is compared or not: what
// was set on the way to us may have been made of that.
func Knows(r *http.Request, a *Asker) bool {
	if a.User != "" || r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return true
	}
	for name := range r.Header {
		if httphdr.LikeCredentials(name) {
			return true
		}
	}
	return false
}
