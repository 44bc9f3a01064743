package share

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// Config is the part of the configuration that decides who shares, as it is written.
type Config struct {
	Public     bool
	Vary       []string
	Key        []string
	StripQuery []string

	UserAgent string   // of checks that are nobody's
	Looks     []string // request fields, canonical, that a matcher or handler behind us looks at
	Seen      bool     // one of these looks at the client's address
	Local     bool     // one of these looks at the address that a request has come to
}

// Rules is what decides who shares (contract 7.4).
type Rules struct {
	Public     bool            // credentials are neither compared nor carried
	With       map[string]bool // request fields, canonical, that are compared and carried although they usually are not
	Without    map[string]bool // and those that are not although they usually are
	Address    Address
	Local      bool     // the address that a request has come to is compared and carried, and not its port alone
	StripQuery []string // query parameters that are neither compared nor carried
	Values     []string // texts with placeholders that are compared
	UserAgent  string   // of checks that are nobody's
	Memory     Memory   // what the backend's answers turned out to depend on
	Splits     Splits   // what tells apart who could share
}

// Address says whether the client's address is compared and carried.
type Address int

const (
	WithCookies Address = iota // where there is a Cookie, with the User-Agent: sessions are bound to them
	Always                     // vary client_ip, and where somebody behind looks at it; the User-Agent with Cookies
	Never                      // vary -client_ip, and public: the User-Agent neither
)

// New makes the rules of a configuration. unsaid reports whether the address is compared
// only because something behind us looks at it, which an operator is to know (contract 2).
func New(c Config) (ru *Rules, unsaid bool) {
	ru = &Rules{
		Public: c.Public, StripQuery: c.StripQuery, Local: c.Local, Values: c.Key, UserAgent: c.UserAgent,
		With: make(map[string]bool), Without: make(map[string]bool),
	}
	said := namesAddress(c.Key)
	if said {
		ru.Address = Always
	} else if c.Public {
		ru.Address = Never
	}
	for _, name := range c.Vary {
		name, without := strings.CutPrefix(name, "-")
		field := http.CanonicalHeaderKey(name)
		switch {
		case strings.EqualFold(name, addressField) && without:
			said, ru.Address = true, Never
		case strings.EqualFold(name, addressField):
			said, ru.Address = true, Always
		case without:
			ru.Without[field] = true
		default:
			ru.With[field] = true
		}
	}
	unsaid = c.Seen && !said
	if unsaid {
		ru.Address = Always
	}
	for _, name := range c.Looks {
		switch {
		case !httphdr.Personal(name), ru.Without[name]: // the others are compared anyway
		case name == "X-Forwarded-For" && ru.Address == Never: // the address that it tells is not
		default:
			ru.With[name] = true
		}
	}
	return ru, unsaid
}

// namesAddress reports whether one of the texts has a placeholder of the client's
// address.
func namesAddress(texts []string) bool {
	return slices.ContainsFunc(texts, func(text string) bool {
		for _, name := range []string{"{http.vars.client_ip}", "{client_ip}", "{http.request.remote", "{remote_host}", "{remote}"} {
			if strings.Contains(text, name) {
				return true
			}
		}
		return false
	})
}

// Nobody is the address that a check comes from where the client's is not compared:
// one for documentation (RFC 5737), since without one reverse_proxy leaves
// X-Forwarded-* out, proxy_protocol fails, and matchers of addresses log errors.
const Nobody = "192.0.2.1"
