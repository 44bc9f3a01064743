package directive_test

import (
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
)

// thing is what the directive of the tests sets up.
type thing struct {
	Hold    *caddy.Duration
	Jitter  *float64
	Pause   caddy.Duration
	Word    string
	Secret  string
	Paths   []string
	Fields  []string
	Size    *int64
	Count   int
	Shadow  bool
	Guest   string
	refusal error
}

func (th *thing) read(input string) error {
	d := caddyfile.NewTestDispenser(input)
	d.Next()
	hold := directive.Each(directive.Pointer(&th.Hold, directive.Duration), directive.Pointer(&th.Jitter, directive.Percent))
	return directive.Table{
		Name:   "thing",
		Line:   directive.Subdirective{Args: "[<hold>]", Max: 1, Set: hold},
		LineIs: "hold",
		Block: map[string]directive.Subdirective{
			"hold":   {Args: "<duration> [<jitter>%]", Min: 1, Max: 2, Set: hold},
			"pause":  {Args: "<duration>", Min: 1, Max: 1, Set: directive.Value(&th.Pause, directive.Duration)},
			"word":   {Args: "<text>", Min: 1, Max: 1, Set: directive.Value(&th.Word, directive.Text)},
			"secret": {Args: "<text>", Min: 1, Max: 1, Set: directive.Value(&th.Secret, directive.Text), Secret: true},
			"paths":  {Args: "<path>...", Min: 1, Max: directive.Many, Set: directive.List(&th.Paths)},
			"fields": {Args: "<field>...", Min: 1, Max: directive.Many, Set: directive.List(&th.Fields), Repeats: true},
			"size":   {Args: "<size>", Min: 1, Max: 1, Set: directive.Pointer(&th.Size, directive.Size)},
			"count":  {Args: "<n>", Min: 1, Max: 1, Set: directive.Value(&th.Count, directive.Number)},
			"shadow": {Set: directive.Flag(&th.Shadow)},
			"refuse": {Args: "<n>", Max: 1, Set: func([]string) error { return th.refusal }},
			"guest": {Guest: func(d *caddyfile.Dispenser) error {
				if !d.NextArg() {
					return d.Err("parsing guest: no name")
				}
				th.Guest += d.Val()
				for nesting := d.Nesting(); d.NextBlock(nesting); {
					th.Guest += d.Val()
				}
				return nil
			}},
		},
	}.Read(d)
}

func TestRead(t *testing.T) {
	t.Parallel()
	minute, ten, kib := caddy.Duration(time.Minute), 10.0, int64(1024)
	for _, c := range []struct {
		input string
		want  thing
	}{
		{"thing", thing{}},
		{"thing {\n}", thing{}},
		{"thing 1m", thing{Hold: &minute}},
		{"thing {\nhold 1m 10%\npause 1d\n}", thing{Hold: &minute, Jitter: &ten, Pause: caddy.Duration(24 * time.Hour)}},
		{"thing {\nword \"a b\"\nsecret s\nsize 1KiB\ncount -3\nshadow\n}", thing{Word: "a b", Secret: "s", Size: &kib, Count: -3, Shadow: true}},
		{"thing {\npaths a b\nfields c \"\"\nfields d\n}", thing{Paths: []string{"a", "b"}, Fields: []string{"c", "", "d"}}},
		{"thing 1m {\nguest a {\nb\n}\nguest c\nword x\n}", thing{Hold: &minute, Guest: "abc", Word: "x"}},
	} {
		var got thing
		if err := got.read(c.input); err != nil {
			t.Errorf("%s: %v", c.input, err)
		} else if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", c.input, got, c.want)
		}
	}
}

