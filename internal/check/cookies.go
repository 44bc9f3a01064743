package check

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// minSession is how long the value of a cookie is, in bytes, that is taken for the name
// of a session: those who share a check have the same, so that they are one client, maybe
// in several tabs.
const minSession = 16

// renew takes over the sessions that an answer renews: the checks that follow bear what
// it has set, and those who are released get it (contract 5). Other cookies that it sets
// are for nobody.
func (b *Backend) renew(lines []string) {
	before := b.Request
	for _, line := range lines {
		c, err := http.ParseSetCookie(line)
		if err != nil || !b.replaceCookie(c) {
			continue
		}
		// The latest of a name wins. What is kept was published: it is not changed.
		b.renewed = append(slices.DeleteFunc(slices.Clone(b.renewed), func(old string) bool {
			return strings.HasPrefix(old, c.Name+"=")
		}), line)
	}
	if b.Request != before {
		// A poll that comes with the old cookie from now on shares with nobody who is here.
		b.repl = nil
		b.Base = b.c.Share.Key(b.Request, b.Name, &b.asker)
	}
}

// replaceCookie puts the value of c in the place of the one that checks have borne. It
// reports false if they have borne none that names a session.
func (b *Backend) replaceCookie(c *http.Cookie) bool {
	var kept []string
	var session, same bool
	for _, old := range b.Request.Cookies() {
		if old.Name != c.Name {
			kept = append(kept, old.Name+"="+old.Value)
			continue
		}
		session, same = len(old.Value) >= minSession, old.Value == c.Value
		if c.MaxAge >= 0 && c.Value != "" && (c.Expires.IsZero() || c.Expires.After(time.Now())) {
			kept = append(kept, c.Name+"="+c.Value)
		}
	}
	if !session || same {
		return session // only its time is another
	}
	r := *b.Request
	r.Header = b.Request.Header.Clone()
	delete(r.Header, "Cookie")
	if len(kept) > 0 {
		r.Header["Cookie"] = []string{strings.Join(kept, "; ")}
	}
	b.Request = &r
	return true
}
