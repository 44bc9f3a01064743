package contract_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/zapcore"
)

// What people who put a long poll in front of a real backend, or a real client in front
// of one, have reported: each a small input and the right value.

// An offer that a server may ignore is no other protocol: the JDK's HttpClient and curl
// --http2 make the one, Apache's HttpClient the other with every request.
func TestOffersOfAnotherProtocol(t *testing.T) {
	for _, test := range []struct {
		fields []string
		parks  bool
	}{
		{[]string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB"}, true},
		{[]string{"Connection: Upgrade", "Upgrade: TLS/1.2"}, true},
		{[]string{"Connection: Upgrade", "Upgrade: TLS/1.3, TLS/1.2"}, true},
		{[]string{"Connection: upgrade", "Upgrade: H2C"}, true},
		{[]string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"}, false},
		{[]string{"Connection: Upgrade", "Upgrade: h2c, websocket"}, false},
		{[]string{"Connection: Upgrade", "Upgrade: h2c", "Upgrade: SPDY/3.1"}, false},
	} {
		t.Run(fmt.Sprint(test.fields), virtual(func(t *testing.T) {
			s := newSite(t, steady)
			c := s.get("/", append(test.fields, has("1"))...)
			if !test.parks {
				c.wants("304 bypassed")
				return
			}
			c.mustWait()
			s.backend.say(tagged("2"))
			c.wants("200 changed state 2")
			for _, e := range s.backend.exchanges() {
				for _, name := range []string{"Upgrade", "Http2-Settings", "Connection"} {
					if e.header.Get(name) != "" {
						t.Errorf("a check bears %s: %s", name, e.header.Get(name))
					}
				}
			}
		}))
	}

	t.Run("with and without it one check", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.get("/", has("1"), "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB").mustWait()
		s.get("/", has("1")).mustWait()
		if n := s.backend.checks(); n != 1 {
			t.Errorf("got %d checks; want 1", n)
		}
	}))
}

// A change is delivered whatever the body turns out to be: a version that is empty
// gives way to the ETag or the hash.
func TestEmptyVersion(t *testing.T) {
	const warning = "version is empty: the ETag or a hash takes its place"
	for name, test := range map[string]struct {
		version, was, is string
		warns            bool
	}{
		"a byte order mark":           {"{lp.json.revision}", "\xef\xbb\xbf" + `{"revision":1}`, "\xef\xbb\xbf" + `{"revision":2}`, false},
		"a bare NaN":                  {"{lp.json.revision}", `{"revision":1,"mean":NaN}`, `{"revision":2,"mean":NaN}`, true},
		"a prefix against hijacking":  {"{lp.json.revision}", ")]}'\n" + `{"revision":1}`, ")]}'\n" + `{"revision":2}`, true},
		"JSONP":                       {"{lp.json.revision}", `f({"revision":1})`, `f({"revision":2})`, true},
		"no such member":              {"{lp.json.revision}", `{"rev":1}`, `{"rev":2}`, true},
		"two members that are none":   {"{lp.json.a}-{lp.json.b}", `{"rev":1}`, `{"rev":2}`, true},
		"none of two, and a name":     {"{http.request.uri.path}@{lp.json.b}", `{"rev":1}`, `{"rev":2}`, true},
		"one of two":                  {"{lp.json.a}-{lp.json.b}", `{"a":1,"c":1}`, `{"a":2,"c":2}`, false},
		"no such field of the header": {"{lp.header.X-Revision}", "1", "2", true},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"version "+test.version)
			s.backend.say(reply(200, test.was))
			etag := s.get("/", "Prefer: wait=5").field("ETag")
			if etag == "" {
				t.Fatal("there is no ETag")
			}
			if own := s.get("/").field("ETag"); own != etag {
				t.Errorf("an ordinary request gets the ETag %s, a poll %s", own, etag)
			}
			for range 2 {
				c := s.get("/", "If-None-Match: "+etag)
				c.mustWait()
				s.backend.say(reply(200, test.is))
				c.wants("200 changed " + test.is)
				etag = c.field("ETag")
				test.is, test.was = test.was, test.is
			}
			if n := s.logs.FilterMessage(warning).Len(); (n == 1) != test.warns || n > 1 {
				t.Errorf("got %d warnings", n)
			}
		}))
	}

	t.Run("an error page has no version", virtual(func(t *testing.T) {
		s := newSite(t, steady+"version {lp.json.revision}")
		for _, status := range []int{404, 401, 503} {
			s.backend.say(reply(status, "<html>"))
			s.get("/", "Prefer: wait=0").answer()
		}
		if n := s.logs.FilterMessage(warning).Len(); n > 0 {
			t.Error("it warns of the version of an error page")
		}
		s.backend.say(reply(200, "<html>"))
		s.get("/b", "Prefer: wait=0").wants("200 answered")
		if n := s.logs.FilterMessage(warning).Len(); n != 1 {
			t.Errorf("got %d warnings; want one of what can hold", n)
		}
	}))

	t.Run("the ETag takes its place", virtual(func(t *testing.T) {
		s := newSite(t, steady+"since {query.v}\nstrip_query v\nversion {lp.json.revision}\nheader X-Version {lp.version}")
		s.backend.say(tagged("1"))
		v := s.get("/", "Prefer: wait=5").field("X-Version")
		c := s.get("/?v=" + v)
		c.mustWait()
		s.backend.say(tagged("2"))
		c.wants("200 changed state 2").wantsField("X-Version", `"2"`)
	}))
}

