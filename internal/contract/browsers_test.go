package contract_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// browsers are what tells a browser from other clients, one way each.
var browsers = map[string][]string{
	"Sec-Fetch-Site": {"Sec-Fetch-Site: same-origin"},
	"Sec-Fetch-Dest": {"Sec-Fetch-Dest: empty"},
	"Sec-Purpose":    {"Sec-Purpose: prefetch"},
	"User-Agent":     {"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
	"all that Chromium sends": {
		"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty", "Cache-Control: max-age=0",
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
	},
}

// others are clients that are none.
var others = map[string][]string{
	"none of them":       nil,
	"Node's fetch":       {"User-Agent: node", "Sec-Fetch-Mode: cors", "Accept: */*", "Accept-Language: *"},
	"a library":          {"User-Agent: okhttp/5.0.0"},
	"a lookalike":        {"User-Agent: curl/8.0 (like Mozilla/5.0)"},
	"another Sec- field": {"Sec-GPC: 1"},
}

// since is a precondition that tagged("1", lastModified) does not judge.
const (
	lastModified = "Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT"
	modified     = "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT"
)

// wantsUntouched fails if the request was more than its client's own exchange: one
// request, and nothing kept of it.
func (s *site) wantsUntouched(requests int) {
	s.t.Helper()
	if n := s.backend.checks(); n != requests {
		s.t.Errorf("got %d requests to the backend; want %d", n, requests)
	}
	if n := s.lot.Len(); n != 0 {
		s.t.Errorf("got %d resources; want none", n)
	}
}

// Contract 3.7: a cache's revalidation is no poll.
func TestRevalidationIsNoPoll(t *testing.T) {
	for name, fields := range browsers {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(tagged("1", lastModified))
			c := s.get("/", append(fields, has("1"))...).wants("304 answered ").within(0, 0)
			s.wantsUntouched(1)
			// The precondition is sent along, and all else too.
			if got := s.backend.last().header; !equalFields(got, newRequest("GET", "/", "", append(fields, has("1"))...).Header) {
				t.Errorf("the backend got %v; want the request as it was", got)
			}
			c.wantsField("ETag", `"1"`)
			s.get("/", append(fields, has("0"))...).wants("200 answered state 1").within(0, 0)
			s.get("/", append(fields, modified)...).wants("200 answered state 1").within(0, 0)
			s.wantsUntouched(3)
		}))

		// What makes a poll of it is what no cache says.
		for ask, test := range map[string]struct{ block, target, field, want string }{
			"Prefer":            {"", "/", waits(5), "304 expired"},
			"Wait":              {"", "/", "Wait: 5", "304 expired"},
			"wait":              {"wait {query.w}", "/?w=5", "", "304 expired"},
			"since":             {"since {query.v}", "/?v=1", waits(5), "200 expired"},
			"since alone":       {"hold 5s 0%\nsince {query.v}", "/?v=1", "", "200 expired"},
			"since of a header": {"hold 5s 0%\nsince {header.If-None-Match}", "/", "", "304 expired"},
		} {
			t.Run(name+" that asks by "+ask, virtual(func(t *testing.T) {
				block := test.block
				if !strings.Contains(block, "hold ") {
					block = steady + block
				}
				s := newSite(t, block)
				asks := append([]string{has("1")}, fields...)
				if test.field != "" {
					asks = append(asks, test.field)
				}
				s.get(test.target, asks...).wants(test.want).within(5*time.Second, 5*time.Second)
			}))
		}
		for ask, test := range map[string]struct{ block, target, field string }{
			"a malformed Prefer":          {"", "/", "Prefer: wait=soon"},
			"another preference":          {"", "/", "Prefer: respond-async"},
			"a malformed Wait":            {"", "/", "Wait: a while"},
			"an empty wait":               {"wait {query.w}", "/?w=", ""},
			"Prefer, where wait is asked": {"wait {query.w}", "/", waits(5)},
			"an unset since":              {"since {query.v} unset 0", "/?v=0", ""},
			"no since":                    {"since {query.v}", "/", ""},
		} {
			t.Run(name+" that asks by "+ask, virtual(func(t *testing.T) {
				s := newSite(t, steady+test.block)
				asks := append([]string{has("1")}, fields...)
				if test.field != "" {
					asks = append(asks, test.field)
				}
				s.get(test.target, asks...).wants("304 answered").within(0, 0)
				s.wantsUntouched(1)
			}))
		}
	}

	for name, fields := range others {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(tagged("1", lastModified))
			s.get("/", append(fields, has("1"))...).wants("304 expired").within(25*time.Second, 25*time.Second)
			s.get("/", append(fields, modified)...).wants("304 expired").within(25*time.Second, 25*time.Second)
		}))

		t.Run(name+", polls asked", virtual(func(t *testing.T) {
			s := newSite(t, steady+"polls asked")
			s.get("/", append(fields, has("1"))...).wants("304 answered").within(0, 0)
			s.wantsUntouched(1)
			s.get("/", append(fields, has("1"), waits(5))...).wants("304 expired").within(5*time.Second, 5*time.Second)
			s = newSite(t, "hold 5s 0%\npolls asked\nsince {header.If-None-Match}")
			s.get("/", append(fields, has("1"))...).wants("304 expired").within(5*time.Second, 5*time.Second)
		}))
	}

	t.Run("wait 0 of a browser is a poll", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.get("/", "Sec-Fetch-Site: same-origin", has("1"), waits(0)).wants("304 answered").within(0, 0).wantsField("Preference-Applied", "wait=0")
		if n := s.lot.Len(); n != 1 {
			t.Errorf("got %d resources; want that a check was made", n)
		}
	}))

	t.Run("polls any", virtual(func(t *testing.T) {
		s := newSite(t, steady+"polls any")
		s.get("/", has("1")).wants("304 expired")
		s.get("/", "Sec-Fetch-Site: same-origin", has("1")).wants("304 answered")
	}))
}

