package share

import (
	"testing"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// TestBetween: what is only between a client and us is looked for only among what is
// personal.
func TestBetween(t *testing.T) {
	for name := range between {
		if !httphdr.Personal(name) {
			t.Errorf("%s is not personal", name)
		}
	}
}
