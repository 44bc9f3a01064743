package contract_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// through is a backend that is another Caddy, with long_poll in front of its own.
func through(inner *site) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		var fields []string
		for name := range r.Header {
			fields = append(fields, name+": "+r.Header.Get(name))
		}
		c := inner.get(r.URL.RequestURI(), fields...)
		select {
		case <-c.done:
		case <-r.Context().Done():
			c.leave()
			return caddyhttp.Error(http.StatusBadGateway, r.Context().Err())
		}
		for name, values := range c.w.sent {
			w.Header()[name] = values
		}
		w.WriteHeader(c.w.status)
		_, err := io.WriteString(w, c.w.body.String())
		return err
	}
}

// TestCheckOfAnotherCaddy: where two Caddys stand in a row, the clients of the one in front
// wait there. Its checks, which name what they have, do not wait at the one behind: they
// would last for longer than check_timeout.
func TestCheckOfAnotherCaddy(t *testing.T) {
	const quick = steady + "interval 500ms\n"
	for _, test := range []struct{ inner, etag string }{
		{"", `ETag: "1"`}, {"", ""}, {"unversioned park", ""}, {"wait {query.wait}", ""}, {"freshness 1s", ""}, {"on_change 200 `{lp.json.v}`", ""},
	} {
		t.Run(test.inner+" "+test.etag, virtual(func(t *testing.T) {
			inner, outer := newSite(t, quick+test.inner), newSite(t, quick)
			inner.backend.say(reply(200, `{"v":1}`))
			if test.etag != "" {
				inner.backend.say(reply(200, `{"v":1}`, test.etag))
			}
			outer.backend.say(through(inner))
			tag := outer.get("/?wait=x", waits(0)).wants("200 answered").field("ETag")
			c := outer.get("/?wait=x", "If-None-Match: "+tag)
			settle(15 * time.Second)
			c.mustWait()
			outer.get("/?wait=x", waits(0)).wants("200 answered").within(0, time.Second)
			inner.backend.say(reply(200, `{"v":2}`, `ETag: "2"`))
			c.wants("200 changed").within(15*time.Second, 18*time.Second)
		}))
	}

	t.Run("is not held while", virtual(func(t *testing.T) {
		inner, outer := newSite(t, quick+"hold_while {lp.json.busy} is true"), newSite(t, quick)
		inner.backend.say(reply(200, `{"busy":true}`))
		outer.backend.say(through(inner))
		c := outer.get("/", "If-None-Match: "+outer.get("/", waits(0)).wants(`200 answered {"busy":true}`).field("ETag"))
		settle(15 * time.Second)
		c.mustWait()
		inner.backend.say(reply(200, `{"busy":false}`))
		c.wants(`200 changed {"busy":false}`).within(15*time.Second, 18*time.Second)
	}))

	t.Run("costs the backend one request per interval", virtual(func(t *testing.T) {
		inner, outer := newSite(t, steady), newSite(t, steady)
		outer.backend.say(through(inner))
		for range 10 {
			outer.get("/", has("1")).mustWait()
		}
		inner.get("/", has("1")).mustWait()
		settle(20 * time.Second)
		if n := inner.backend.checks(); n > 46 { // for each of both, with the jitter of pauses
			t.Errorf("the backend was asked %d times in 20s", n)
		}
	}))
}
