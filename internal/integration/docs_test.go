package integration_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	longpoll "github.com/caddy-longpoll/caddy-longpoll"
)

const (
	demoCommand = "go run ./cmd/caddy run --config testdata/demo/Caddyfile"
	testCommand = "go test ./..."
)

// pages are README, the list of examples, and all pages of the manual.
func pages(t *testing.T) []string {
	t.Helper()
	found := []string{"README.md", "examples/README.md"}
	err := filepath.WalkDir("docs", func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// fenced finds a page's code blocks; its groups are the language and the code.
var fenced = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")

// block is one of a page's code blocks.
type block struct{ page, code string }

func (b block) String() string { return b.page + " " + firstLine(b.code) }

// blocks are those that are fenced as language.
func blocks(t *testing.T, language string) (found []block) {
	t.Helper()
	for _, page := range pages(t) {
		for _, b := range fenced.FindAllStringSubmatch(read(t, page), -1) {
			if b[1] == language {
				found = append(found, block{page, b[2]})
			}
		}
	}
	if len(found) == 0 {
		t.Errorf("no block is fenced as %s", language)
	}
	return found
}

// TestDocsCaddyfiles adapts and validates each block that is fenced as caddyfile. A
// block that begins with global options or with a site's address is a whole Caddyfile;
// a synopsis, with its arguments in brackets, is none; any other is a part of a site.
func TestDocsCaddyfiles(t *testing.T) {
	t.Setenv("REDIS_PASSWORD", "secret") // examples read these
	t.Setenv("LONG_POLL_SECRET", "0123456789abcdef")
	for _, b := range blocks(t, "caddyfile") {
		code, first := b.code, firstLine(b.code)
		if strings.Contains(code, "<host:port>") || strings.Contains(first, "[<matcher>]") {
			continue
		}
		if first != "{" && !strings.HasPrefix(first, ":") && !strings.HasPrefix(first, "http://") {
			code = inSite(code)
		}
		t.Run(b.String(), func(t *testing.T) { validate(t, adapt(t, b.page, code)) })
	}
}

// TestDocsJSON validates each block that is fenced as json and is a configuration.
// Others are what is answered, and have to be JSON.
func TestDocsJSON(t *testing.T) {
	configs := 0
	for _, b := range blocks(t, "json") {
		var parsed map[string]any
		if err := json.Unmarshal([]byte(b.code), &parsed); err != nil {
			t.Errorf("%v: %v", b, err)
		}
		if _, ok := parsed["apps"]; ok {
			configs++
			validate(t, []byte(b.code))
		}
	}
	if configs == 0 {
		t.Error("no block is a configuration")
	}
}

// languages are those that blocks are fenced as, with the command that reads a file of
// such code and runs nothing of it; nil where there is none, or another test reads it.
// A command that is not installed reads nothing.
var languages = map[string][]string{
	"sh": {"bash", "-n"}, "python": {"python3", "-m", "py_compile"}, "js": {"node", "--check"},
	"go": {"gofmt", "-e", "-l"}, "php": {"php", "-l"}, "ruby": {"ruby", "-c"},
	"java": nil, "yaml": nil, "http": nil, "text": nil, "caddyfile": nil, "json": nil,
}

// TestDocsPrograms reads each block of code in its language.
func TestDocsPrograms(t *testing.T) {
	suffixes := map[string]string{"js": ".mjs", "go": ".go"}
	for _, page := range pages(t) {
		for i, b := range fenced.FindAllStringSubmatch(read(t, page), -1) {
			language, code := b[1], b[2]
			command, known := languages[language]
			if !known {
				t.Errorf("%s: %q is a language that nothing reads", page, language)
				continue
			}
			if command == nil {
				continue
			}
			t.Run(fmt.Sprintf("%s %d %s", page, i, language), func(t *testing.T) {
				path, err := exec.LookPath(command[0])
				if err != nil {
					t.Skipf("%s is not installed", command[0])
				}
				if language == "php" {
					code = "<?php " + code
				}
				file := filepath.Join(t.TempDir(), "code"+suffixes[language])
				if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
					t.Fatal(err)
				}
				if out, err := exec.Command(path, append(command[1:], file)...).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			})
		}
	}
}

func TestDemoCaddyfile(t *testing.T) {
	const file = "testdata/demo/Caddyfile"
	validate(t, adapt(t, file, read(t, file)))
}

// TestDocsCommands: what README tells people to type is what CI runs, and what the demo
// says about itself.
func TestDocsCommands(t *testing.T) {
	for file, commands := range map[string][]string{
		"README.md":               {demoCommand, testCommand},
		"docs/quickstart.md":      {demoCommand},
		"testdata/demo/Caddyfile": {demoCommand},
		".ci/run":                 {testCommand},
	} {
		for _, command := range commands {
			if !strings.Contains(read(t, file), command) {
				t.Errorf("%s does not have %q", file, command)
			}
		}
	}
}

// TestDocsFields: the reference knows each field of the JSON config, as a subdirective
// or as a part of one.
func TestDocsFields(t *testing.T) {
	manual := read(t, "docs/reference.md")
	for field := range reflect.TypeFor[longpoll.Handler]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name != "" && !strings.Contains(manual, "\n### "+name+"\n") && !strings.Contains(manual, "`"+name+"`") {
			t.Errorf("docs/reference.md does not mention `%s`", name)
		}
	}
}

