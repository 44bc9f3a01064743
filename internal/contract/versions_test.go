package contract_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Section 4 of the contract, and what section 3 says about who has which version.

// What holds a client that came with a version waits; what does not is answered at
// once.
func TestIfNoneMatch(t *testing.T) {
	for _, test := range []struct {
		etag   string
		fields []string
		holds  bool
	}{
		{`"1"`, []string{`"1"`}, true},
		{`"1"`, []string{`W/"1"`}, true},
		{`W/"1"`, []string{`"1"`}, true},
		{`W/"1"`, []string{`W/"1"`}, true},
		{`"1"`, []string{`"2"`}, false},
		{`"1"`, []string{`"10"`}, false},
		{`"1"`, []string{`""`}, false},
		{`""`, []string{`""`}, true},
		{`"1"`, []string{`"0", "1", "2"`}, true},
		{`"1"`, []string{`"0","1"`}, true},
		{`"1"`, []string{`"0"`, `"1"`}, true},
		{`"1"`, []string{`"0", "2"`}, false},
		{`"1"`, []string{`, ,"1",`}, true},
		{`"1"`, []string{"*"}, true},
		{`"1"`, []string{" * "}, true},
		{"", []string{"*"}, true},
		{`"a,b"`, []string{`"a,b"`}, true},
		{`"a,b"`, []string{`"a", "b"`}, false},
		{`"a,b"`, []string{`"x", W/"a,b"`}, true},
		{`"*"`, []string{`"1"`}, false},
		// Less strict servers and clients leave the quotes out.
		{"1", []string{"1"}, true},
		{"1", []string{"2"}, false},
		// What Caddy's encode makes of a tag, and of the 304 to it.
		{`"1-gzip"`, []string{`"1-gzip"`}, true},
		{`W/"1"`, []string{`w/"2"`}, false},
	} {
		t.Run(fmt.Sprintf("%s to %s", test.fields, test.etag), virtual(func(t *testing.T) {
			s := newSite(t, steady)
			var fields []string
			if test.etag != "" {
				fields = []string{"ETag: " + test.etag}
			}
			s.backend.say(reply(200, "state", fields...))
			var ask []string
			for _, f := range test.fields {
				ask = append(ask, "If-None-Match: "+f)
			}
			c := s.get("/", ask...)
			if test.holds {
				c.wants("304 expired")
			} else {
				c.wants("200 answered state").within(0, 0)
			}
		}))
	}

	t.Run("with the suffix of encode", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			if strings.Contains(r.Header.Get("If-None-Match"), `"1-gzip"`) {
				return reply(304, "", `ETag: "1"`)(w, r)
			}
			return reply(200, "zip", `ETag: "1-gzip"`, "Content-Encoding: gzip", "Vary: Accept-Encoding")(w, r)
		})
		for _, tag := range []string{`"1"`, `"1-gzip"`, `W/"1-gzip"`} {
			s.get("/", "Accept-Encoding: gzip", "If-None-Match: "+tag, "Wait: 5").wants("304 expired")
		}
		s.get("/", "Accept-Encoding: gzip", `If-None-Match: "2-gzip"`).wants("200 answered zip").wantsField("ETag", `"1-gzip"`)
	}))

	t.Run("goes before If-Modified-Since", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("1", "Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT"))
		const now, then = "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT", "If-Modified-Since: Fri, 31 Dec 1999 00:00:00 GMT"
		s.get("/", has("0"), now).wants("200 answered")
		s.get("/", has("1"), then, "Wait: 1").wants("304 expired")
	}))
}

