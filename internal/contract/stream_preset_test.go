package contract_test

import (
	"testing"
	"time"
)

// TestStreamPreset: a stream that is told at once what is known begins with fields of its
// own, and no check that is made on its behalf begins with those.
func TestStreamPreset(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"stream\nfreshness 10s\nlinger 1m")
		s.get("/", waits(0)).wants("200 answered state 1")
		settle(2 * time.Second)
		c := s.get("/", events).hears("1 state 1")
		s.backend.say(reply(200, "two"))
		settle(1100 * time.Millisecond)
		if all, _ := parseEvents(c.heard()); len(all) != 2 {
			t.Errorf("heard %v; want the change", all)
		}
		p := s.get("/", waits(0)).wants("200 answered two")
		for _, name := range []string{"X-Accel-Buffering", "Incremental"} {
			p.wantsField(name, "")
		}
	})(t)
}