// What does not parse is not held: a hold_while that would be true of what is missing
// knows nothing of it.
func TestHoldWhileOfNoJSON(t *testing.T) {
	for _, condition := range []string{
		"{lp.json.events} empty", "{lp.json.status} not done failed",
		"{lp.json.index} below 8", "{lp.json.index} above 8",
	} {
		for _, body := range []string{")]}'\n{}", "f({})", `{"mean":NaN}`, "<html>", ""} {
			t.Run(condition+" of "+body, virtual(func(t *testing.T) {
				s := newSite(t, steady+"hold_while "+condition)
				s.backend.say(reply(200, body))
				s.get("/").wants("200 answered "+body).within(0, 0)
			}))
		}
	}

	t.Run("a byte order mark", virtual(func(t *testing.T) {
		s := newSite(t, steady+"hold_while {lp.json.events} empty")
		s.backend.say(reply(200, "\xef\xbb\xbf"+`{"events":[]}`))
		c := s.get("/")
		c.mustWait()
		s.backend.say(reply(200, "\xef\xbb\xbf"+`{"events":[1]}`))
		c.wants("200 changed")
	}))
}

// A 304 bears the fields of the answer that it stands for: a page of another origin may
// not read it without those of CORS, and clients are told of their limits by others.
func TestFieldsOf304(t *testing.T) {
	fields := []string{
		"Access-Control-Allow-Origin: *", "Access-Control-Expose-Headers: ETag, Long-Poll", "Access-Control-Allow-Credentials: true",
		"Vary: Origin", "X-RateLimit-Remaining: 7", "Link: </next>; rel=next", "Content-Location: /1",
	}
	bare := []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Language", "Set-Cookie"}
	wants := func(t *testing.T, c *client) {
		t.Helper()
		for _, f := range fields {
			name, value, _ := strings.Cut(f, ": ")
			c.wantsField(name, value)
		}
		for _, name := range bare {
			c.wantsField(name, "")
		}
	}
	said := append([]string{"Content-Type: text/html", "Content-Language: en", "Set-Cookie: a=b"}, fields...)
	for name, says := range map[string]caddyhttp.HandlerFunc{
		"a backend with ETags":    tagged("1", said...),
		"a backend without ETags": reply(200, "state 1", said...),
		"a 304 of the backend that says less": func(w http.ResponseWriter, r *http.Request) error {
			if r.Header.Get("If-None-Match") != "" {
				return reply(304, "", `ETag: "1"`)(w, r)
			}
			return tagged("1", said...)(w, r)
		},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(says)
			etag := s.get("/", "Origin: http://a.example", "Prefer: wait=5").field("ETag")
			tag := "If-None-Match: " + etag
			wants(t, s.get("/", "Origin: http://a.example", tag).wants("304 expired").wantsField("ETag", etag))
			wants(t, s.get("/", "Origin: http://a.example", tag, "Prefer: wait=0").wants("304 answered"))
			c := s.get("/", "Origin: http://a.example", tag)
			c.mustWait()
			s.drain()
			wants(t, c.wants("304 drained"))
		}))
	}

	t.Run("a pause is that of the latest answer", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("1", "X-Poll-Interval: 3"))
		s.get("/", has("1")).wants("304 expired").wantsField("X-Poll-Interval", "3")
		s.backend.say(tagged("1"))
		s.get("/", has("1")).wants("304 expired").wantsField("X-Poll-Interval", "")
	}))

	t.Run("a cache that revalidates", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(reply(200, "state 1", said[:2]...))
		etag := s.get("/").field("ETag")
		s.get("/", "Sec-Fetch-Site: cross-site", "If-None-Match: "+etag).wants("304 answered").
			wantsField("Content-Type", "").wantsField("ETag", etag)
		s.backend.say(reply(200, "state 1", said...))
		wants := s.get("/", "Sec-Fetch-Site: cross-site", "If-None-Match: "+etag)
		wants.wantsField("Access-Control-Allow-Origin", "*").wantsField("Vary", "Origin").wantsField("X-RateLimit-Remaining", "7")
	}))
}

