package share

import (
	"net/http"
	"testing"
)

// What somebody behind looks at is compared and carried, unless an operator says that it
// need not be: who says so of the address says it of X-Forwarded-For.
func TestLooks(t *testing.T) {
	for name, test := range map[string]struct {
		config Config
		with   map[string]bool
	}{
		"nothing said":      {Config{Seen: true}, map[string]bool{"User-Agent": true, "X-Forwarded-For": true}},
		"not the address":   {Config{Seen: true, Vary: []string{"-client_ip"}}, map[string]bool{"User-Agent": true, "X-Forwarded-For": false}},
		"but the field":     {Config{Vary: []string{"-client_ip", "X-Forwarded-For"}}, map[string]bool{"X-Forwarded-For": true}},
		"not the field":     {Config{Vary: []string{"-User-Agent"}}, map[string]bool{"User-Agent": false, "X-Forwarded-For": true}},
		"public":            {Config{Public: true}, map[string]bool{"User-Agent": true, "X-Forwarded-For": false}},
		"public and looked": {Config{Public: true, Seen: true}, map[string]bool{"X-Forwarded-For": true}},
		"compared anyway":   {Config{}, map[string]bool{"X-Tenant": false}},
	} {
		t.Run(name, func(t *testing.T) {
			test.config.Looks = []string{"User-Agent", "X-Forwarded-For", "X-Tenant"}
			ru, _ := New(test.config)
			for field, want := range test.with {
				if ru.With[field] != want {
					t.Errorf("%s is added: %t, want %t", field, ru.With[field], want)
				}
			}
		})
	}
}

// Contract 7.4: an answer that varies on X-Forwarded-For is shared by those only whose
// address is compared too, for it is made of that.
func TestVaryOnForwardedFor(t *testing.T) {
	answer := http.Header{"Vary": {"X-Forwarded-For"}}
	for name, test := range map[string]struct {
		config Config
		alone  bool
	}{
		"nothing said":               {Config{}, true},
		"not the address":            {Config{Vary: []string{"-client_ip"}}, true},
		"the field":                  {Config{Vary: []string{"X-Forwarded-For"}}, true},
		"looked at":                  {Config{Looks: []string{"X-Forwarded-For"}}, true},
		"the address":                {Config{Vary: []string{"client_ip"}}, true},
		"the field, the address":     {Config{Vary: []string{"X-Forwarded-For", "client_ip"}}, false},
		"passed on":                  {Config{Looks: []string{"X-Forwarded-For"}, Seen: true}, false},
		"said to make no difference": {Config{Vary: []string{"-X-Forwarded-For"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			ru, _ := New(test.config)
			if v := ru.Variation(answer, nil); v.Alone() != test.alone {
				t.Errorf("nobody shares: %t, want %t", v.Alone(), test.alone)
			}
		})
	}
}
