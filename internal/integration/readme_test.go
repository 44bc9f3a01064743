package integration_test

import (
	"encoding/json"
	"fmt"
	"os"
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

// fenced finds README's code blocks; its groups are the language and the code.
var fenced = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// TestREADMECaddyfiles adapts and validates each block of README that is fenced
// as caddyfile. A block that begins with global options or with a site's address
// is a whole Caddyfile; any other is a part of a site.
func TestREADMECaddyfiles(t *testing.T) {
	t.Setenv("REDIS_PASSWORD", "secret") // a recipe reads it
	found := 0
	for _, block := range fenced.FindAllStringSubmatch(read(t, "README.md"), -1) {
		language, code := block[1], block[2]
		if language != "caddyfile" {
			continue
		}
		found++
		if first := firstLine(code); first != "{" && !strings.HasPrefix(first, ":") && !strings.HasPrefix(first, "http://") {
			code = inSite(code)
		}
		t.Run(fmt.Sprintf("%d %s", found, firstLine(block[2])), func(t *testing.T) {
			validate(t, adapt(t, "README.md", code))
		})
	}
	if found == 0 {
		t.Error("no block is fenced as caddyfile")
	}
}

// TestREADMEJSON validates each block of README that is fenced as json: they are
// configurations.
func TestREADMEJSON(t *testing.T) {
	found := 0
	for _, block := range fenced.FindAllStringSubmatch(read(t, "README.md"), -1) {
		if block[1] == "json" {
			found++
			validate(t, []byte(block[2]))
		}
	}
	if found == 0 {
		t.Error("no block is fenced as json")
	}
}

func TestDemoCaddyfile(t *testing.T) {
	const file = "testdata/demo/Caddyfile"
	validate(t, adapt(t, file, read(t, file)))
}

// TestREADMECommands: what README tells people to type is what CI runs, and what
// the demo says about itself.
func TestREADMECommands(t *testing.T) {
	for file, command := range map[string]string{
		"README.md":               demoCommand,
		"testdata/demo/Caddyfile": demoCommand,
		".ci/run":                 testCommand,
	} {
		if !strings.Contains(read(t, file), command) {
			t.Errorf("%s does not have %q", file, command)
		}
	}
	if !strings.Contains(read(t, "README.md"), testCommand) {
		t.Errorf("README.md does not have %q", testCommand)
	}
}

// TestREADMEFields: the manual knows each field of the JSON config.
func TestREADMEFields(t *testing.T) {
	manual := read(t, "README.md")
	for field := range reflect.TypeFor[longpoll.Handler]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name != "" && !strings.Contains(manual, "`"+name) {
			t.Errorf("README.md does not mention `%s`", name)
		}
	}
}

// TestPinnedCaddy: the image is built from the Caddy that the tests ran with.
func TestPinnedCaddy(t *testing.T) {
	required := regexp.MustCompile(`github\.com/caddyserver/caddy/v2 v([0-9.]+)`).FindStringSubmatch(read(t, "go.mod"))
	if required == nil {
		t.Fatal("go.mod does not require Caddy")
	}
	dockerfile := read(t, "xcaddy.Dockerfile")
	for _, pin := range []string{"FROM caddy:%s-builder AS builder\n", "xcaddy build v%s ", "FROM caddy:%s\n"} {
		if want := fmt.Sprintf(pin, required[1]); !strings.Contains(dockerfile, want) {
			t.Errorf("xcaddy.Dockerfile does not have %q", want)
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
	if err := caddy.Validate(&parsed); err != nil {
		t.Fatalf("validating %s: %v", config, err)
	}
}
