package poll

import (
	"net/http"
	"testing"

	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Numbers are compared exactly, whatever their size; what is no number holds nothing.
func TestConditionByNumber(t *testing.T) {
	for _, test := range []struct {
		value, literal string
		below, above   bool
	}{
		{"7", "8", true, false},
		{"8", "8", false, false},
		{"9", "8", false, true},
		{"9", "10", true, false}, // and not by text
		{"-1", "0", true, false},
		{"+1", "0", false, true},
		{"007", "7", false, false},
		{" 7 ", "8", true, false},
		{"9007199254740992", "9007199254740993", true, false}, // a double takes them for equal
		{"18446744073709551615", "18446744073709551614", false, true},
		{"9223372036854775807", "9223372036854775808", true, false},
		{"123456789012345678901234567890", "123456789012345678901234567891", true, false},
		{"0.1", "0.10", false, false},
		{"0.1", "0.2", true, false},
		{"1.5", "1", false, true},
		{"0.30000000000000004", "0.3", false, true},
		{"", "8", false, false},
		{"8", "", false, false},
		{"x", "8", false, false},
		{"8", "x", false, false},
		{"0x10", "8", false, false},
		{"1_000", "8", false, false},
		{"1/2", "8", false, false},
		{"1e3", "8", false, false},
		{"NaN", "8", false, false},
		{"Inf", "8", false, false},
		{"-Infinity", "8", false, false},
		{"null", "8", false, false},
		{"true", "8", false, false},
		{"[7]", "8", false, false},
		{"1,5", "8", false, false},
		{"--1", "8", false, false},
		{"1-1", "8", false, false},
		{".", "8", false, false},
		{"10000000000000000000000000000000000000000000000000000000000000000000", "8", false, false}, // too long for one
	} {
		for op, want := range map[string]bool{"below": test.below, "above": test.above} {
			c := Condition{Value: "{query.x}", Op: op, Literals: []string{"literal"}}
			if got := c.True(test.value, func(string) string { return test.literal }, nil); got != want {
				t.Errorf("%q %s %q: got %v", test.value, op, test.literal, got)
			}
		}
	}
}

// Nothing is known of what is no JSON.
func TestConditionOnWhatIsNoJSON(t *testing.T) {
	same := func(text string) string { return text }
	for _, test := range []struct {
		status int
		body   string
		holds  bool // where the member is missing
	}{
		{200, `{}`, true},
		{200, `[]`, true},
		{200, `null`, true},
		{200, "\ufeff{}", true},
		{200, ` {} `, true},
		{204, ``, true}, // there is nothing
		{200, ``, false},
		{200, `<html>`, false},
		{200, `{"a":`, false},
		{200, `{"a":NaN}`, false},
		{200, `)]}'` + "\n{}", false},
		{503, `down`, false},
	} {
		a := state.NewAnswer(test.status, make(http.Header), []byte(test.body), nil, 1000)
		s := &state.State{Answer: a, Source: a}
		for _, value := range []string{"{lp.json.x}", "{http.long_poll.json.x}", "-{lp.json.x}"} {
			for op, literal := range map[string]string{"empty": "", "not": "done"} {
				c := Condition{Value: value, Op: op, Literals: []string{literal}}
				if got := c.True("", same, s); got != test.holds {
					t.Errorf("%s %s of %d %q: got %v; want %v", value, op, test.status, test.body, got, test.holds)
				}
			}
		}
		for _, op := range []string{"below", "above"} {
			c := Condition{Value: "{lp.json.x}", Op: op, Literals: []string{"5"}}
			if got := c.True("", same, s); got {
				t.Errorf("%s of %d %q holds", op, test.status, test.body)
			}
		}
		// What does not look into the body is true of it whatever it is.
		for op, value := range map[string]string{"empty": "", "not": "x", "below": "4", "above": "6"} {
			c := Condition{Value: "{lp.header.X}", Op: op, Literals: []string{"5"}}
			if !c.True(value, same, s) {
				t.Errorf("%s of a field of %d %q: does not hold", op, test.status, test.body)
			}
		}
	}
}

func FuzzNumber(f *testing.F) {
	for _, text := range []string{"", "1", "-1.5", "1e9", "0x1", ".", "+.", "1/3", "999999999999999999999999"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, ok := number(text)
		if !ok {
			return
		}
		if b, ok := number(a.FloatString(maxDigits)); len(a.FloatString(maxDigits)) <= maxDigits && (!ok || a.Cmp(b) != 0) {
			t.Errorf("%q: got %v, then %v", text, a, b)
		}
	})
}