// Only the preference wait is ours: the backend sees the rest of Prefer, and who prefers
// something else gets something else.
func TestPreferences(t *testing.T) {
	// A backend that counts, or not, or answers in another time zone.
	says := func(w http.ResponseWriter, r *http.Request) error {
		prefer := strings.Join(r.Header.Values("Prefer"), " + ")
		fields := []string{"Vary: Prefer"}
		if strings.Contains(prefer, "count=exact") {
			fields = append(fields, "Preference-Applied: count=exact")
		}
		return reply(200, "for "+prefer, fields...)(w, r)
	}
	for _, test := range []struct{ prefer, sent string }{
		{"count=exact", "count=exact"},
		{"count=exact, wait=5", "count=exact"},
		{"wait=5, count=exact", "count=exact"},
		{"wait=5; x=y, count=exact", "count=exact"},
		{`outlook.timezone="Pacific Standard Time, wait=3", wait=5`, `outlook.timezone="Pacific Standard Time, wait=3"`},
		{"respond-async, wait=5", "respond-async"},
		{"modes=snapshot,delta;wait=5", "modes=snapshot,delta"},
		{"wait=5", ""},
		{"", ""},
	} {
		t.Run(test.prefer, virtual(func(t *testing.T) {
			s := newSite(t, steady+"freshness 1ms") // so that what does not wait is a check too
			s.backend.say(says)
			var fields []string
			if test.prefer != "" {
				fields = append(fields, "Prefer: "+test.prefer)
			}
			c := s.get("/", fields...).wants("200 answered for " + test.sent)
			waits := strings.HasPrefix(test.prefer, "wait=5") || strings.HasSuffix(test.prefer, "wait=5")
			var applied []string
			if strings.Contains(test.prefer, "count=exact") {
				applied = append(applied, "count=exact")
			}
			if waits {
				applied = append(applied, "wait=5")
			}
			if got := strings.ReplaceAll(c.field("Preference-Applied"), " | ", ", "); got != strings.Join(applied, ", ") {
				t.Errorf("got Preference-Applied %q; want %q", got, applied)
			}
			limit := 25 * time.Second
			if waits {
				limit = 5 * time.Second
			}
			s.get("/", append(fields, "If-None-Match: "+c.field("ETag"))...).wants("304 expired").within(limit, limit)
			if got := s.backend.last().header.Get("Prefer"); got != test.sent {
				t.Errorf("a check bears Prefer: %q; want %q", got, test.sent)
			}
		}))
	}

	t.Run("an ordinary request's are its own", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(says)
		s.get("/", "Prefer: count=exact").wants("200 answered for count=exact").wantsField("Preference-Applied", "count=exact")
		s.get("/", "Prefer: return=minimal", "Prefer: count=exact").wants("200 answered for return=minimal + count=exact")
	}))

	t.Run("who prefers another thing waits for another", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(says)
		for _, prefer := range []string{"wait=9, count=exact", "wait=8, count=planned", "wait=7"} {
			etag := s.get("/", "Prefer: "+prefer).field("ETag")
			s.get("/", "Prefer: "+prefer, "If-None-Match: "+etag).mustWait()
			s.get("/", "Prefer: "+strings.Replace(prefer, "wait=", "wait=1", 1), "If-None-Match: "+etag).mustWait()
		}
		settle(2500 * time.Millisecond)
		perSecond := make(map[string]int)
		for _, e := range s.backend.exchanges() {
			perSecond[e.header.Get("Prefer")]++
		}
		if len(perSecond) != 3 || perSecond["count=exact"] > 4 {
			t.Errorf("got checks %v; want one an interval for each preference", perSecond)
		}
	}))
}