// TestDocsReference: each subdirective is in the synopsis, and has its syntax, its default,
// what goes wrong and an example that has it.
func TestDocsReference(t *testing.T) {
	sections := strings.Split(read(t, "docs/reference.md"), "\n### ")
	synopsis, _, _ := strings.Cut(sections[0], "\n}\n")
	for _, section := range sections[1:] {
		name, text, _ := strings.Cut(section, "\n")
		if !regexp.MustCompile(`\n\t` + name + `[ \n]`).MatchString(synopsis + "\n") {
			t.Errorf("docs/reference.md: the synopsis does not have %s", name)
		}
		text, _, _ = strings.Cut(text, "\n## ")
		for _, want := range []string{"\n`" + name, "\n- Default: ", "goes wrong"} {
			if !strings.Contains(text, want) {
				t.Errorf("docs/reference.md: %s does not have %q", name, strings.TrimSpace(want))
			}
		}
		found := false
		for _, b := range fenced.FindAllStringSubmatch(text, -1) {
			// hold stands on the directive's own line.
			found = found || b[1] == "caddyfile" && (strings.Contains(b[2], "\t"+name) || name == "hold")
		}
		if !found {
			t.Errorf("docs/reference.md: %s has no example", name)
		}
	}
}

// TestPinnedCaddy: the image is built from the Caddy that the tests ran with, and so
// does the manual say.
func TestPinnedCaddy(t *testing.T) {
	required := regexp.MustCompile(`github\.com/caddyserver/caddy/v2 v([0-9.]+)`).FindStringSubmatch(read(t, "go.mod"))
	if required == nil {
		t.Fatal("go.mod does not require Caddy")
	}
	const xcaddy = "xcaddy build v%s "
	for file, pins := range map[string][]string{
		"xcaddy.Dockerfile": {"FROM caddy:%s-builder AS builder\n", xcaddy, "FROM caddy:%s\n"},
		"README.md":         {xcaddy},
		"docs/install.md":   {xcaddy},
	} {
		for _, pin := range pins {
			if want := fmt.Sprintf(pin, required[1]); !strings.Contains(read(t, file), want) {
				t.Errorf("%s does not have %q", file, want)
			}
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// firstLine is the first line of a Caddyfile that says something.
func firstLine(code string) string {
	for line := range strings.Lines(code) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return ""
}

// inSite wraps a part of a site, indented as `caddy fmt` wants it.
func inSite(code string) string {
	var site strings.Builder
	site.WriteString(":8080 {\n")
	for line := range strings.Lines(code + "reverse_proxy localhost:9000\n") {
		if strings.TrimSpace(line) != "" {
			site.WriteString("\t")
		}
		site.WriteString(line)
	}
	site.WriteString("}\n")
	return site.String()
}

// adapt also fails on a warning, such as that `caddy fmt` would change something.
func adapt(t *testing.T, file, code string) []byte {
	t.Helper()
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(code), map[string]any{"filename": file})
	if err != nil {
		t.Fatalf("adapting: %v\n%s", err, code)
	}
	for _, warning := range warnings {
		t.Errorf("adapting: %v\n%s", warning, code)
	}
	return config
}

func validate(t *testing.T, config []byte) {
	t.Helper()
	var parsed caddy.Config
	if err := json.Unmarshal(config, &parsed); err != nil {
		t.Fatalf("reading %s: %v", config, err)
	}
	provisioning.Lock()
	defer provisioning.Unlock()
	if err := caddy.Validate(&parsed); err != nil {
		t.Fatalf("validating %s: %v", config, err)
	}
}
