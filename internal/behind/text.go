package behind

import (
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// placeholder is one of Caddy's placeholders in a text.
var placeholder = regexp.MustCompile(`\{([^{}]+)\}`)

// text looks at the placeholders in a text.
func (l *looker) text(s string) {
	for _, found := range placeholder.FindAllStringSubmatch(s, -1) {
		l.placeholder(found[1])
	}
}

// short is how a Caddyfile writes a placeholder of the address.
var short = map[string]string{
	"http.request.remote":      "{remote}",
	"http.request.remote.host": "{remote_host}",
	"http.request.remote.port": "{remote_port}",
	"http.vars.client_ip":      "{client_ip}",
	"vars.client_ip":           "{client_ip}",
	"remote":                   "{remote}",
	"remote_host":              "{remote_host}",
	"remote_port":              "{remote_port}",
	"client_ip":                "{client_ip}",
}

// placeholder looks at a placeholder, which is given without its braces.
func (l *looker) placeholder(name string) {
	if s, ok := short[name]; ok {
		l.address(s)
		return
	}
	if strings.HasPrefix(name, "http.request.remote.") { // a part of the address
		l.address("{" + name + "}")
		return
	}
	if name == "http.request.local" || name == "http.request.local.host" {
		l.looks.Local = true
		return
	}
	if strings.HasPrefix(name, "http.response.header.") {
		l.looks.Answer = true
		return
	}
	for _, prefix := range []string{"http.request.header.", "header.", ">"} {
		if field, ok := strings.CutPrefix(name, prefix); ok {
			l.field(field)
			return
		}
	}
	for _, prefix := range []string{"http.request.cookie.", "cookie."} {
		if strings.HasPrefix(name, prefix) {
			l.field("Cookie")
			return
		}
	}
}

// token is a part of a CEL expression that is looked at: a string, a name that may be
// that of a function, or a mark.
var token = regexp.MustCompile(`(?s)"""(.*?)"""|'''(.*?)'''|"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([A-Za-z_]\w*)|([()\[\]{},:+])`)

// fieldName is the name of a field (RFC 9110, section 5.1).
var fieldName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// part is what a token says: one of these.
type part struct{ text, name, mark string }

// expression looks at the matchers in a CEL expression, and at the placeholders that
// it asks for as ph(req, 'name'); those in braces are found as in any text. A name of
// a placeholder that is put together counts as the address.
func (l *looker) expression(s string) {
	var parts []part
	for _, m := range token.FindAllStringSubmatch(s, -1) {
		parts = append(parts, part{m[1] + m[2] + m[3] + m[4], m[5], m[6]})
	}
	parts = append(parts, make([]part, 6)...) // so that none has to be asked for
	matchers := lookingMatchers()
	for i, p := range parts {
		if p.text == caddyhttp.ClientIPVarKey {
			l.address("vars " + p.text)
		}
		if p.name == "" || parts[i+1].mark != "(" {
			continue
		}
		switch {
		case matchers[p.name]:
			l.address(p.name)
		case p.name == "header", p.name == "header_regexp":
			l.call(parts[i+1:])
		case p.name == "ph":
			if arg := parts[i+3:]; arg[0].mark == "," && arg[1].text != "" && arg[2].mark == ")" {
				l.placeholder(arg[1].text)
			} else {
				l.address("expression")
			}
		}
	}
}

// call notes the fields that a call of a header matcher names, from its opening
// parenthesis on: keys of a map, and arguments but the last, which is a pattern.
func (l *looker) call(parts []part) {
	depth := 0
	for i, p := range parts {
		switch p.mark {
		case "(", "[":
			depth++
		case ")", "]":
			if depth--; depth == 0 {
				return
			}
		}
		if depth != 1 || !fieldName.MatchString(p.text) {
			continue
		}
		before, after := parts[i-1].mark, parts[i+1].mark
		if after == ":" || after == "," && before != ":" {
			l.field(p.text)
		}
	}
}

// lookingMatchers are the matchers that look at the client's address, or may: an
// expression calls them by their names.
func lookingMatchers() map[string]bool {
	look := map[string]bool{"remote_ip": true, "client_ip": true}
	for _, info := range caddy.GetModules("http.matchers") {
		if foreign(info.New()) {
			look[info.ID.Name()] = true
		}
	}
	return look
}