// Open Policy Agent's downloader waits by a parameter of another preference, names
// bundles that it has had by a list, and goes on only where the Content-Type says so.
func TestWaitAsAParameter(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "hold 30s 0%")
		s.backend.say(tagged("1", "Content-Type: application/vnd.openpolicyagent.bundles"))
		const prefer = "Prefer: modes=snapshot,delta;wait=5"
		s.get("/bundle.tar.gz", prefer).wants("200 answered state 1").
			wantsField("Content-Type", "application/vnd.openpolicyagent.bundles").wantsField("Preference-Applied", "wait=5")
		s.get("/bundle.tar.gz", prefer, `If-None-Match: "1", "0"`).wants("304 expired").within(5*time.Second, 5*time.Second).
			wantsField("ETag", `"1"`)
		c := s.get("/bundle.tar.gz", prefer, `If-None-Match: "1", "0"`)
		settle(time.Second)
		s.backend.say(tagged("2", "Content-Type: application/vnd.openpolicyagent.bundles"))
		c.wants("200 changed state 2").wantsField("Content-Type", "application/vnd.openpolicyagent.bundles")
	})(t)
}

// A front end between the client and us compresses, and adds the coding to the tag.
func TestTagOfACoding(t *testing.T) {
	for _, tag := range []string{`"1-gzip"`, `"1-br"`, `W/"1-zstd"`, `"0", "1-gzip"`, `"1--gzip"`, `"1;gzip"`} {
		t.Run(tag, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			c := s.get("/", "If-None-Match: "+tag)
			c.mustWait()
			s.backend.say(tagged("2"))
			c.wants("200 changed state 2")
			s.backend.say(reply(200, "none"))
			etag := s.get("/", "Prefer: wait=1").field("ETag")
			s.get("/", "If-None-Match: "+strings.TrimSuffix(etag, `"`)+`-gzip"`).mustWait()
		}))
	}
	t.Run("of another version", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.get("/", `If-None-Match: "0-gzip"`).wants("200 answered state 1").within(0, 0)
	}))
	t.Run("a revalidation", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(reply(200, "none"))
		etag := s.get("/").field("ETag")
		s.get("/", "Sec-Fetch-Site: same-origin", "If-None-Match: "+strings.TrimSuffix(etag, `"`)+`-br"`).wants("304 answered")
	}))
}