func TestIfModifiedSince(t *testing.T) {
	const modified = "Sat, 01 Jan 2000 00:00:00 GMT"
	for since, holds := range map[string]bool{
		"Sat, 01 Jan 2000 00:00:00 GMT":    true,
		"Sat, 01 Jan 2000 00:00:01 GMT":    true,
		"Saturday, 01-Jan-00 00:00:00 GMT": true,
		"Sat Jan  1 00:00:00 2000":         true,
		"Fri, 31 Dec 1999 23:59:59 GMT":    false,
		"yesterday":                        false,
		"":                                 false,
	} {
		t.Run(since, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(reply(200, "state", "Last-Modified: "+modified))
			c := s.get("/", "If-Modified-Since: "+since)
			if holds {
				c.wants("304 expired").wantsField("Last-Modified", modified)
			} else {
				c.wants("200 answered state").within(0, 0)
			}
		}))
	}

	t.Run("without Last-Modified", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.get("/", "If-Modified-Since: "+modified).wants("200 answered state 1").within(0, 0)
	}))

	// A change within the second that Last-Modified counts in.
	t.Run("within the same second", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(reply(200, "a", "Last-Modified: "+modified))
		c := s.get("/", "If-Modified-Since: "+modified)
		settle(time.Second / 2)
		s.backend.say(reply(200, "b", "Last-Modified: "+modified))
		c.wants("200 changed b").within(time.Second, 1100*time.Millisecond)
	}))

	t.Run("back in time", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(reply(200, "b", "Last-Modified: "+modified))
		c := s.get("/", "If-Modified-Since: "+modified)
		c.mustWait()
		s.backend.say(reply(200, "a", "Last-Modified: Fri, 31 Dec 1999 00:00:00 GMT"))
		c.wants("200 changed a")
	}))
}

func TestSince(t *testing.T) {
	for name, test := range map[string]struct {
		block, target, field string
		want                 string
	}{
		"the same":                  {"", "/?v=7", "", "200 expired"},
		"older":                     {"", "/?v=6", "", "200 answered"},
		"newer":                     {"", "/?v=8", "", "200 answered"}, // equality, never order
		"missing":                   {"", "/", "", "200 answered"},
		"empty":                     {"", "/?v=", "", "200 answered"},
		"no number but equal":       {"", "/?v=07", "", "200 answered"},
		"unset":                     {"unset 0 now", "/?v=now", "", "200 answered"},
		"unset, though equal":       {"unset 7", "/?v=7", "", "200 answered"},
		"If-None-Match is not read": {"", "/?v=6", `If-None-Match: "7"`, "200 answered"},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"since {query.v} "+test.block+"\nversion {lp.json.index}\nstrip_query v")
			s.backend.say(reply(200, `{"index":7}`, `ETag: "e"`))
			c := s.get(test.target, test.field).wants(test.want + ` {"index":7}`)
			if c.outcome() == "answered" {
				c.within(0, 0)
			}
		}))
	}

	t.Run("by an ETag in another field", virtual(func(t *testing.T) {
		s := newSite(t, steady+"since {header.X-Version}")
		for _, v := range []string{`"1"`, `1`, `W/"1"`} {
			s.get("/", "X-Version: "+v, "Wait: 1").wants("200 expired state 1")
		}
		s.get("/", "X-Version: 2").wants("200 answered state 1").within(0, 0)
	}))

	t.Run("in the body", virtual(func(t *testing.T) {
		s := newSite(t, steady+"methods POST\nsince {lp.request.json.since}\nversion {lp.json.index}")
		s.backend.say(reply(200, `{"index":7}`))
		s.post("/", `{"since":7}`).wants(`200 expired {"index":7}`)
		s.post("/", `{"since":6}`).wants(`200 answered {"index":7}`)
		s.post("/", `{"since":`).wants(`200 answered {"index":7}`)
	}))

	t.Run("in a form, and in JSON in the query", virtual(func(t *testing.T) {
		s := newSite(t, steady+"methods POST\nsince {lp.request.form.since}{lp.request.query_json.q.0.since}\nversion {lp.json.index}")
		s.backend.say(reply(200, `{"index":7}`))
		s.post("/", "a=b&since=7").wants(`200 expired {"index":7}`)
		s.post("/?q=%5B%7B%22since%22%3A7%7D%5D", "").wants(`200 expired {"index":7}`)
		s.post("/", "since=6").wants(`200 answered {"index":7}`)
	}))

	t.Run("by the hash", virtual(func(t *testing.T) {
		s := newSite(t, steady+"since {query.v}\nstrip_query v\nheader X-Version {lp.version}")
		s.backend.say(reply(200, "state"))
		v := s.get("/").wants("200 answered state").field("X-Version")
		s.get("/?v=" + v).wants("200 expired state")
	}))
}

