package longpoll

import (
	"net/url"
	"strconv"
	"strings"
)

// outcome is why a request was answered, in one vocabulary for the Long-Poll
// field, logs and metrics.
type outcome string

const (
	answered outcome = "answered" // was not parked: there was something to say at once
	changed  outcome = "changed"  // was parked and released by a change
	expired  outcome = "expired"  // was parked until its time was up
	drained  outcome = "drained"  // was released early, by a reload or a stop
	failed   outcome = "failed"   // got the backend's error
	refused  outcome = "refused"  // hit a bound
	left     outcome = "left"     // was given up by its client
	bypassed outcome = "bypassed" // could not be parked, and was passed through
)

// ourKey strips either name of our placeholders.
func ourKey(key string) (string, bool) {
	if rest, ok := strings.CutPrefix(key, "lp."); ok {
		return rest, true
	}
	return strings.CutPrefix(key, "http.long_poll.")
}

// placeholder resolves our placeholders for the request itself.
func (q *question) placeholder(key string) (any, bool) {
	switch key, ok := ourKey(key); {
	case ok && key == "outcome":
		return string(q.outcome), true
	case ok && key == "held":
		return seconds(q.held.Seconds()), true
	}
	return q.subject.placeholder(key)
}

// placeholder resolves those of our placeholders that do not speak of what becomes
// of the request.
func (s *subject) placeholder(key string) (any, bool) {
	key, ok := ourKey(key)
	if !ok {
		return nil, false
	}
	switch key {
	case "outcome":
		return "", true
	case "held":
		return seconds(0), true
	}
	if rest, ok := strings.CutPrefix(key, "request."); ok {
		return s.ours(rest)
	}
	if s.state == nil {
		return "", isStateKey(key)
	}
	return s.h.ofState(s.state, key)
}

func seconds(s float64) string { return string(appendSeconds(nil, s)) }

func appendSeconds(text []byte, s float64) []byte { return strconv.AppendFloat(text, s, 'f', 3, 64) }

// isStateKey reports whether key is one that ofState knows.
func isStateKey(key string) bool {
	switch key {
	case "status", "etag", "hash", "version", "body":
		return true
	}
	return strings.HasPrefix(key, "header.") || strings.HasPrefix(key, "json.")
}

// ofState resolves the placeholders that speak of the backend's latest answer.
func (h *Handler) ofState(s *state, key string) (any, bool) {
	switch key {
	case "status":
		if s.code() == 0 {
			return "", true
		}
		return strconv.Itoa(s.code()), true
	case "version":
		return s.version.text, true
	case "body":
		return s.text(), true
	}
	if name, ok := strings.CutPrefix(key, "json."); ok {
		return s.json(name), true
	}
	a := s.seen
	if a == nil {
		return "", isStateKey(key)
	}
	switch key {
	case "etag":
		return a.header.Get("Etag"), true
	case "hash":
		return h.hash(a), true
	}
	if name, ok := strings.CutPrefix(key, "header."); ok {
		return strings.Join(a.header.Values(name), ", "), true
	}
	return nil, false
}

// ours resolves the placeholders that speak of the request's own body and query.
func (s *subject) ours(key string) (any, bool) {
	if path, ok := strings.CutPrefix(key, "json."); ok {
		return member(s.body, path), true
	}
	if name, ok := strings.CutPrefix(key, "form."); ok {
		form, _ := url.ParseQuery(string(s.body))
		return form.Get(name), true
	}
	if rest, ok := strings.CutPrefix(key, "query_json."); ok {
		name, path, _ := strings.Cut(rest, ".")
		return member([]byte(s.r.URL.Query().Get(name)), path), true
	}
	return nil, false
}
