package contract_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/zapcore"
)

// Contract 4 where answers are not what `version`, `ignore` and `hold_while` expect.

func TestVersionThatIsEmpty(t *testing.T) {
	t.Run("is what it would be without", virtual(func(t *testing.T) {
		s := newSite(t, steady+"version {lp.json.rev}")
		s.backend.say(reply(200, "<html>busy</html>", `ETag: "e1"`))
		s.get("/", waits(5)).wants("200 answered <html>busy</html>").wantsField("ETag", `"e1"`)
		c := s.get("/", `If-None-Match: "e1"`)
		settle(5 * time.Second)
		c.mustWait()
		s.backend.say(reply(200, "<html>busier</html>", `ETag: "e2"`))
		c.wants("200 changed <html>busier</html>").within(5*time.Second, 7*time.Second)
	}))

	t.Run("until it is none no more", virtual(func(t *testing.T) {
		s := newSite(t, steady+"version {lp.json.rev}")
		s.backend.say(reply(200, `busy`, `ETag: "e1"`))
		c := s.get("/", `If-None-Match: "e1"`)
		settle(2 * time.Second)
		c.mustWait()
		s.backend.say(reply(200, `{"rev":7}`, `ETag: "e1"`)) // who tags so does not look at the body
		c.wants(`200 changed {"rev":7}`).wantsField("ETag", `W/"7"`)
		s.get("/", `If-None-Match: "7"`).wants("304 expired")
	}))

	t.Run("without an ETag too", virtual(func(t *testing.T) {
		s := newSite(t, steady+"version {lp.json.rev}")
		s.backend.say(reply(200, `{"a":1}`))
		c := s.get("/", "If-None-Match: "+s.get("/", waits(5)).field("ETag"))
		settle(5 * time.Second)
		c.mustWait()
		s.backend.say(reply(200, `{"a":2}`))
		c.wants(`200 changed {"a":2}`)
	}))

	t.Run("for a while", virtual(func(t *testing.T) {
		s := newSite(t, steady+"version {lp.json.rev}\nsince {query.rev}\nstrip_query rev")
		s.backend.say(reply(200, `{"rev":7}`))
		c := s.get("/?rev=7")
		settle(3 * time.Second)
		c.mustWait()
		s.backend.say(reply(200, `<html>`))
		c.wants("200 changed <html>")
		s.backend.say(reply(200, `{"rev":7}`))
		s.get("/?rev=7").wants(`200 expired {"rev":7}`)
	}))

	t.Run("one warning", virtual(func(t *testing.T) {
		s := newSite(t, steady+"version {lp.json.rev}")
		s.backend.say(reply(200, `{}`))
		for _, path := range []string{"/a", "/b"} {
			s.get(path, waits(5)).wants("200 answered {}")
			settle(2 * time.Second)
			s.get(path, waits(5)).wants("200 answered {}")
		}
		if warned := s.told(zapcore.WarnLevel); len(warned) != 1 || !strings.Contains(warned[0], "version") {
			t.Errorf("got warnings %q; want one of the version", warned)
		}
	}))

	t.Run("an ordinary request does not warn again", virtual(func(t *testing.T) {
		s := newSite(t, steady+"version {lp.json.rev}")
		s.backend.say(reply(200, `{"rev":1}`))
		plain := s.get("/").wants(`200 answered {"rev":1}`).field("ETag")
		if polled := s.get("/", waits(5)).field("ETag"); plain != polled || plain == "" {
			t.Errorf("got ETag %q, and %q for a poll", plain, polled)
		}
		s.get("/", "If-None-Match: "+plain).wants("304 expired")
		s.wantsTold(t, nil)
	}))
}