func TestUnversioned(t *testing.T) {
	t.Run("answer", virtual(func(t *testing.T) {
		s := newSite(t, steady+"unversioned answer")
		s.get("/").wants("200 answered state 1").within(0, 0)
	}))
	t.Run("park", virtual(func(t *testing.T) {
		s := newSite(t, steady+"unversioned park")
		c := s.get("/")
		settle(5 * time.Second)
		c.mustWait()
		s.backend.say(tagged("2"))
		c.wants("200 changed state 2").within(5*time.Second, 7*time.Second)
	}))
	t.Run("park waits for a change after it has come", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\nunversioned park\ninterval 10s")
		s.get("/", has("1")).mustWait()
		// Nobody has noticed yet, and for this client it is no change.
		s.backend.say(tagged("2"))
		c := s.get("/")
		settle(5 * time.Second)
		c.mustWait()
		s.backend.say(tagged("3"))
		c.wants("200 changed state 3")
	}))
	t.Run("park, and what is no answer", virtual(func(t *testing.T) {
		s := newSite(t, steady+"unversioned park")
		s.backend.say(reply(404, "none"))
		s.get("/").wants("404 answered none").within(0, 0)
	}))
	t.Run("park, wait 0", virtual(func(t *testing.T) {
		s := newSite(t, steady+"unversioned park")
		s.get("/", "Wait: 0").wants("200 answered state 1").within(0, 0)
	}))
}

// Only a 2xx can hold a client by its version.
func TestStatus(t *testing.T) {
	for status := range 600 {
		if status < 200 || status == 304 || state.Outage(status) || status == 499 {
			continue
		}
		if status%100 > 5 && status != 226 && status != 308 && status != 426 && status != 451 {
			continue // one like the other
		}
		t.Run(fmt.Sprint(status), virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(reply(status, "", `ETag: "1"`, "Location: /b"))
			c := s.get("/", has("1"), "Wait: 2")
			if status/100 == 2 {
				c.wants("304 expired")
				return
			}
			c.wants(fmt.Sprint(status, " answered")).within(0, 0)
			// And it releases who is parked, though its ETag is the same.
			s.backend.say(tagged("1"))
			settle(10 * time.Second)
			c = s.get("/", has("1"))
			c.mustWait()
			s.backend.say(reply(status, "", `ETag: "1"`))
			c.wants(fmt.Sprint(status, " changed")).within(0, 1100*time.Millisecond)
			// The other way round too: the backend's 304 speaks of the 200.
			s.backend.say(tagged("1"))
			settle(10 * time.Second)
			s.get("/").wants("200 answered state 1")
		}))
	}

	t.Run("one 2xx after another", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(reply(203, "new", `ETag: "1"`))
		c.wants("203 changed new").within(0, 1100*time.Millisecond)
	}))
}