// etcd's clients wait for an index that is not there yet.
func TestIndexThatIsAwaited(t *testing.T) {
	node := func(index any) caddyhttp.HandlerFunc {
		return reply(200, fmt.Sprintf(`{"node":{"modifiedIndex":%v}}`, index), fmt.Sprintf("X-Etcd-Index: %v", index))
	}
	const block = steady + "hold_while {lp.json.node.modifiedIndex} below {query.waitIndex}\nstrip_query wait waitIndex"
	t.Run("below", virtual(func(t *testing.T) {
		s := newSite(t, block)
		s.backend.say(node(7))
		s.get("/v2/keys/a").wants("200 answered").within(0, 0).wantsField("X-Etcd-Index", "7")
		c, late := s.get("/v2/keys/a?wait=true&waitIndex=8"), s.get("/v2/keys/a?wait=true&waitIndex=10")
		s.get("/v2/keys/a?wait=true&waitIndex=7").wants("200 answered").within(0, 0)
		c.mustWait()
		settle(3 * time.Second)
		if n := s.backend.checks(); n > 6 {
			t.Errorf("got %d checks in three seconds; want one per interval", n)
		}
		s.backend.say(node(9)) // by order, and not by equality
		c.wants(`200 changed {"node":{"modifiedIndex":9}}`)
		late.wants("200 expired").within(25*time.Second, 25*time.Second)
	}))
	for _, test := range []struct {
		op, has, asked string
		holds          bool
	}{
		{"below", "9007199254740992", "9007199254740993", true}, // beyond what a float64 tells apart
		{"below", "9007199254740993", "9007199254740992", false},
		{"below", "18446744073709551615", "18446744073709551616", true},
		{"below", "9", "10", true}, // not as texts
		{"below", "10", "9", false},
		{"below", "7", "7", false},
		{"below", "0.1", "0.10000000000000000001", true},
		{"above", "0.10000000000000000001", "0.1", true},
		{"below", "1.0", "1", false},
		{"below", "-2", "-1", true},
		{"above", "-1", "-2", true},
		{"above", "8", "7", true},
		{"above", "7", "7", false},
		{"below", "7", "", false},
		{"below", "7", "eight", false},
		{"below", "7", "8x", false},
		{"below", "7", "0x10", false},
		{"below", "7", "1/2", false},
		{"below", "7", "1e3", false},
		{"below", `"7"`, "8", true}, // a number in a string is one
		{"below", "null", "8", false},
		{"below", `"x"`, "8", false},
		{"above", "true", "0", false},
	} {
		t.Run(strings.Join([]string{test.has, test.op, test.asked}, " "), virtual(func(t *testing.T) {
			s := newSite(t, strings.Replace(block, "below", test.op, 1))
			s.backend.say(node(test.has))
			c := s.get("/?waitIndex=" + test.asked)
			if c.waits() != test.holds {
				t.Errorf("got %v; want it to wait: %v", c, test.holds)
			}
		}))
	}
}

// A challenge that says that the nonce is stale speaks of the nonce: those who wait are
// not told that what they have is gone, but come back with another.
func TestStaleNonceIsNoNews(t *testing.T) {
	challenge := func(w http.ResponseWriter, r *http.Request) error {
		return reply(401, "denied", `WWW-Authenticate: Digest realm="a, b", stale=TRUE, nonce="n2", qop="auth"`)(w, r)
	}
	// Each count of a nonce is good for one request.
	once := func() caddyhttp.HandlerFunc {
		seen := make(map[string]bool)
		return func(w http.ResponseWriter, r *http.Request) error {
			a := r.Header.Get("Authorization")
			switch {
			case a == "":
				return reply(401, "who?", `WWW-Authenticate: Digest realm="a", nonce="n1", qop="auth"`)(w, r)
			case seen[a]:
				return challenge(w, r)
			}
			seen[a] = true
			return tagged("1")(w, r)
		}
	}
	t.Run("releases like a time-out", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(once())
		s.get("/", has("1")).wants("401 answered who?").wantsField("WWW-Authenticate", `Digest realm="a", nonce="n1", qop="auth"`)
		for count := range 3 {
			s.get("/", has("1"), fmt.Sprintf(`Authorization: Digest username="u", nonce="n1", nc=%08x`, count)).
				wants("304 expired").within(time.Second, 1100*time.Millisecond).wantsField("WWW-Authenticate", "")
		}
		s.wantsTold(t, nil)
	}))
	t.Run("is seen by who has just asked", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(challenge)
		s.get("/", has("1"), "Authorization: Digest nonce=n1").wants("401 answered denied").within(0, 0)
	}))
	t.Run("a denial is a change", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		c := s.get("/", has("1"), "Authorization: Digest nonce=n1")
		c.mustWait()
		s.backend.say(reply(401, "denied", `WWW-Authenticate: Digest realm="stale=true", stale=false, nonce="n2"`))
		c.wants("401 changed denied")
	}))
}

