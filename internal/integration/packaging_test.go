package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackagingDockerfile: `docker build .` makes the image of xcaddy.Dockerfile, whose
// binary starts where all capabilities are dropped, and which keeps what it writes.
func TestPackagingDockerfile(t *testing.T) {
	image := read(t, "xcaddy.Dockerfile")
	if read(t, "Dockerfile") != image {
		t.Error("Dockerfile is another one than xcaddy.Dockerfile")
	}
	for _, want := range []string{"XCADDY_SETCAP=0 ", `test -z "$(getcap /usr/bin/caddy)"`, "\nUSER 1000:1000\n"} {
		if !strings.Contains(image, want) {
			t.Errorf("xcaddy.Dockerfile does not have %q", want)
		}
	}
	// what changes a volume after it is declared is lost
	if _, after, declared := strings.Cut(image, "\nVOLUME [\"/data\", \"/config\"]\n"); !declared || strings.Contains(after, "\nRUN ") {
		t.Error("xcaddy.Dockerfile does not declare its volumes after what it does to them")
	}
}

// TestPackagingCI: what CI runs on a forge is what everybody can run.
func TestPackagingCI(t *testing.T) {
	workflow := read(t, ".github/workflows/ci.yml")
	if !strings.Contains(workflow, "- run: .ci/run\n") {
		t.Error("the workflow does not run .ci/run")
	}
	if info, err := os.Stat(".ci/run"); err != nil || info.Mode()&0o111 == 0 {
		t.Errorf(".ci/run can not be run: %v", err)
	}
	_, rest, _ := strings.Cut(read(t, "go.mod"), "\ngo ")
	version, _, _ := strings.Cut(rest, "\n")
	if minor := strings.Join(strings.Split(version, ".")[:2], "."); !strings.Contains(workflow, "image: golang:"+minor+"-") {
		t.Errorf("the workflow does not have Go %s", minor)
	}
}

// TestPackagingPages: the pages that a forge shows beside README say the two commands, and
// link to what exists.
func TestPackagingPages(t *testing.T) {
	for page, commands := range map[string][]string{
		"CONTRIBUTING.md": {demoCommand, testCommand, ".ci/run"},
		"SECURITY.md":     nil,
		"CHANGELOG.md":    nil,
	} {
		for _, command := range commands {
			if !strings.Contains(read(t, page), command) {
				t.Errorf("%s does not have %q", page, command)
			}
		}
		for _, l := range link.FindAllStringSubmatch(prose(t, page), -1) {
			target, _, _ := strings.Cut(l[1], "#")
			if target == "" || strings.Contains(target, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), target)); err != nil {
				t.Errorf("%s links to %s: %v", page, l[1], err)
			}
		}
	}
}