func TestHoldWhile(t *testing.T) {
	for name, test := range map[string]struct {
		block string
		says  caddyhttp.HandlerFunc
		holds bool
	}{
		"is":                   {"{lp.json.status} is queued running", reply(200, `{"status":"running"}`), true},
		"is none":              {"{lp.json.status} is queued running", reply(200, `{"status":"done"}`), false},
		"is, missing":          {"{lp.json.status} is queued", reply(200, `{}`), false},
		"is, no JSON":          {"{lp.json.status} is queued", reply(200, `{"status":"queued"`), false},
		"not":                  {"{lp.json.status} not done", reply(200, `{"status":"running"}`), true},
		"not, but is":          {"{lp.json.status} not done failed", reply(200, `{"status":"failed"}`), false},
		"not, missing":         {"{lp.json.status} not done", reply(200, `{}`), true},
		"empty list":           {"{lp.json.events} empty", reply(200, `{"events":[]}`), true},
		"empty list, spaced":   {"{lp.json.events} empty", reply(200, `{"events": [ ] }`), true},
		"empty object":         {"{lp.json.events} empty", reply(200, `{"events":{}}`), true},
		"empty text":           {"{lp.json.events} empty", reply(200, `{"events":""}`), true},
		"blank text":           {"{lp.json.events} empty", reply(200, `{"events":"  "}`), true},
		"null":                 {"{lp.json.events} empty", reply(200, `{"events":null}`), true},
		"missing":              {"{lp.json.events} empty", reply(200, `{}`), true},
		"no JSON":              {"{lp.json.events} empty", reply(200, `<html>`), false},
		"no body":              {"{lp.json.events} empty", reply(204, ``), true},
		"not empty":            {"{lp.json.events} empty", reply(200, `{"events":[1]}`), false},
		"false is a value":     {"{lp.json.events} empty", reply(200, `{"events":false}`), false},
		"0 is a value":         {"{lp.json.events} empty", reply(200, `{"events":0}`), false},
		"a 404":                {"{lp.status} is 404", reply(404, "none yet"), true},
		"a 404, it exists":     {"{lp.status} is 404", reply(200, "there"), false},
		"a 503":                {"{lp.status} is 503", reply(503, "not yet"), true},
		"another failure":      {"{lp.status} is 503", reply(502, ""), false},
		"a 301":                {"{lp.status} is 301", reply(301, "", "Location: /"), true},
		"a field":              {"{lp.header.X-Queue} is 3", reply(200, "", "X-Queue: 3"), true},
		"an ETag":              {"{lp.etag} is `\"e\"`", reply(200, "", `ETag: "e"`), true},
		"a list as a whole":    {"{lp.json.a} is `[1,2]`", reply(200, `{"a":[1,2]}`), true},
		"a number":             {"{lp.json.n} is 7", reply(200, `{"n":7}`), true},
		"a boolean":            {"{lp.json.ready} is false", reply(200, `{"ready":false}`), true},
		"what the client says": {"{query.q} is 1", reply(200, ""), true},
		"two, one is true":     {"{lp.status} is 201\nhold_while {lp.json.a} is 1", reply(200, `{"a":1}`), true},
		"two, none is true":    {"{lp.status} is 201\nhold_while {lp.json.a} is 2", reply(200, `{"a":1}`), false},
		"the long name":        {"{http.long_poll.json.a} is 1", reply(200, `{"a":1}`), true},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"hold_while "+test.block)
			s.backend.say(test.says)
			c := s.get("/?q=1")
			settle(0)
			if c.waits() != test.holds {
				t.Errorf("got %v; want that it is held: %v", c, test.holds)
			}
			if test.holds {
				c.within(25*time.Second, 25*time.Second)
				if c.outcome() != "expired" {
					t.Errorf("got %v; want what it was held by", c)
				}
			}
		}))
	}

	t.Run("until there is something", virtual(func(t *testing.T) {
		s := newSite(t, steady+"hold_while {lp.json.events} empty")
		s.backend.say(reply(200, `{"events":[]}`))
		c := s.get("/?since_id=7")
		settle(5 * time.Second)
		c.mustWait()
		s.backend.say(reply(200, `{"events":[8]}`))
		c.wants(`200 changed {"events":[8]}`).within(5*time.Second, 6100*time.Millisecond)
	}))

	t.Run("a thing, until it exists", virtual(func(t *testing.T) {
		s := newSite(t, steady+"hold_while {lp.status} is 404")
		s.backend.say(reply(404, "none"))
		c := s.get("/")
		settle(5 * time.Second)
		c.mustWait()
		s.backend.say(tagged("1"))
		c.wants("200 changed state 1").within(5*time.Second, 6100*time.Millisecond)
	}))

	t.Run("a thing, until it exists, whose ETag says nothing", virtual(func(t *testing.T) {
		s := newSite(t, steady+"hold_while {lp.status} is 404")
		s.backend.say(reply(404, "none", `ETag: "1"`))
		c := s.get("/")
		settle(5 * time.Second)
		s.backend.say(tagged("1"))
		c.wants("200 changed state 1").within(5*time.Second, 6100*time.Millisecond)
	}))

	t.Run("by what is no part of the version", virtual(func(t *testing.T) {
		s := newSite(t, steady+"version {lp.json.v}\nhold_while {lp.json.busy} is true")
		s.backend.say(reply(200, `{"v":1,"busy":true}`))
		c := s.get("/")
		settle(3 * time.Second)
		c.mustWait()
		s.backend.say(reply(200, `{"v":1,"busy":false}`))
		c.wants(`200 changed {"v":1,"busy":false}`).within(3*time.Second, 4100*time.Millisecond)
	}))

	t.Run("and a version too", virtual(func(t *testing.T) {
		s := newSite(t, steady+"hold_while {lp.header.X-Busy} is yes")
		s.backend.say(tagged("1", "X-Busy: yes"))
		c := s.get("/", has("0"))
		settle(3 * time.Second)
		c.mustWait()
		s.backend.say(tagged("1", "X-Busy: no"))
		c.wants("200 changed state 1").within(3*time.Second, 4100*time.Millisecond)
	}))

	t.Run("a change that is held is no release", virtual(func(t *testing.T) {
		s := newSite(t, steady+"hold_while {lp.json.status} is queued running")
		s.backend.say(reply(200, `{"status":"queued"}`))
		c := s.get("/")
		settle(3 * time.Second)
		s.backend.say(reply(200, `{"status":"running"}`))
		settle(3 * time.Second)
		c.mustWait()
		s.backend.say(reply(200, `{"status":"done"}`))
		c.wants(`200 changed {"status":"done"}`).within(6*time.Second, 7100*time.Millisecond)
	}))

	t.Run("a failure that holds is no outage", virtual(func(t *testing.T) {
		s := newSite(t, steady+"hold_while {lp.status} is 503\non_error release")
		s.backend.say(reply(503, "starting"))
		c := s.get("/")
		settle(5 * time.Second)
		c.mustWait()
		if n := s.backend.checks(); n < 5 {
			t.Errorf("got %d checks in 5s; want one per interval", n)
		}
		s.backend.say(reply(200, "up"))
		c.wants("200 changed up")
	}))

	t.Run("compressed JSON", virtual(func(t *testing.T) {
		for coding, pack := range map[string]func(string) string{"gzip": gzipped, "zstd": zstded} {
			s := newSite(t, steady+"hold_while {lp.json.busy} is true")
			s.backend.say(reply(200, pack(`{"busy":true}`), "Content-Encoding: "+coding))
			c := s.get("/", "Accept-Encoding: "+coding)
			settle(3 * time.Second)
			c.mustWait()
			done := pack(`{"busy":false}`)
			s.backend.say(reply(200, done, "Content-Encoding: "+coding))
			c.wants("200 changed "+done).wantsField("Content-Encoding", coding)
		}
	}))
}