// What is no change in texts that are no JSON.
func TestNoiseInTexts(t *testing.T) {
	zipped := func(text string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		io.WriteString(z, text)
		z.Close()
		return b.String()
	}
	for name, test := range map[string]struct{ expression, was, noise, news string }{
		"RSS":                 {"<lastBuildDate>[^<]*</lastBuildDate>", "<lastBuildDate>1</lastBuildDate><item/>", "<lastBuildDate>2</lastBuildDate><item/>", "<lastBuildDate>2</lastBuildDate><item/><item/>"},
		"a token in HTML":     {`name="csrf" value="[^"]*"`, `<input name="csrf" value="a"><p>1`, `<input name="csrf" value="b"><p>1`, `<input name="csrf" value="b"><p>2`},
		"the time in CSV":     {`(?m)^#.*$`, "# 12:00\na,1\n", "# 12:01\na,1\n", "# 12:01\na,2\n"},
		"JSON that is broken": {`"mean":NaN`, `{"mean":NaN,"a":1}`, `{"a":1,"mean":NaN}`, `{"mean":NaN,"a":2}`},
	} {
		if name == "JSON that is broken" {
			test.noise = test.was
		}
		for _, coding := range []string{"", "gzip"} {
			t.Run(name+" "+coding, virtual(func(t *testing.T) {
				say := func(text string, fields ...string) caddyhttp.HandlerFunc {
					if coding != "" {
						return reply(200, zipped(text), append(fields, "Content-Encoding: gzip")...)
					}
					return reply(200, text, fields...)
				}
				s := newSite(t, steady+"ignore_match `"+test.expression+"`")
				s.backend.say(say(test.was, `ETag: "a"`))
				c := s.get("/", "Accept-Encoding: gzip", "Prefer: wait=9")
				etag := c.wants("200 answered").field("ETag")
				if own := s.get("/", "Accept-Encoding: gzip").field("ETag"); own != etag || etag == `"a"` {
					t.Errorf("an ordinary request gets the ETag %s, a poll %s", own, etag)
				}
				c = s.get("/", "Accept-Encoding: gzip", "If-None-Match: "+etag)
				settle(1500 * time.Millisecond)
				s.backend.say(say(test.noise, `ETag: "b"`))
				settle(3 * time.Second)
				c.mustWait()
				s.backend.say(say(test.news, `ETag: "c"`))
				if c.wants("200 changed"); !strings.HasSuffix(c.w.body.String(), test.news) && coding == "" {
					t.Errorf("got %q", c.w.body.String())
				}
			}))
		}
	}
}

// An expression that matches all there is makes all bodies equal: an operator is told,
// once, where the backend's own ETag says otherwise three times in a row.
func TestNoiseThatIsAll(t *testing.T) {
	const warning = "the backend's ETag changes, and the hash does not: does ignore_match match more than it should?"
	said := func(s *site) int { return s.logs.FilterMessage(warning).FilterField(pathField("/feed")).Len() }
	t.Run("three in a row", virtual(func(t *testing.T) {
		s := newSite(t, steady+"ignore_match `.*`")
		s.get("/feed", "Prefer: wait=9").answer()
		etag := s.get("/feed", "Prefer: wait=9").field("ETag")
		for i := range 8 {
			if got, want := said(s), min(max(i-2, 0), 1); got != want {
				t.Errorf("after %d changes: got %d warnings; want %d", i, got, want)
			}
			s.backend.say(tagged(fmt.Sprint("v", i)))
			c := s.get("/feed", "If-None-Match: "+etag, "Prefer: wait=3").wants("304 expired")
			etag = c.field("ETag")
		}
	}))
	t.Run("not in a row", virtual(func(t *testing.T) {
		s := newSite(t, steady+"ignore_match `[0-9]`")
		for i := range 12 {
			body := fmt.Sprint("state ", i)
			if i%3 == 0 {
				body += strings.Repeat(" more", i)
			}
			s.backend.say(reply(200, body, fmt.Sprintf(`ETag: "%d"`, i)))
			s.get("/feed", "Prefer: wait=9").answer()
		}
		if said(s) > 0 {
			t.Error("it warns of two in a row")
		}
	}))
	t.Run("no expression", virtual(func(t *testing.T) {
		s := newSite(t, steady+"ignore at")
		for i := range 12 {
			s.backend.say(reply(200, fmt.Sprintf(`{"at":%d}`, i), fmt.Sprintf(`ETag: "%d"`, i)))
			s.get("/feed", "Prefer: wait=9").answer()
		}
		if said(s) > 0 {
			t.Error("it warns of ignore")
		}
	}))
}