const browser = "Sec-Fetch-Site: same-origin"

// Contract 3.7: hold_while and unversioned park hold what is no poll as they hold any
// request.
func TestRevalidationThatIsHeld(t *testing.T) {
	for name, block := range map[string]string{"browser": "", "polls asked": "polls asked\n"} {
		t.Run(name+", hold_while", virtual(func(t *testing.T) {
			s := newSite(t, steady+block+"hold_while {lp.header.X-Pending} is yes")
			s.backend.say(tagged("1", "X-Pending: yes"))
			c := s.get("/", browser, has("1"))
			d := s.get("/", browser, has("0"))
			settle(3 * time.Second)
			c.mustWait()
			d.mustWait()
			s.backend.say(tagged("1", "X-Pending: no"))
			c.wants("304 changed").within(3*time.Second, 4200*time.Millisecond)
			d.wants("200 changed state 1").within(3*time.Second, 4200*time.Millisecond)
			// Where it does not hold the version holds nobody.
			s.get("/", browser, has("1")).wants("304 answered").within(0, 0)
			s.get("/", browser, has("0")).wants("200 answered state 1").within(0, 0)
		}))

		t.Run(name+", hold_while until the time is up", virtual(func(t *testing.T) {
			s := newSite(t, steady+block+"hold_while {lp.status} is 200")
			s.get("/", browser, has("1")).wants("304 expired").within(25*time.Second, 25*time.Second)
			s.get("/", browser, has("0")).wants("200 expired state 1").within(25*time.Second, 25*time.Second)
		}))

		t.Run(name+", unversioned park", virtual(func(t *testing.T) {
			s := newSite(t, steady+block+"unversioned park")
			c := s.get("/", browser, has("1"))
			d := s.get("/", browser)
			s.get("/", browser, has("0")).wants("200 answered state 1").within(0, 0)
			settle(3 * time.Second)
			c.mustWait()
			d.mustWait()
			s.backend.say(tagged("2"))
			c.wants("200 changed state 2")
			d.wants("200 changed state 2")
		}))

		t.Run(name+", freshness", virtual(func(t *testing.T) {
			s := newSite(t, steady+block+"freshness 10s")
			s.get("/", browser).wants("200 answered state 1")
			settle(5 * time.Second)
			s.get("/", browser, has("1")).wants("304 answered").within(0, 0)
			s.get("/", browser, has("0")).wants("200 answered state 1").within(0, 0)
			if n := s.backend.checks(); n != 1 {
				t.Errorf("got %d requests to the backend; want that freshness answers", n)
			}
			settle(6 * time.Second)
			s.backend.say(tagged("2"))
			s.get("/", browser, has("1")).wants("200 answered state 2").within(0, 0)
			s.get("/", browser, has("2")).wants("304 answered").within(0, 0)
			if n := s.backend.checks(); n != 2 {
				t.Errorf("got %d requests to the backend; want 2", n)
			}
		}))
	}
}