func gzipped(text string) string {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write([]byte(text))
	w.Close()
	return buf.String()
}

func zstded(text string) string {
	w, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	return string(w.EncodeAll([]byte(text), nil))
}

func TestHash(t *testing.T) {
	t.Run("is the same for ever", virtual(func(t *testing.T) {
		// Clients move between sidecars of any release with it: if this fails, do not
		// change the test.
		for want, says := range map[string]caddyhttp.HandlerFunc{
			`W/"354ce3a2f2175d30f0eb5b50286fa8e5"`: reply(200, "state", "Content-Type: text/plain"),
			`W/"22be8c100ea0cf849dc646f58a836970"`: reply(200, ""),
		} {
			s := newSite(t, steady)
			s.backend.say(says)
			s.get("/").wantsField("ETag", want)
		}
	}))

	base := func() (int, string, []string) { return 200, "state", []string{"Content-Type: a", "Location: /a"} }
	for name, test := range map[string]struct {
		change func() (int, string, []string)
		is     bool
	}{
		"nothing":      {base, false},
		"body":         {func() (int, string, []string) { s, _, f := base(); return s, "State", f }, true},
		"status":       {func() (int, string, []string) { _, b, f := base(); return 201, b, f }, true},
		"Content-Type": {func() (int, string, []string) { s, b, f := base(); return s, b, []string{"Content-Type: b", f[1]} }, true},
		"Location":     {func() (int, string, []string) { s, b, f := base(); return s, b, []string{f[0], "Location: /b"} }, true},
		"another field": {func() (int, string, []string) {
			s, b, f := base()
			return s, b, append(f, "X-Request-Id: 7", "Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT")
		}, false},
	} {
		t.Run(name+" is a change", virtual(func(t *testing.T) {
			s := newSite(t, steady)
			status, body, fields := base()
			s.backend.say(reply(status, body, fields...))
			tag := s.get("/").field("ETag")
			if !strings.HasPrefix(tag, `W/"`) {
				t.Fatalf("got ETag %s; want a weak one", tag)
			}
			c := s.get("/", "If-None-Match: "+tag)
			c.mustWait()
			status, body, fields = test.change()
			s.backend.say(reply(status, body, fields...))
			if test.is {
				c.wants(fmt.Sprint(status, " changed ", body)).within(0, 1100*time.Millisecond)
				if c.field("ETag") == tag {
					t.Errorf("got ETag %s again", tag)
				}
			} else {
				c.wants("304 expired").wantsField("ETag", tag)
			}
		}))
	}

	t.Run("never Last-Modified alone", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		const lm = "Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT"
		s.backend.say(reply(200, "a", lm))
		c := s.get("/", "If-None-Match: "+s.get("/").field("ETag"))
		c.mustWait()
		s.backend.say(reply(200, "b", lm))
		c.wants("200 changed b")
	}))

	t.Run("only a 2xx bears it", virtual(func(t *testing.T) {
		for _, status := range []int{301, 404, 410} {
			s := newSite(t, steady)
			s.backend.say(reply(status, "x"))
			s.get("/").wantsField("ETag", "")
		}
	}))

	t.Run("survives a new handler", virtual(func(t *testing.T) {
		one, two := newSite(t, steady), newSite(t, steady)
		for _, s := range []*site{one, two} {
			s.backend.say(reply(200, "state"))
		}
		two.get("/", "If-None-Match: "+one.get("/").field("ETag"), "Wait: 1").wants("304 expired")
	}))

	t.Run("of what was compressed", virtual(func(t *testing.T) {
		// The same text is the same version, however it was compressed this time.
		s := newSite(t, steady)
		var level atomic.Int32
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			var buf bytes.Buffer
			zip, _ := gzip.NewWriterLevel(&buf, int(level.Load()))
			zip.Write(bytes.Repeat([]byte("state"), 100))
			zip.Close()
			return reply(200, buf.String(), "Content-Encoding: gzip")(w, r)
		})
		c := s.get("/", "If-None-Match: "+s.get("/").field("ETag"))
		c.mustWait()
		level.Store(9)
		c.wants("304 expired")
	}))
}