func pathField(path string) zapcore.Field {
	return zapcore.Field{Key: "path", Type: zapcore.StringType, String: path}
}

// Two workers of one name that ask for a job are two, where the operator says so: by
// their requests alone nobody could know.
func TestJobLeases(t *testing.T) {
	lease := func() caddyhttp.HandlerFunc {
		jobs := 0
		return func(w http.ResponseWriter, r *http.Request) error {
			jobs++
			return reply(200, fmt.Sprintf(`{"job":%d}`, jobs))(w, r)
		}
	}
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"methods POST\nhold_while {lp.json.job} empty\nkey {http.request.uuid}")
		s.backend.say(reply(200, `{"job":null}`))
		var workers []*client
		for range 4 {
			workers = append(workers, s.post("/jobs/request", `{"token":"t"}`))
		}
		for _, w := range workers {
			w.mustWait()
		}
		s.backend.say(lease())
		got := make(map[string]bool)
		for _, w := range workers {
			got[w.wants("200 changed").w.body.String()] = true
		}
		if len(got) != len(workers) {
			t.Errorf("%d workers got %d jobs", len(workers), len(got))
		}
	})(t)
}

// Clients that give up by themselves, and say nothing of it, are answered before they do.
func TestClientsThatGiveUp(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "hold 8s") // for those that give up after 10 s
		for range 20 {
			s.get("/", has("1")).wants("304 expired").within(7200*time.Millisecond, 8*time.Second)
		}
	})(t)
}

// A placeholder that nothing resolves is told when the site is made, and how to write it.
func TestPlaceholdersThatNothingResolves(t *testing.T) {
	for block, want := range map[string]string{
		"since {query.$deltatoken}":                            "{http.request.uri.query.$deltatoken}",
		"wait {query.wait[s]}":                                 "{http.request.uri.query.wait[s]}",
		"key {header.X.Y}":                                     "{http.request.header.X.Y}",
		"hold_while {lp.json.index} below {query.$index}":      "{http.request.uri.query.$index}",
		"version {lp.json.revision}":                           "",
		"since {http.request.uri.query.$deltatoken}":           "",
		"since {query.delta_token}\nkey {cookie.sid} {path.0}": "",
	} {
		t.Run(block, virtual(func(t *testing.T) {
			s := newSite(t, block)
			var told []string
			for _, entry := range s.logs.FilterMessage("placeholders that nothing resolves").All() {
				told = append(told, fmt.Sprint(entry.ContextMap()["placeholders"]))
			}
			switch {
			case want == "" && len(told) > 0, want != "" && (len(told) != 1 || !strings.Contains(told[0], want)):
				t.Errorf("got warnings %q; want one that names %q", told, want)
			}
		}))
	}
	t.Run("the long name works", virtual(func(t *testing.T) {
		s := newSite(t, steady+"since {http.request.uri.query.$deltatoken}\nstrip_query $deltatoken\nversion {lp.json.token}")
		s.backend.say(reply(200, `{"token":"a"}`))
		c := s.get("/?$deltatoken=a")
		c.mustWait()
		s.backend.say(reply(200, `{"token":"b"}`))
		c.wants(`200 changed {"token":"b"}`)
	}))
}

// A value whose braces were forgotten is told when the site is made: such a version would
// never change.
func TestValuesThatAreAlwaysTheSame(t *testing.T) {
	for block, want := range map[string]string{
		"version lp.json.revision":                                     "[version]",
		"since query.index\nversion {lp.json.index}":                   "[since]",
		"key query.consumer":                                           "[key]",
		"hold_while lp.json.status is queued":                          "[hold_while]",
		"hold_while {lp.json.a} empty\nhold_while lp.json.b below {b}": "[hold_while]",
		"version x\nkey y z":                                           "[key version]",
		"version rev-{lp.json.revision}\nkey queue {query.consumer}":   "",
		"hold_while {lp.status} is 404":                                "",
		"wait 20\nprobe /rev\nheader X-A b":                            "",
	} {
		t.Run(block, virtual(func(t *testing.T) {
			told := ""
			for _, entry := range newSite(t, block).logs.FilterMessageSnippet("values without a placeholder").All() {
				told += fmt.Sprint(entry.ContextMap()["subdirectives"])
			}
			if told != want {
				t.Errorf("got warnings of %q; want %q", told, want)
			}
		}))
	}
}