func TestReadErrors(t *testing.T) {
	t.Parallel()
	for input, want := range map[string]string{
		"thing 1m 10%":                 `parsing thing "1m 10%": surplus argument "10%"; expected thing [<hold>]`,
		`thing ""`:                     `parsing thing "": empty argument; expected thing [<hold>]`,
		"thing {\ncolour red\n}":       `parsing thing: unknown subdirective "colour"; expected count, fields, guest, hold, paths, pause, refuse, secret, shadow, size or word`,
		"thing 1m {\nhold 2m\n}":       `parsing hold "2m": given twice; expected at most one hold`,
		"thing {\npaths a\npaths b\n}": `parsing paths "b": given twice; expected at most one paths`,
		"thing {\nhold\n}":             `parsing hold "": missing argument; expected hold <duration> [<jitter>%]`,
		"thing {\nhold 1m 1% 2\n}":     `parsing hold "1m 1% 2": surplus argument "2"; expected hold <duration> [<jitter>%]`,
		"thing {\nhold 1m 10\n}":       `parsing hold "1m 10": "10" is not a percentage such as 10%; expected hold <duration> [<jitter>%]`,
		"thing {\nhold 1m NaN%\n}":     `parsing hold "1m NaN%": "NaN%" is not a percentage such as 10%; expected hold <duration> [<jitter>%]`,
		"thing {\nhold 1m Inf%\n}":     `parsing hold "1m Inf%": "Inf%" is not a percentage such as 10%; expected hold <duration> [<jitter>%]`,
		"thing {\npause 10\n}":         `parsing pause "10": time: missing unit in duration "10"; expected pause <duration>`,
		"thing {\ncount 1.5\n}":        `parsing count "1.5": "1.5" is not a whole number; expected count <n>`,
		"thing {\nsize 1XB\n}":         `parsing size "1XB": "1XB" is not a size such as 1MiB; expected size <size>`,
		"thing {\nsize 9EiB\n}":        `parsing size "9EiB": "9EiB" is not a size such as 1MiB; expected size <size>`,
		"thing {\nshadow yes\n}":       `parsing shadow "yes": surplus argument "yes"; expected shadow alone`,
		"thing {\nword \"\"\n}":        `parsing word "": empty argument; expected word <text>`,
		"thing {\nword a {\nb\n}\n}":   `parsing word: unexpected block; expected word <text>`,
		"thing {\nrefuse 7\n}":         `parsing refuse "7": refused; expected refuse <n>`,
		"thing {\nguest\n}":            `parsing guest: no name`,

		// None of these repeats an argument.
		"thing {\nsecret my own\n}":      `parsing secret: surplus argument; expected secret <text>`,
		"thing {\nsecret \"\"\n}":        `parsing secret: empty argument; expected secret <text>`,
		"thing {\nsecret a\nsecret a\n}": `parsing secret: given twice; expected at most one secret`,
	} {
		th := thing{refusal: errors.New("refused")}
		if err := th.read(input); err == nil || !strings.HasPrefix(err.Error(), want+", at Testfile:") {
			t.Errorf("%s: got error %v, want %s", input, err, want)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	number, duration := -1, caddy.Duration(0)
	for _, c := range []struct {
		err  error
		want string
	}{
		{directive.AboveZero[int]("n", nil), ""},
		{directive.AboveZero("n", &number), `n "-1": expected more than 0`},
		{directive.AboveZero("d", &duration), `d "0s": expected more than 0`},
		{directive.NotNegative("d", &duration), ""},
		{directive.NotNegative("n", &number), `n "-1": expected 0 or more`},
		{directive.OneOf("o", "", "a", "b"), ""},
		{directive.OneOf("o", "b", "a", "b"), ""},
		{directive.OneOf("o", "c", "a", "b"), `o "c": expected a or b`},
		{directive.OneOf("o", "d", "a", "b", "c"), `o "d": expected a, b or c`},
		{directive.Vary("v", []string{"X-A", "-X-B", "client_ip", "x-a"}), ""},
		{directive.Vary("v", []string{"-client_ip", "X-B"}), ""},
		{directive.Vary("v", []string{"X-A", ""}), `v "": expected the name of a header field or client_ip, with or without a - in front`},
		{directive.Vary("v", []string{"-"}), `v "-": expected the name of a header field or client_ip, with or without a - in front`},
		{directive.Vary("v", []string{"-X-A", "x-a"}), `v "x-a" with "-X-A": expected one of them, since one compares what the other does not`},
		{directive.Methods("m", []string{"GET", "REPORT"}), ""},
		{directive.Methods("m", []string{"GET", "post"}), `m "post": expected HTTP methods such as GET`},
		{directive.Header("h", http.Header{"X-A": {"b"}}), ""},
		{directive.Header("h", http.Header{"X A": {"b"}}), `h "X A": expected the name of a header field`},
		{directive.Header("h", http.Header{"X-A": {"b\n"}}), `h "X-A": value "b\n": expected text without control characters`},
		{directive.Regexps("r", []string{`\d+`, "(?i)a|b"}), ""},
		{directive.Regexps("r", []string{`a`, ""}), `r "": expected a regular expression that is not empty`},
		{directive.Regexps("r", []string{`(a)\1`}), "r \"(a)\\\\1\": error parsing regexp: invalid escape sequence: `\\1`; expected a regular expression of Go (RE2)"},
		{directive.Comparison("c", "{a}", "is", []string{"b", ""}), ""},
		{directive.Comparison("c", "{a}", "empty", nil), ""},
		{directive.Comparison("c", "{a}", "below", []string{"-1.5"}), ""},
		{directive.Comparison("c", "{a}", "above", []string{"{b}"}), ""},
		{directive.Comparison("c", "{a}", "not", nil), `c "{a} not": expected literals after not`},
		{directive.Comparison("c", "", "empty", nil), `c " empty": expected a value, usually a placeholder such as {lp.json.status}`},
		{directive.Comparison("c", "{a}", "below", []string{"NaN"}), `c "{a} below NaN": expected one number after below, or a placeholder that gives one`},
		{directive.Comparison("c", "{a}", "over", []string{"1"}), `c "{a} over 1": unknown comparison "over"; expected is, not, empty, below or above`},
		{directive.Status("s", 200, "x"), ""},
		{directive.Status("s", 599, ""), ""},
		{directive.Status("s", 304, ""), ""},
		{directive.Status("s", 199, ""), `s "199": expected a status from 200 to 599`},
		{directive.Status("s", 600, "x"), `s "600 x": expected a status from 200 to 599`},
		{directive.Status("s", 204, "x"), `s "204 x": expected no body, since an answer with the status 204 has none`},
	} {
		got := ""
		if c.err != nil {
			got = c.err.Error()
		}
		if got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}
