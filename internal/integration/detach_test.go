package integration_test

import (
	"maps"
	"regexp"
	"testing"
)

// TestDetached is TestIntegration and TestStreams with `detach` wherever a test says long_poll: nothing
// that a client or an operator can see differs.
func TestDetached(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	caddy := buildCaddy(t)
	for name, test := range ofDetached {
		t.Run("alone/"+name, func(t *testing.T) {
			t.Parallel()
			test(t, caddy)
		})
	}
	everywhere := binary{path: caddy.path, detach: true}
	all := maps.Clone(parts)
	for name, test := range ofStreams {
		all["streams/"+name] = test
	}
	maps.Copy(all, map[string]func(*testing.T, binary){
		"streams/timeouts":  testStreamTimeouts,
		"one check for all": testOneCheckForAll,
		"no answer crosses": testNoAnswerCrosses,
		"reload":            testReload,
		"reload under load": testReloadUnderLoad,
		"stop":              testStop,
		"outage":            testOutage,
	})
	for name, test := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, everywhere)
		})
	}
}

var directives = regexp.MustCompile(`(?m)^([ \t]*long_poll\b[^{\n]*?)[ \t]*(\{[ \t]*)?$`)

// rewrite is the sites with detach in each long_poll, if that is how this Caddy runs.
func (s *sidecar) rewrite(sites string) string {
	if !s.detach {
		return sites
	}
	return directives.ReplaceAllStringFunc(sites, func(line string) string {
		found := directives.FindStringSubmatch(line)
		if found[2] != "" {
			return line + "\n\tdetach"
		}
		return found[1] + " {\n\tdetach\n}"
	})
}