// A connection that the backend closes while it is being used again is no outage: that
// is tried once more, and told to nobody.
func TestConnectionThatIsJustBeingClosed(t *testing.T) {
	broken := func(err error) caddyhttp.HandlerFunc {
		return func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(502, err) }
	}
	failed := func(s *site) (n int) {
		for _, entry := range s.logs.FilterMessage("checked").All() {
			if entry.ContextMap()["result"] == "failed" {
				n++
			}
		}
		return n
	}
	for _, err := range []error{
		io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE,
		errors.New("http: server closed idle connection"),
		errors.New("http2: client connection lost"),
		errors.New("http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug="),
		fmt.Errorf("readfrom tcp 127.0.0.1:1->127.0.0.1:2: write tcp: %w", syscall.EPIPE),
	} {
		t.Run(err.Error(), virtual(func(t *testing.T) {
			s := newSite(t, steady)
			c := s.get("/", has("1"))
			c.mustWait()
			s.backend.say(sequence(broken(err), tagged("1"), broken(err), tagged("2")))
			c.wants("200 changed state 2")
			s.wantsTold(t, nil)
			if n := failed(s); n > 0 {
				t.Errorf("%d checks count as failed", n)
			}
		}))
	}

	t.Run("a first request too", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(sequence(broken(io.EOF), tagged("1")))
		s.get("/", "Prefer: wait=5").wants("200 answered state 1")
	}))
	t.Run("once, and not during an outage", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 5s")
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(broken(io.EOF))
		settle(5600 * time.Millisecond)
		if n := s.backend.checks(); n != 3 {
			t.Errorf("got %d requests; want the first, the one that fails and one more", n)
		}
		s.wantsTold(t, nil, "backend fails")
		settle(6 * time.Second)
		if n := s.backend.checks(); n != 4 {
			t.Errorf("got %d requests; want one a check during an outage", n)
		}
		c.leave()
	}))
	t.Run("not where it may have been done", virtual(func(t *testing.T) {
		s := newSite(t, steady+"methods POST")
		s.backend.say(broken(io.EOF))
		s.post("/", "x", "Prefer: wait=0").wants("502 failed")
		if n := s.backend.checks(); n != 1 {
			t.Errorf("got %d requests of a POST; want 1", n)
		}
	}))
	for name, says := range map[string]caddyhttp.HandlerFunc{
		"nobody listens": unreachable, "a 503": reply(503, "no"), "a handler's bug": crashing,
		"the half of an answer": aborted,
	} {
		t.Run("not "+name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(says)
			s.get("/", "Prefer: wait=0").answer()
			if n := s.backend.checks(); n != 1 {
				t.Errorf("got %d requests; want 1", n)
			}
		}))
	}
	t.Run("within max_checks", virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_checks 1")
		s.backend.say(sequence(slowly(time.Second, broken(io.EOF)), slowly(time.Second, tagged("1"))))
		a, b := s.get("/a", "Prefer: wait=9"), s.get("/b", "Prefer: wait=9")
		a.wants("200 answered state 1")
		b.wants("200 answered state 1")
		if _, most := s.backend.inFlight(); most != 1 {
			t.Errorf("got %d requests at once", most)
		}
	}))
}

// Clients that take any 304 for an error get the answer again, where the answer is ours.
func TestClientsThatKnowNo304(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"on_timeout replay")
		s.backend.say(tagged("1", "Content-Type: text/plain"))
		s.get("/", has("1")).wants("200 expired state 1").wantsField("Content-Type", "text/plain").wantsField("ETag", `"1"`)
		s.get("/", has("1"), "Prefer: wait=0").wants("200 answered state 1")
		c := s.get("/", has("1"))
		c.mustWait()
		s.drain()
		c.wants("200 drained state 1")
	})(t)
}