func TestVersionOfWhatIsNoJSON(t *testing.T) {
	for name, test := range map[string]struct {
		block  string
		a, b   string
		change bool
	}{
		"a byte order mark":          {"version {lp.json.v}", "\ufeff" + `{"v":1,"x":1}`, `{"v":1,"x":2}`, false},
		"a byte order mark, ignored": {"ignore x", "\ufeff" + `{"v":1,"x":1}`, "\ufeff" + `{"v":1,"x":2}`, false},
		"NaN":                        {"version {lp.json.v}", `{"v":1,"x":NaN}`, `{"v":2,"x":NaN}`, true},
		"NaN, ignored":               {"ignore x", `{"v":1,"x":NaN}`, `{"v":1,"x":Infinity}`, true}, // it is no JSON
		"a prefix against hijacking": {"version {lp.json.v}", ")]}'\n" + `{"v":1}`, ")]}'\n" + `{"v":2}`, true},
		"ignore_match":               {`ignore_match "now: [0-9]+"`, "state\nnow: 1", "state\nnow: 2", false},
		"ignore_match, a change":     {`ignore_match "now: [0-9]+"`, "state\nnow: 1", "State\nnow: 1", true},
		"ignore_match, several":      {"ignore_match `<!--.*?-->` nonce=[a-z]+", "a<!--1--> nonce=x", "a<!--22--> nonce=yz", false},
		"ignore_match, repeated":     {"ignore_match a[0-9]\nignore_match b[0-9]", "a1 b1", "a2 b2", false},
		"ignore_match in JSON":       {`ignore_match "\"t\":[0-9]+"`, `{"t":1,"v":1}`, `{"t":2,"v":1}`, false},
		"ignore and ignore_match":    {"ignore t\nignore_match x[0-9]", `{"t":1,"v":"x1"}`, `{"t":2,"v":"x2"}`, false},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+test.block)
			s.backend.say(reply(200, test.a, `ETag: "of a"`))
			if strings.HasPrefix(test.block, "version") {
				s.backend.say(reply(200, test.a))
			}
			c := s.get("/", "If-None-Match: "+s.get("/", waits(5)).field("ETag"))
			settle(3 * time.Second)
			c.mustWait()
			if s.backend.say(reply(200, test.b, `ETag: "of b"`)); strings.HasPrefix(test.block, "version") {
				s.backend.say(reply(200, test.b))
			}
			if test.change {
				c.wants("200 changed " + test.b)
			} else {
				c.wants("304 expired")
			}
		}))
	}

	t.Run("ignore_match in what is compressed", virtual(func(t *testing.T) {
		for coding, pack := range map[string]func(string) string{"gzip": gzipped, "zstd": zstded} {
			s := newSite(t, steady+`ignore_match "now: [0-9]+"`)
			s.backend.say(reply(200, pack("state\nnow: 1"), "Content-Encoding: "+coding))
			c := s.get("/", "If-None-Match: "+s.get("/", waits(5)).field("ETag"))
			settle(2 * time.Second)
			s.backend.say(reply(200, pack("state\nnow: 2"), "Content-Encoding: "+coding))
			settle(3 * time.Second)
			c.mustWait()
			s.backend.say(reply(200, pack("State\nnow: 2"), "Content-Encoding: "+coding))
			if c.answer(); c.outcome() != "changed" {
				t.Errorf("%s: got %v", coding, c)
			}
		}
	}))
}

// A coding's suffix makes no difference, on either side.
func TestSuffixes(t *testing.T) {
	for _, test := range []struct {
		etag, has string
		holds     bool
	}{
		{`"v1"`, `"v1-gzip"`, true},
		{`"v1"`, `"v1-br"`, true},
		{`"v1"`, `"v1-zstd"`, true},
		{`"v1"`, `"v1-deflate"`, true},
		{`"v1"`, `"v1--gzip"`, true},
		{`"v1"`, `"v1;gzip"`, true},
		{`"v1"`, `W/"v1-gzip"`, true},
		{`"v1-gzip"`, `"v1"`, true},
		{`"v1-gzip"`, `"v1-br"`, true},
		{`"v1"`, `"v2-gzip"`, false},
		{`"v1"`, `"v1-gzi"`, false},
		{`"v1"`, `"v1-2"`, false},
		{`"v1-2"`, `"v1"`, false},
	} {
		t.Run(test.has+" of "+test.etag, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(reply(200, "state", "ETag: "+test.etag))
			if c := s.get("/", "If-None-Match: "+test.has, waits(5)); c.waits() != test.holds {
				t.Errorf("got %v; want that it waits: %v", c, test.holds)
			}
		}))
	}
}

