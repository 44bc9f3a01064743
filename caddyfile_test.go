package longpoll

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

var update = flag.Bool("update", false, "rewrite the goldens in testdata/adapt")

// goldenWaker is a guest module with one option, so that the goldens of wake do
// not change with what the real wakers read.
type goldenWaker struct {
	Paths []string `json:"paths,omitempty"`
	Word  string   `json:"word,omitempty"`
}

func init() { caddy.RegisterModule(goldenWaker{}) }

func (goldenWaker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.long_poll.wakers.golden",
		New: func() caddy.Module { return new(goldenWaker) },
	}
}

func (g *goldenWaker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume waker name
	g.Paths = d.RemainingArgs()
	for d.NextBlock(0) {
		if d.Val() != "word" {
			return d.Errf("parsing golden: unknown option %q", d.Val())
		}
		if !d.AllArgs(&g.Word) {
			return d.ArgErr()
		}
	}
	return nil
}

func (goldenWaker) Watch(*caddy.Replacer, func()) (stop func()) { return func() {} }

const goldenSeparator = "\n----------\n"

// TestAdaptGoldens adapts and validates the Caddyfile in each golden, and compares
// what comes out: the JSON, or the error. Those that are named invalid_ fail.
func TestAdaptGoldens(t *testing.T) {
	for name, golden := range readGoldens(t) {
		t.Run(name, func(t *testing.T) {
			input, want, found := strings.Cut(golden, goldenSeparator)
			if !found && !*update {
				t.Fatalf("no line of dashes between input and output")
			}
			input = strings.TrimSpace(input) + "\n"

			got, err := adaptAndValidate(t, []byte(input))
			if err != nil {
				got = err.Error()
				// What Caddy says before depends on its version, and on where the
				// judgement fell: in Provision or in Validate.
				if _, judgement, ok := strings.Cut(got, "http.handlers.long_poll: "); ok {
					got = strings.TrimPrefix(judgement, "invalid configuration: ")
				}
			}
			if invalid := strings.HasPrefix(name, "invalid_"); invalid != (err != nil) {
				t.Fatalf("a name that begins with invalid_: %v, but the outcome is\n%s", invalid, got)
			}
			if *update {
				golden = input + goldenSeparator[1:] + got + "\n"
				if err := os.WriteFile(filepath.Join("testdata", "adapt", name), []byte(golden), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want = strings.TrimSpace(want); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// readGoldens returns the goldens by the names of their files.
func readGoldens(tb testing.TB) map[string]string {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "adapt", "*.caddyfiletest"))
	if err != nil || len(files) == 0 {
		tb.Fatalf("finding goldens: %d files, %v", len(files), err)
	}
	goldens := make(map[string]string)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		goldens[filepath.Base(file)] = strings.ReplaceAll(string(content), "\r\n", "\n")
	}
	return goldens
}

// adaptAndValidate does what `caddy validate` does, and returns the indented JSON.
func adaptAndValidate(t *testing.T, input []byte) (string, error) {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(input, nil)
	if err != nil {
		return "", err
	}
	for _, warning := range warnings {
		t.Errorf("adapting: %v", warning)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, adapted, "", "\t"); err != nil {
		t.Fatal(err)
	}
	config := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(adapted, config); err != nil {
		t.Fatal(err)
	}
	config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "discard"}`)}},
	}}
	return indented.String(), caddy.Validate(config)
}

// TestValidateJSON has the mistakes that a Caddyfile can not express, or that
// its parser finds first.
func TestValidateJSON(t *testing.T) {
	for config, want := range map[string]string{
		`{}`: "",
		`{"hold": "30s", "jitter": 0, "wait_unit": "s", "unversioned": "answer", "on_error": "hold"}`: "",
		`{"interval": "1s", "max_interval": "1s"}`:                                                    "",
		`{"since": "{query.since}", "unset": ["0"]}`:                                                  "",
		`{"on_timeout": {"replay": true}}`:                                                            "",
		`{"max_body": -1}`:                                                                            `max_body "-1": expected more than 0`,
		`{"unset": ["0", "now"]}`:                                                                     `unset ["0" "now"]: expected a since whose values they are`,
		`{"hold_while": [{"op": "empty"}]}`:                                                           `hold_while " empty": expected a value, usually a placeholder such as {lp.json.status}`,
		`{"hold_while": [{"value": "{lp.status}"}]}`:                                                  `hold_while "{lp.status} ": unknown comparison ""; expected is, not, empty, below or above`,
		`{"probe": {}}`: `probe "": expected a URI that begins with a slash or a placeholder`,
		`{"probe": {"uri": "{http.request.uri.query.rev}"}}`:         `probe "{http.request.uri.query.rev}": expected a URI that begins with a slash, or with a placeholder of a path ({path}, {dir}) or of the configuration (of map, vars, env), and not with what clients choose`,
		`{"probe": {"uri": "{lp.request.form.rev}"}}`:                `probe "{lp.request.form.rev}": expected a URI that begins with a slash, or with a placeholder of a path ({path}, {dir}) or of the configuration (of map, vars, env), and not with what clients choose`,
		`{"probe": {"uri": "{http.long_poll.request.json.rev}"}}`:    `probe "{http.long_poll.request.json.rev}": expected a URI that begins with a slash, or with a placeholder of a path ({path}, {dir}) or of the configuration (of map, vars, env), and not with what clients choose`,
		`{"probe": {"uri": "{http.regexp.q.1}"}}`:                    `probe "{http.regexp.q.1}": expected a URI that begins with a slash, or with a placeholder of a path ({path}, {dir}) or of the configuration (of map, vars, env), and not with what clients choose`,
		`{"probe": {"uri": "{http.auth.user.id}"}}`:                  `probe "{http.auth.user.id}": expected a URI that begins with a slash, or with a placeholder of a path ({path}, {dir}) or of the configuration (of map, vars, env), and not with what clients choose`,
		`{"probe": {"uri": "{http.request.uri.path.dir}/rev"}}`:      "",
		`{"probe": {"uri": "{rev}"}}`:                                "",
		`{"version": "{lp.version}"}`:                                `version "{lp.version}": expected what an answer says, such as {lp.json.revision}, and not what becomes of it`,
		`{"header": {"Content-Length": ["5"]}}`:                      `header "Content-Length": expected a field that says nothing of how the answer is sent`,
		`{"header": {"transfer-encoding": ["chunked"]}}`:             `header "transfer-encoding": expected a field that says nothing of how the answer is sent`,
		`{"on_change": {"replay": true}}`:                            `on_change "replay": expected a status, since replay is for on_timeout only`,
		`{"on_change": {"body": "gone"}}`:                            `on_change "0 gone": expected a status from 200 to 599`,
		`{"on_timeout": {}}`:                                         `on_timeout "0": expected a status from 200 to 599`,
		`{"on_timeout": {"replay": true, "status": 200}}`:            `on_timeout "200" with replay: expected replay alone, or a status with or without a body`,
		`{"header": {"": ["x"]}}`:                                    `header "": expected the name of a header field`,
		`{"vary": [""]}`:                                             `vary "": expected the name of a header field or client_ip, with or without a - in front`,
		`{"vary": ["client_ip", "-X-Trace", "-x-trace"]}`:            "",
		`{"max_memory": -1}`:                                         `max_memory "-1": expected more than 0`,
		`{"max_memory": 0}`:                                          `max_memory "0": expected more than 0`,
		`{"polls": "asked", "ignore": ["a"], "ignore_match": ["b"]}`: "",
		`{"hold_while": [{"value": "{lp.json.a}", "op": "below", "literals": ["{http.request.uri.query.b}"]}]}`: "",
		`{"hold_while": [{"value": "{lp.json.a}", "op": "above"}]}`:                                             `hold_while "{lp.json.a} above": expected one number after above, or a placeholder that gives one`,
		`{"ignore": [""]}`: `ignore: parsing member path "": expected a name, a number or # at its end`,
	} {
		h := new(Handler)
		if err := caddy.StrictUnmarshalJSON([]byte(config), h); err != nil {
			t.Fatalf("%s: %v", config, err)
		}
		got := ""
		if err := h.Validate(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", config, got, want)
		}
	}
}

// TestUnresolved has what Caddy's own shorthands leave as it is: one warning says so.
func TestUnresolved(t *testing.T) {
	for config, want := range map[string][]any{
		`{"since": "{http.request.uri.query.since}", "version": "{lp.json.rev}", "key": ["{http.vars.client_ip} \\{host}"]}`: nil,
		`{"since": "{query.$deltatoken}"}`: {`since {query.$deltatoken}: expected {http.request.uri.query.$deltatoken}`},
		`{"key": ["{client_ip}", "a{header.X-Tenant}"]}`: {
			`key {client_ip}: expected {http.vars.client_ip}`,
			`key {header.X-Tenant}: expected {http.request.header.X-Tenant}`,
		},
		`{"on_change": {"status": 200, "body": "{\"host\": {\"a\": \"{re.a.1}\"}}"}}`: {`on_change {re.a.1}: expected {http.regexp.a.1}`},
		`{"probe": {"uri": "/rev?{query}"}, "header": {"X": ["{form.a}", "{file./etc/hostname}"]}}`: {
			`header {form.a}: expected {lp.request.form.a}`,
			`probe {query}: expected {http.request.uri.query}`,
		},
	} {
		core, logs := observer.New(zap.DebugLevel)
		h := new(Handler)
		if err := caddy.StrictUnmarshalJSON([]byte(config), h); err != nil {
			t.Fatalf("%s: %v", config, err)
		}
		h.warnUnresolved(zap.New(core))
		var got []any
		for _, entry := range logs.All() {
			if entry.Level != zap.WarnLevel {
				t.Errorf("%s: logged as %v", config, entry.Level)
			}
			got = append(got, entry.ContextMap()["placeholders"].([]any)...)
		}
		if !reflect.DeepEqual(got, want) || logs.Len() > 1 {
			t.Errorf("%s: %d lines, got %q, want %q", config, logs.Len(), got, want)
		}
	}
}

// TestUnheld has a since that nobody can be held by: one warning says so.
func TestUnheld(t *testing.T) {
	for config, want := range map[string]int{
		`{}`: 0,
		`{"since": "{http.request.uri.query.index}"}`:                                                                 1,
		`{"since": "{http.request.uri.query.index}", "probe": {"uri": "/rev"}}`:                                       1,
		`{"since": "{http.request.uri.query.index}", "version": "{lp.json.rev}"}`:                                     0,
		`{"since": "{http.request.uri.query.index}", "unversioned": "park"}`:                                          0,
		`{"since": "{http.request.uri.query.index}", "hold_while": [{"value": "{lp.json.a}", "op": "empty"}]}`:        0,
		`{"since": "{http.request.uri.query.index}", "header": {"X-Index": ["{lp.version}"]}}`:                        0,
		`{"since": "{http.request.uri.query.index}", "on_change": {"status": 200, "body": "{\"i\": \"{lp.hash}\"}"}}`: 0,
		`{"since": "{http.request.header.If-None-Match}"}`:                                                            0,
	} {
		core, logs := observer.New(zap.DebugLevel)
		h := new(Handler)
		if err := caddy.StrictUnmarshalJSON([]byte(config), h); err != nil {
			t.Fatalf("%s: %v", config, err)
		}
		h.warnUnheld(zap.New(core))
		if logs.Len() != want || logs.FilterLevelExact(zap.WarnLevel).Len() != want {
			t.Errorf("%s: got %v; want %d warnings", config, logs.All(), want)
		}
	}
}

// FuzzCaddyfile looks for input that makes the parser or Validate panic, or that
// is parsed into what JSON can not hold.
func FuzzCaddyfile(f *testing.F) {
	// Few seeds: the first run of each costs more than a hundred later ones.
	for _, name := range []string{"all", "wake", "on_change_heredoc", "invalid_block_for_none", "ignore_match", "hold_while_below"} {
		_, after, _ := strings.Cut(readGoldens(f)[name+".caddyfiletest"], "\tlong_poll")
		directive, _, _ := strings.Cut(after, "\treverse_proxy")
		f.Add("long_poll" + directive)
	}
	f.Fuzz(func(t *testing.T, input string) {
		tokens, err := caddyfile.Tokenize([]byte(input), "Caddyfile")
		if err != nil {
			return
		}
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			return
		}
		_ = h.Validate() // it may find anything, but must come back
		encoded, err := json.Marshal(h)
		if err != nil {
			t.Fatalf("marshaling: %v", err)
		}
		if err := caddy.StrictUnmarshalJSON(encoded, new(Handler)); err != nil {
			t.Fatalf("unmarshaling %s: %v", encoded, err)
		}
	})
}