func TestIgnore(t *testing.T) {
	for name, test := range map[string]struct {
		ignore, a, b string
		change       bool
	}{
		"a timestamp":     {"now", `{"now":1,"v":1}`, `{"now":2,"v":1}`, false},
		"more than that":  {"now", `{"now":1,"v":1}`, `{"now":1,"v":2}`, true},
		"that is missing": {"now", `{"v":1}`, `{"now":2,"v":1}`, false},
		"in elements":     {"items.#.age", `{"items":[{"age":1,"id":7}]}`, `{"items":[{"age":2,"id":7}]}`, false},
		"an element more": {"items.#.age", `{"items":[{"age":1}]}`, `{"items":[{"age":1},{"age":1}]}`, true},
		"two of them":     {"a b.c", `{"a":1,"b":{"c":1,"d":1}}`, `{"a":2,"b":{"c":2,"d":1}}`, false},
		"no JSON":         {"now", `a`, `b`, true},
		"no JSON, equal":  {"now", `a`, `a`, false},
		"order":           {"now", `{"a":1,"b":2}`, `{"b":2,"a":1}`, false},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"ignore "+test.ignore)
			// The backend's ETag follows what is ignored.
			s.backend.say(reply(200, test.a, `ETag: "`+name+`a"`))
			tag := s.get("/").field("ETag")
			if strings.Contains(tag, name) || !strings.HasPrefix(tag, `W/"`) {
				t.Errorf("got ETag %s; want our own", tag)
			}
			c := s.get("/", "If-None-Match: "+tag)
			c.mustWait()
			s.backend.say(reply(200, test.b, `ETag: "`+name+`b"`))
			if test.change {
				c.wants("200 changed " + test.b)
			} else {
				c.wants("304 expired").wantsField("ETag", tag)
			}
		}))
	}
}

