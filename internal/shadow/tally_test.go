package shadow

import (
	"testing"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// What is remembered is bounded, and what is often seen is not forgotten.
func TestTallyIsBounded(t *testing.T) {
	s := tally{max: 100}
	now := time.Now()
	var checks int64
	for i := range 10000 {
		checks += s.checks(lot.Key{byte(i), byte(i >> 8)}, now, time.Minute, time.Second)
		checks += s.checks(lot.Key{0xff, 0xff}, now, time.Minute, time.Second) // often seen, so not forgotten
		if n := len(s.young) + len(s.aged); n > 100 {
			t.Fatalf("%d resources are known", n)
		}
	}
	if checks != 10001 {
		t.Errorf("got %d checks; want 10001", checks)
	}
}
