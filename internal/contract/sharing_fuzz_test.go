package contract_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// drawn makes requests and configurations of the bytes of a fuzzer.
type drawn struct{ left []byte }

// n is one of so many numbers; 0 where there are no bytes left.
func (d *drawn) n(of int) int {
	if len(d.left) == 0 {
		return 0
	}
	n := int(d.left[0]) % of
	d.left = d.left[1:]
	return n
}

func draw(d *drawn, of ...string) string { return of[d.n(len(of))] }

// drawnFields are some of each kind.
var drawnFields = []string{
	"Referer", "User-Agent", "Authorization", "Cookie", "X-Tenant", "X-Api-Key", "Origin", "From", "X-Forwarded-Host",
	"Accept-Language", "Sec-Ch-Ua", "Traceparent", "X-Client-Ip",
}

// asker is a request, and what has become of it on its way to us.
type asker struct {
	target, remote, user, tenant, found string
	fields                              [][2]string
	tls                                 bool
}

func (d *drawn) asker() asker {
	a := asker{
		target: draw(d, "/", "/?a=1", "/?a=1&index=1", "/?index=2", "/b"), remote: draw(d, "10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1"),
		user: draw(d, "", "", "alice", "bob"), tenant: draw(d, "", "a", "b"), found: draw(d, "", "", "x", "y"), tls: d.n(4) == 1,
	}
	for range d.n(5) {
		a.fields = append(a.fields, [2]string{draw(d, drawnFields...), draw(d, "1", "2")})
	}
	if d.n(4) == 1 {
		a.fields = append(a.fields, [2]string{"Connection", strings.ToLower(draw(d, drawnFields...))})
	}
	return a
}

// request is a poll that is to be answered at once.
func (a asker) request() *http.Request {
	r := newRequest(http.MethodGet, a.target, "", waits(5))
	r.RemoteAddr = a.remote
	for _, f := range a.fields {
		r.Header.Add(f[0], f[1])
	}
	r.Header.Set("Sec-Test", strings.Join([]string{a.user, a.tenant, a.found}, ",")) // for arrives
	if a.tls {
		r.TLS = &tls.ConnectionState{ServerName: "a.example"}
	}
	return r
}

// arrives is what handlers in front of us do with it.
func arrives(_ http.ResponseWriter, r *http.Request) {
	set := strings.Split(r.Header.Get("Sec-Test"), ",")
	r.Header.Del("Sec-Test")
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if set[0] != "" {
		repl.Set("http.auth.user.id", set[0])
	}
	if set[1] != "" {
		caddyhttp.SetVar(r.Context(), "tenant", set[1])
	}
	if set[2] != "" {
		repl.Set("found", set[2])
	}
}

// behindUs is a backend that says on what its answer depends.
type behindUs struct {
	status int
	uses   []string // request fields, which it names in Vary
	looks  bool     // at the placeholder {found}
	cc     string   // Cache-Control

	mu   sync.Mutex
	seen []*http.Request
}

func (b *behindUs) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	b.mu.Lock()
	b.seen = append(b.seen, r.Clone(r.Context()))
	n := len(b.seen)
	b.mu.Unlock()
	text := r.URL.RequestURI()
	for _, name := range b.uses {
		text += fmt.Sprintf(" %s=%q", name, r.Header[name])
		w.Header().Add("Vary", name)
	}
	if b.looks {
		text += " found=" + r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll("{found}", "nothing")
	}
	if b.cc != "" {
		w.Header().Set("Cache-Control", b.cc)
	}
	return slowly(time.Second, reply(b.status, fmt.Sprint(n, " ", text)))(w, r)
}

// config is a configuration, and what is to be known of it.
type config struct {
	block   string
	public  bool
	with    []string
	without []string
}

func (d *drawn) config() (c config) {
	if d.n(4) == 1 {
		c.public, c.block = true, "public\n"
	}
	for range d.n(3) {
		name := draw(d, append(drawnFields, "client_ip")...)
		if slices.Contains(c.with, name) || slices.Contains(c.without, name) {
			continue
		}
		if d.n(2) == 1 {
			c.with, c.block = append(c.with, name), c.block+"vary "+name+"\n"
		} else {
			c.without, c.block = append(c.without, name), c.block+"vary -"+name+"\n"
		}
	}
	if d.n(2) == 1 {
		c.block += "strip_query index\n"
	}
	return c
}

func (d *drawn) backend() *behindUs {
	status, _ := strconv.Atoi(draw(d, "200", "200", "404", "500"))
	b := &behindUs{status: status, looks: d.n(3) == 1, cc: draw(d, "", "", "private", "max-age=60")}
	for range d.n(3) {
		if name := draw(d, drawnFields...); !slices.Contains(b.uses, name) {
			b.uses = append(b.uses, name)
		}
	}
	return b
}

// told is what a client was told, and by which request to the backend.
type told struct {
	by      int // 0 if that is not said
	text    string
	outcome string
}

// ask has all ask at once, twice, and returns what they were told.
func ask(t *testing.T, c config, b *behindUs, all ...asker) (answers []told) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+c.block)
		s.before = arrives
		s.backend.say(b.ServeHTTP)
		for range 2 {
			var clients []*client
			for _, a := range all {
				clients = append(clients, s.send(a.request()))
				synctest.Wait()
			}
			for _, c := range clients {
				n, text, _ := strings.Cut(c.answer().w.body.String(), " ")
				by, _ := strconv.Atoi(n)
				answers = append(answers, told{by, text, c.outcome()})
			}
			settle(3 * time.Second)
		}
	})(t)
	return answers
}