func TestHoldWhileByNumber(t *testing.T) {
	index := func(n string) caddyhttp.HandlerFunc { return reply(200, `{"index":`+n+`}`) }
	for name, test := range map[string]struct {
		block, target string
		says          caddyhttp.HandlerFunc
		holds         bool
	}{
		"below":                      {"{lp.json.index} below {query.wait}", "/?wait=8", index("7"), true},
		"at":                         {"{lp.json.index} below {query.wait}", "/?wait=8", index("8"), false},
		"above":                      {"{lp.json.left} above 0", "/", reply(200, `{"left":3}`), true},
		"not above":                  {"{lp.json.left} above 0", "/", reply(200, `{"left":0}`), false},
		"64 bits":                    {"{lp.json.index} below {query.wait}", "/?wait=9007199254740993", index("9007199254740992"), true},
		"64 bits, equal":             {"{lp.json.index} below {query.wait}", "/?wait=9007199254740993", index("9007199254740993"), false},
		"all 64 of them":             {"{lp.json.index} below {query.wait}", "/?wait=18446744073709551615", index("18446744073709551614"), true},
		"decimals":                   {"{lp.json.index} below {query.wait}", "/?wait=0.3", index("0.30000000000000004"), false},
		"a field":                    {"{lp.header.X-Etcd-Index} below {query.waitIndex}", "/?waitIndex=10", reply(200, "x", "X-Etcd-Index: 9"), true},
		"the client names none":      {"{lp.json.index} below {query.wait}", "/", index("7"), false},
		"the client names no number": {"{lp.json.index} below {query.wait}", "/?wait=now", index("7"), false},
		"the backend says none":      {"{lp.json.index} below {query.wait}", "/?wait=8", index(`"soon"`), false},
		"a number in a text":         {"{lp.json.index} below {query.wait}", "/?wait=8", index(`"7"`), true},
		"it is missing":              {"{lp.json.index} below {query.wait}", "/?wait=8", reply(200, `{}`), false},
		"no JSON":                    {"{lp.json.index} below {query.wait}", "/?wait=8", reply(200, `7`+`<`), false},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"hold_while "+test.block)
			s.backend.say(test.says)
			if c := s.get(test.target, waits(5)); c.waits() != test.holds {
				t.Errorf("got %v; want that it is held: %v", c, test.holds)
			}
		}))
	}

	// etcd's waitIndex: two who wait for the same key from other indexes on.
	t.Run("each client by its own", virtual(func(t *testing.T) {
		s := newSite(t, steady+"hold_while {lp.json.index} below {query.waitIndex}\nstrip_query waitIndex")
		s.backend.say(index("7"))
		a, b := s.get("/?waitIndex=8"), s.get("/?waitIndex=10")
		a.mustWait()
		b.mustWait()
		if s.lot.Len() != 1 {
			t.Errorf("got %d resources; want one for both", s.lot.Len())
		}
		s.backend.say(index("9"))
		a.wants(`200 changed {"index":9}`)
		b.mustWait()
		s.backend.say(index("10"))
		b.wants(`200 changed {"index":10}`)
	}))
}

// What looks into a body that turns out to be no JSON holds nobody: an error page is
// for the client to see.
func TestHoldWhileOnWhatIsNoJSON(t *testing.T) {
	for _, block := range []string{"{lp.json.x} empty", "{lp.json.x} not done", "{lp.json.x} below 5", "{lp.json.x} above 5"} {
		t.Run(block, virtual(func(t *testing.T) {
			s := newSite(t, steady+"hold_while "+block)
			s.backend.say(reply(200, "<html>login</html>"))
			s.get("/").wants("200 answered <html>login</html>").within(0, 0)
			s.backend.say(reply(404, "<html>gone</html>"))
			settle(2 * time.Second)
			s.get("/").wants("404 answered <html>gone</html>").within(0, 0)
		}))
	}
	t.Run("while somebody waits", virtual(func(t *testing.T) {
		s := newSite(t, steady+"hold_while {lp.json.x} empty")
		s.backend.say(reply(200, `{"x":[]}`))
		c := s.get("/")
		settle(2 * time.Second)
		c.mustWait()
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error { return reply(200, "<html>")(w, r) })
		c.wants("200 changed <html>").within(2*time.Second, 4*time.Second)
	}))
}

// Whether a tag says that it is weak is no part of what it names: Apache's of a file is
// weak for a second and strong from then on.
func TestTagThatBecomesStrong(t *testing.T) {
	weak, strong := reply(200, "state", `ETag: W/"a-1"`), reply(200, "state", `ETag: "a-1"`)

	t.Run("tells a stream nothing", virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream")
		s.backend.say(weak)
		c := s.get("/", events).hears(`W/"a-1 state`)
		s.backend.say(strong)
		settle(3 * time.Second)
		c.hears(`W/"a-1 state`)
		s.backend.say(reply(200, "other", `ETag: "a-2"`))
		settle(3 * time.Second)
		c.hears(`W/"a-1 state | a-2 other`)
	}))

	for name, test := range map[string]struct{ block, field string }{
		"releases nobody":                      {"", `If-None-Match: "a-1"`},
		"releases nobody who names none":       {"unversioned park", "Prefer: wait=25"},
		"releases nobody who names a date":     {"", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"},
		"releases nobody where version is dry": {"version {lp.json.none}", `If-None-Match: "a-1"`},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+test.block)
			modified := "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"
			s.backend.say(reply(200, "state", `ETag: W/"a-1"`, modified))
			c := s.get("/", test.field)
			c.mustWait()
			s.backend.say(reply(200, "state", `ETag: "a-1"`, modified))
			settle(3 * time.Second)
			c.mustWait()
			s.backend.say(reply(200, "other", `ETag: "a-2"`, modified))
			c.wants("200 changed other").wantsField("ETag", `"a-2"`)
		}))
	}

	for _, block := range []string{"", "version {lp.json.none}"} {
		t.Run("is told as it is "+block, virtual(func(t *testing.T) {
			s := newSite(t, steady+block)
			s.backend.say(weak)
			c := s.get("/", `If-None-Match: "a-1"`)
			c.mustWait()
			s.backend.say(strong)
			c.wants("304 expired").wantsField("ETag", `"a-1"`)
		}))
	}
}
