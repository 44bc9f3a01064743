package contract_test

import (
	"strings"
	"testing"
)

// Preferences of the backend's own are none of ours: what it says of them reaches its
// client, beside what we say of wait (contract 3.4, RFC 7240, section 3).
func TestPreferenceAppliedOfTheBackend(t *testing.T) {
	t.Run("answered and expired", virtual(func(t *testing.T) {
		s := newSite(t, "")
		s.backend.say(tagged("1", "Preference-Applied: count=exact"))
		const asks = "Prefer: count=exact, wait=2"
		for range 2 { // what is kept for all is not added to
			wantApplied(t, s.get("/", asks).wants("200 answered state 1"))
			wantApplied(t, s.get("/", asks, has("1")).wants("304 expired"))
		}
	}))
}

func wantApplied(t *testing.T, c *client) {
	t.Helper()
	if got := strings.Join(c.w.header["Preference-Applied"], ", "); got != "count=exact, wait=2" {
		t.Errorf("got Preference-Applied %q", got)
	}
}
