package poll

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// said is a state of which a body is known.
func said(body string) *state.State {
	a := state.NewAnswer(http.StatusOK, nil, []byte(body), nil, 1<<20)
	return &state.State{Answer: a, Source: a, Version: state.Version{Status: http.StatusOK}}
}

// contract 3.3 and 4
func TestCondition(t *testing.T) {
	const json = "{}"
	for _, test := range []struct {
		op, value, literal, body string
		want                     bool
	}{
		{"is", "a", "a", json, true},
		{"is", "a", "a", "no JSON", true},
		{"is", "b", "a", json, false},
		{"not", "b", "a", json, true},
		{"not", "a", "a", json, false},
		{"not", "", "a", "no JSON", false},
		{"empty", "", "", json, true},
		{"empty", " [ ] ", "", json, true},
		{"empty", "{}", "", json, true},
		{"empty", "null", "", json, true},
		{"empty", `""`, "", json, true},
		{"empty", "[1]", "", json, false},
		{"empty", "[}", "", json, false},
		{"empty", "0", "", json, false},
		{"empty", "", "", "", false},
		{"empty", "", "", ")]}'\n{}", false},
		{"empty", "", "", "\xef\xbb\xbf{}", true},
		{"below", "7", "8", json, true},
		{"below", "8", "8", json, false},
		{"below", "9", "10", json, true},
		{"below", "7", "8", "no JSON", false},
		{"below", "9007199254740992", "9007199254740993", json, true},
		{"below", "0.1", "0.10000000000000000001", json, true},
		{"below", "-2", "-1.5", json, true},
		{"below", "+7", " 8 ", json, true},
		{"above", "9007199254740993", "9007199254740992", json, true},
		{"above", "8", "8.0", json, false},
		{"below", "", "8", json, false},
		{"below", "7", "", json, false},
		{"below", "7", "1e9", json, false},
		{"below", "7", "0x9", json, false},
		{"below", "7", "19/2", json, false},
		{"below", "7", "--8", json, false},
		{"below", "7", "1_0", json, false},
		{"below", "7", "Inf", json, false},
		{"below", "7", strings.Repeat("9", maxDigits), json, true},
		{"below", "7", strings.Repeat("9", maxDigits+1), json, false},
		{"beneath", "7", "8", json, false},
	} {
		c := &Condition{Value: "{lp.json.x}", Op: test.op, Literals: []string{test.literal}}
		if got := c.True(test.value, func(text string) string { return text }, said(test.body)); got != test.want {
			t.Errorf("%q %s %q of %q: got %v", test.value, test.op, test.literal, test.body, got)
		}
	}

	// What does not look into the body needs no JSON, and its literal may be asked for.
	c := &Condition{Value: "{lp.header.X-Index}", Op: "below", Literals: []string{"{query.index}"}}
	if !c.True("7", func(text string) string { return strings.ReplaceAll(text, "{query.index}", "8") }, said("no JSON")) {
		t.Error("a header field is not compared where the body is no JSON")
	}
	if c.Literals = nil; c.True("7", func(text string) string { return text }, said("")) {
		t.Error("7 is below nothing")
	}
}

// contract 4
func TestVersionOf(t *testing.T) {
	for _, test := range []struct{ text, body, want string }{
		{"{http.long_poll.json.a}", `{"a":1}`, "1"},
		{"{http.long_poll.json.a}", `{}`, ""},
		{"v{http.long_poll.json.a}", `{"a":1}`, "v1"},
		{"v{http.long_poll.json.a}", `{}`, ""},
		{"{lp.json.a}-{lp.json.b}", `{}`, ""},
		{"{lp.json.a}-{lp.json.b}", `{"b":2}`, "-2"},
		{"{http.request.uri.path}@{lp.json.b}", `{}`, ""},
		{"{lp.status}", "", "200"},
		{"fixed", "", "fixed"}, // of who wants hold_while alone to hold
		{"{http.request.uri.path}", "", "/a"},
	} {
		ru := newRules()
		ru.Version = test.text
		p := ask(t, ru, "/a")
		if got := p.Configured(&state.Reading{State: said(test.body)}); got != test.want {
			t.Errorf("%s of %s: got %q; want %q", test.text, test.body, got, test.want)
		}
	}
}