// inBoth reports what of a check is not in the request of a, by the list of contract
// 7.4, which is written down here once more.
func (c config) notIn(a asker, check *http.Request) (what []string) {
	header := make(http.Header)
	var listed []string
	for _, f := range a.fields {
		if f[0] == "Connection" {
			listed = append(listed, http.CanonicalHeaderKey(f[1]))
		}
		header.Add(f[0], f[1])
	}
	for _, name := range append(listed, "Connection") {
		header.Del(name)
	}
	for name, values := range check.Header {
		switch {
		case slices.Equal(header[name], values):
		case name == "Accept" && values[0] == "*/*", name == "Accept-Encoding" && values[0] == "identity":
		case name == "User-Agent" && strings.HasPrefix(values[0], "long_poll/"):
		default:
			what = append(what, fmt.Sprintf("%s %q", name, values))
		}
	}
	for name, values := range header {
		personal := slices.Contains([]string{"Referer", "User-Agent", "From", "Sec-Ch-Ua", "Traceparent", "X-Client-Ip"}, name)
		credential := slices.Contains([]string{"Authorization", "Cookie", "X-Api-Key"}, name)
		needed := !personal && !(credential && c.public) || slices.Contains(c.with, name)
		if needed && !slices.Contains(c.without, name) && !slices.Equal(check.Header[name], values) {
			what = append(what, fmt.Sprintf("%s %q for %q", name, check.Header[name], values))
		}
	}
	host, _, _ := net.SplitHostPort(a.remote)
	if got, _, _ := net.SplitHostPort(check.RemoteAddr); got != host && got != "192.0.2.1" {
		what = append(what, "address "+check.RemoteAddr)
	} else if slices.Contains(c.with, "client_ip") && got != host {
		what = append(what, "no address")
	}
	if a.tls != (check.TLS != nil) {
		what = append(what, "TLS")
	}
	tenant, _ := caddyhttp.GetVar(check.Context(), "tenant").(string)
	if tenant != a.tenant {
		what = append(what, "tenant "+tenant)
	}
	u, _ := url.Parse(a.target)
	if strings.Contains(c.block, "strip_query") {
		q := strings.Split(u.RawQuery, "&")
		u.RawQuery = strings.Join(slices.DeleteFunc(q, func(p string) bool { return strings.HasPrefix(p, "index=") }), "&")
	}
	if got := check.URL.RequestURI(); got != u.RequestURI() {
		what = append(what, got)
	}
	return what
}

// Whoever shares a check finds in it nothing but what all who share it have, and is told
// what it would be told alone (contract 7.4).
func FuzzRule4Sharing(f *testing.F) {
	for i := range 48 {
		var bytes []byte
		x := uint32(i)*2654435761 + 99
		for range 60 {
			x = x*1664525 + 1013904223
			bytes = append(bytes, byte(x>>24))
		}
		f.Add(bytes[:12], bytes[12:36], bytes[36:])
		f.Add(bytes[:12], bytes[12:36], bytes[12:36])
		f.Add([]byte{}, bytes[12:36], append(slices.Clone(bytes[12:20]), bytes[36:]...))
	}
	f.Fuzz(func(t *testing.T, site, one, other []byte) {
		d := &drawn{site}
		c, b := d.config(), d.backend()
		askers := []asker{(&drawn{one}).asker(), (&drawn{other}).asker()}
		b.seen = nil
		answers := ask(t, c, b, askers[0], askers[1])
		where := fmt.Sprintf("%q, backend %d uses %v, looks %v, %s; %+v and %+v", c.block, b.status, b.uses, b.looks, b.cc, askers[0], askers[1])
		alone := make([][]told, 2)
		for i, a := range askers {
			fresh := &behindUs{status: b.status, uses: b.uses, looks: b.looks, cc: b.cc}
			alone[i] = ask(t, c, fresh, a)
		}
		users := make(map[int][]int) // which askers a check has told
		for i, a := range answers {
			who := i % 2
			if a.by == 0 {
				if b.status != 500 {
					t.Errorf("%s: asker %d was told nothing (%s)", where, who, a.outcome)
				}
				continue
			}
			if a.outcome == "bypassed" {
				continue // its own exchange
			}
			users[a.by] = append(users[a.by], who)
			if what := c.notIn(askers[who], b.seen[a.by-1]); len(what) > 0 && b.status != 500 {
				t.Errorf("%s: the check that told asker %d bears %v", where, who, what)
			}
			if want := alone[who][i/2]; want.by != 0 && want.outcome != "bypassed" && a.text != want.text {
				t.Errorf("%s: asker %d was told %q; alone %q", where, who, a.text, want.text)
			}
		}
		for by, who := range users {
			if slices.Contains(who, 0) && slices.Contains(who, 1) {
				if !c.public && askers[0].user != askers[1].user {
					t.Errorf("%s: check %d was shared by two users", where, by)
				}
				if b.looks && askers[0].found != askers[1].found {
					t.Errorf("%s: check %d was shared, though it has looked at {found}", where, by)
				}
			}
		}
	})
}
