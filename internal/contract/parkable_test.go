package contract_test

import (
	"testing"
	"time"
)

// Contract 3.1: offers of another protocol that a server may ignore.
func TestUpgradeOffers(t *testing.T) {
	jdk := []string{"Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAEAAEAAAAIAAAAA"}
	for offer, parked := range map[string]bool{
		"h2c":                   true,
		"H2C":                   true,
		"TLS/1.2":               true,
		"TLS/1.0, TLS/1.1, h2c": true,
		"websocket":             false,
		"h2c, websocket":        false,
		"TLSX":                  false,
		"connect-ip, h2c":       false,
		"something/1":           false,
	} {
		t.Run(offer, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			fields := append(jdk, "Upgrade: "+offer)
			if c := s.get("/", append(fields, has("1"), waits(5))...); parked {
				c.wants("304 expired").within(5*time.Second, 5*time.Second)
				for _, name := range []string{"Upgrade", "Connection", "HTTP2-Settings"} {
					if got := s.backend.last().header.Get(name); got != "" {
						t.Errorf("the check bears %s: %s", name, got)
					}
				}
				s.get("/", fields...).wants("200 answered state 1")
			} else {
				c.within(0, 0).wantsField("Long-Poll", "bypassed")
				if got := s.backend.last().header.Get("Upgrade"); got != offer {
					t.Errorf("the backend got Upgrade %q", got)
				}
			}
		}))
	}
}

// Contract 3.1: what speaks of a part, or of a state that only the backend can judge.
func TestPreconditionsOfTheBackend(t *testing.T) {
	for _, field := range []string{"Range: bytes=0-9", `If-Match: "1"`, "If-Match: *", "If-Unmodified-Since: Sat, 01 Jan 2000 00:00:00 GMT"} {
		t.Run(field, virtual(func(t *testing.T) {
			s := newSite(t, steady+"since {query.v}")
			s.get("/?v=1", field, has("1"), waits(5)).within(0, 0).wantsField("Long-Poll", "bypassed")
			s.wantsUntouched(1)
		}))
	}
}

// Contract 3.2: a request that names no version is answered at once.
func TestRequestsThatNameNoVersion(t *testing.T) {
	const block = steady + "since {query.v} unset 0 now\nstrip_query v\n"
	unset := []string{"/", "/?v=", "/?v=0", "/?v=now"}

	t.Run("at once", virtual(func(t *testing.T) {
		s := newSite(t, block)
		for _, target := range unset {
			s.get(target).wants("200 answered state 1").within(0, 0)
			s.get(target, has("1")).wants("304 answered").within(0, 0) // the backend's own
		}
		s.wantsUntouched(2 * len(unset))
		// Who says how long it will wait is answered by a check, and gets a version.
		s.backend.say(reply(200, "state 1"))
		for _, target := range unset {
			c := s.get(target, waits(5)).wants("200 answered state 1").within(0, 0).wantsField("Preference-Applied", "wait=5")
			if c.field("ETag") == "" {
				t.Errorf("%s: got no ETag", target)
			}
		}
		if n := s.lot.Len(); n != 1 {
			t.Errorf("got %d resources; want one for all", n)
		}
	}))

	t.Run("unless hold_while holds it", virtual(func(t *testing.T) {
		s := newSite(t, block+"hold_while {lp.header.X-Pending} is yes")
		s.backend.say(tagged("1", "X-Pending: yes"))
		var all []*client
		for _, target := range unset {
			all = append(all, s.get(target), s.get(target, waits(20)))
		}
		settle(5 * time.Second)
		for _, c := range all {
			c.mustWait()
		}
		s.backend.say(tagged("1", "X-Pending: no"))
		for _, c := range all {
			c.wants("200 changed state 1")
		}
	}))

	t.Run("unversioned park", virtual(func(t *testing.T) {
		s := newSite(t, block+"unversioned park")
		var all []*client
		for _, target := range unset {
			all = append(all, s.get(target), s.get(target, waits(20)))
		}
		settle(5 * time.Second)
		for _, c := range all {
			c.mustWait()
		}
		s.backend.say(tagged("2"))
		for _, c := range all {
			c.wants("200 changed state 2")
		}
		s.get("/", waits(5)).wants("200 expired state 2").within(5*time.Second, 5*time.Second)
	}))
}

// Contract 3.3: a tag with a coding's suffix names the version without it too.
func TestCodingSuffixes(t *testing.T) {
	for match, held := range map[string]bool{
		`"1-gzip"`:          true,
		`"1-br"`:            true,
		`"1-zstd"`:          true,
		`W/"1-gzip"`:        true,
		`"0", "1-gzip"`:     true,
		`"0-gzip", W/"1"`:   true,
		`"1-gzip-gzip"`:     false,
		`"1-lzma"`:          false,
		`"1gzip"`:           false,
		`"-gzip"`:           false,
		`"0-gzip"`:          false,
		`"1 -gzip", "0-br"`: false,
	} {
		t.Run(match, virtual(func(t *testing.T) {
			s := newSite(t, steady)
			s.backend.say(reply(200, "state 1", `ETag: "1"`))
			if c := s.get("/", "If-None-Match: "+match); held {
				c.wants("304 expired").within(25*time.Second, 25*time.Second).wantsField("ETag", `"1"`)
			} else {
				c.wants("200 answered state 1").within(0, 0)
			}
		}))
	}

	t.Run("that are the backend's own", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(reply(200, "state 1", `ETag: "1-gzip"`))
		s.get("/", `If-None-Match: "1-gzip"`).wants("304 expired").within(25*time.Second, 25*time.Second)
	}))

	t.Run("of a tag that is ours", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(reply(200, "state 1"))
		tag := s.get("/").field("ETag")
		s.get("/", "If-None-Match: "+tag[:len(tag)-1]+`-gzip"`).wants("304 expired").wantsField("ETag", tag)
		s.get("/", browser, "If-None-Match: "+tag[:len(tag)-1]+`-gzip"`).wants("304 answered").wantsField("ETag", tag)
	}))
}
