package poll

import (
	"net/http/httptest"
	"testing"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// What a configuration may take from long_poll is what polls and states resolve: directive
// has a list of its own, since it touches nothing of this module.
func TestPlaceholdersAreJudged(t *testing.T) {
	s := &Subject{Request: httptest.NewRequest("GET", "/", nil)}
	for _, name := range []string{
		"status", "etag", "hash", "version", "body", "outcome", "held", "header.ETag", "json.a.b",
		"request.json.a", "request.form.a", "request.query_json.a.b",
		"", "statuses", "request", "request.header.A", "cookie.a", "jsonx.a",
	} {
		_, resolved := s.Placeholder(new(state.Rules), nil, "lp."+name)
		err := directive.Placeholders(map[string][]string{"since": {"{lp." + name + "}"}})
		if resolved != (err == nil) {
			t.Errorf("lp.%s: resolved %v, judged %v", name, resolved, err)
		}
	}
}