func TestVersion(t *testing.T) {
	for name, test := range map[string]struct {
		version string
		a, b    caddyhttp.HandlerFunc
		change  bool
	}{
		"member":           {"{lp.json.v}", reply(200, `{"v":1,"x":1}`), reply(200, `{"v":1,"x":2}`), false},
		"another member":   {"{lp.json.v}", reply(200, `{"v":1}`), reply(200, `{"v":2}`), true},
		"member in a list": {"{lp.json.0.ModifyIndex}", reply(200, `[{"ModifyIndex":1}]`), reply(200, `[{"ModifyIndex":2}]`), true},
		"field":            {"{lp.header.X-Rev}", reply(200, "a", "X-Rev: 1"), reply(200, "b", "X-Rev: 1"), false},
		"another field":    {"{lp.header.X-Rev}", reply(200, "a", "X-Rev: 1"), reply(200, "a", "X-Rev: 2"), true},
		"date":             {"{lp.header.Date}", reply(200, "a", "Date: x"), reply(200, "b", "Date: x"), false},
		"another date":     {"{lp.header.Date}", reply(200, "a", "Date: x"), reply(200, "a", "Date: y"), true},
		"length":           {"{lp.header.Content-Length}", reply(200, "a", "Content-Length: 1"), reply(200, "b", "Content-Length: 1"), false},
		"another length":   {"{lp.header.Content-Length}", reply(200, "a", "Content-Length: 1"), reply(200, "bb", "Content-Length: 2"), true},
		"ETag is nothing":  {"{lp.json.v}", reply(200, `{"v":1}`, `ETag: "a"`), reply(200, `{"v":1}`, `ETag: "b"`), false},
		"status":           {"{lp.json.v}", reply(200, `{"v":1}`), reply(404, `{"v":1}`), true},
		"hash":             {"{lp.hash}", reply(200, "a", "Content-Type: a"), reply(200, "a", "Content-Type: b"), false},
		"another hash":     {"{lp.hash}", reply(200, "a"), reply(200, "b"), true},
		"two together":     {"{lp.json.a}/{lp.json.b}", reply(200, `{"a":1,"b":1}`), reply(200, `{"a":1,"b":2}`), true},
		"long name":        {"{http.long_poll.json.v}", reply(200, `{"v":1}`), reply(200, `{"v":2}`), true},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"version "+test.version+"\nheader X-Version {lp.version}")
			s.backend.say(test.a)
			first := s.get("/")
			c := s.get("/", "If-None-Match: "+first.field("ETag"))
			c.mustWait()
			s.backend.say(test.b)
			if test.change {
				c.wantsField("X-Version", c.field("X-Version"))
				if c.outcome() != "changed" {
					t.Errorf("got %v; want a change", c)
				}
			} else {
				c.wants("304 expired").wantsField("X-Version", first.field("X-Version"))
			}
		}))
	}

	t.Run("that a 304 brings", virtual(func(t *testing.T) {
		s := newSite(t, steady+"version {lp.header.X-Rev}")
		s.backend.say(tagged("1", "X-Rev: 1"))
		c := s.get("/", "If-None-Match: "+s.get("/").field("ETag"))
		c.mustWait()
		s.backend.say(tagged("1", "X-Rev: 2"))
		c.wants("200 changed state 1").wantsField("X-Rev", "2")
	}))
}

// A client's `since` is compared with the configured version alone: the backend's
// ETag is then another thing.
func TestSinceIsNoETag(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"since {query.index}\nversion {lp.json.v}")
		s.backend.say(reply(200, `{"v":7}`, `ETag: "5"`))
		s.get("/?index=5").wants(`200 answered {"v":7}`)
		s.get("/?index=7").mustWait()
	})(t)
}

// With hold_while, a field that differs in each answer is no change: nobody is
// woken, and the interval grows.
func TestNoiseIsNoChange(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 1s 8s\nhold_while {lp.json.items} empty")
		n := 0
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			n++
			return reply(200, `{"items":[]}`, `ETag: "1"`, "X-Request-Id: "+strconv.Itoa(n))(w, r)
		})
		c := s.get("/")
		settle(20 * time.Second)
		c.mustWait()
		if got := s.backend.checks(); got > 8 {
			t.Errorf("got %d checks in 20 s, want the pauses to grow", got)
		}
	})(t)
}