// Contract 3.7: where the backend says 200 and the tag that the module makes of it
// matches, the answer is 304.
func TestRevalidationByATagOfOurs(t *testing.T) {
	for name, test := range map[string]struct {
		block string
		says  caddyhttp.HandlerFunc
		noTag bool
	}{
		"no ETag":      {"", reply(200, `{"n":1,"at":2}`, "Content-Type: application/json"), false},
		"ignore":       {"ignore at", reply(200, `{"n":1,"at":2}`, `ETag: "theirs"`), false},
		"ignore_match": {"ignore_match at", reply(200, `at 7`, `ETag: "theirs"`), false},
		"version":      {"version {lp.json.n}", reply(200, `{"n":1,"at":2}`, `ETag: "theirs"`), false},
		"encoded":      {"", reply(200, gzipped(`{"n":1}`), "Content-Encoding: gzip"), false},
		"their own":    {"", reply(200, "x", `ETag: "theirs"`), true},
		"no 2xx":       {"", reply(404, "none"), true},
		"a 206":        {"", reply(206, "part"), true},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"header X-Ours yes\n"+test.block)
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				for name, value := range map[string]string{"Cache-Control": "max-age=60", "Content-Language": "en", "Content-Location": "/x", "Set-Cookie": "a=b", "Access-Control-Allow-Origin": "*"} {
					w.Header().Set(name, value)
				}
				return test.says(w, r)
			})
			first := s.get("/", browser).answer()
			tag := first.field("ETag")
			if test.noTag {
				if strings.HasPrefix(tag, "W/") {
					t.Errorf("got ETag %q; want none of ours", tag)
				}
				s.get("/", browser, `If-None-Match: W/"x", *`).wants(strconv.Itoa(first.w.status) + " answered")
				return
			}
			if !strings.HasPrefix(tag, `W/"`) {
				t.Fatalf("got ETag %q; want one of ours", tag)
			}
			for _, match := range []string{tag, strings.TrimPrefix(tag, "W/"), `"x", ` + tag, "*"} {
				c := s.get("/", browser, "If-None-Match: "+match).wants("304 answered ").within(0, 0)
				for name, want := range map[string]string{
					"ETag": tag, "Cache-Control": "max-age=60", "Content-Type": "", "Content-Length": "", "Content-Encoding": "", "Content-Language": "",
					"Content-Location": "/x", "Set-Cookie": "a=b", "Access-Control-Allow-Origin": "*", "X-Ours": "yes",
				} {
					c.wantsField(name, want)
				}
			}
			s.get("/", browser, `If-None-Match: "x"`).wants("200 answered " + first.w.body.String())
			s.wantsUntouched(6)
			// It is the version that a poll names, too.
			s.get("/", browser, "If-None-Match: "+tag, waits(3)).wants("304 expired").within(3*time.Second, 3*time.Second)
		}))
	}
}

// Contract 3.1: of what a browser asks for only what a script does can wait.
func TestDestinations(t *testing.T) {
	for _, to := range []string{"document", "iframe", "script", "image", "style", "font", "worker", "audio", "manifest"} {
		for name, asks := range map[string][]string{"alone": nil, "with a version": {has("1")}, "that waits": {has("1"), waits(5)}, "by since": {"X-Have: 1"}} {
			t.Run(fmt.Sprint(to, " ", name), virtual(func(t *testing.T) {
				s := newSite(t, steady+"since {header.X-Have}\nhold_while {lp.status} is 200\nunversioned park")
				s.get("/", append(asks, "Sec-Fetch-Dest: "+to)...).within(0, 0).wantsField("Long-Poll", "bypassed")
				s.wantsUntouched(1)
			}))
		}
	}
	t.Run("empty", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.get("/", has("1"), waits(5), "Sec-Fetch-Dest: empty").wants("304 expired").within(5*time.Second, 5*time.Second)
		s.get("/", has("1"), "Sec-Fetch-Dest: empty").wants("304 answered").within(0, 0)
	}))
}
