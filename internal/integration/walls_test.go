package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "github.com/caddy-longpoll/caddy-longpoll"

// dependencies are what each package of this module needs, directly or not, its tests
// aside.
func dependencies(t *testing.T) map[string][]string {
	t.Helper()
	list := exec.Command("go", "list", "-json=ImportPath,Deps", "./...")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("listing packages: %v", err)
	}
	all := make(map[string][]string)
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Deps       []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p.Deps
	}
}

// Arrows between rooms point down.
func TestWalls(t *testing.T) {
	all := dependencies(t)
	room := func(name string) []string {
		t.Helper()
		deps, ok := all[root+"/internal/"+name]
		if !ok {
			t.Fatalf("there is no room %s", name)
		}
		return deps
	}
	for _, name := range []string{"lot", "httphdr", "line", "share", "state", "sse", "delta"} {
		for _, dep := range room(name) {
			if strings.HasPrefix(dep, "github.com/caddyserver/") {
				t.Errorf("%s imports Caddy: %s", name, dep)
			}
		}
	}
	for path, deps := range all {
		if strings.HasPrefix(path, root+"/internal/") && slices.Contains(deps, root) {
			t.Errorf("%s imports the root", strings.TrimPrefix(path, root+"/"))
		}
	}
	for _, name := range []string{"park", "reply"} {
		if slices.Contains(room("check"), root+"/internal/"+name) {
			t.Errorf("check imports %s: the two sides meet in state and lot only", name)
		}
	}
	for _, name := range []string{"reply", "check", "ops"} {
		if slices.Contains(room("detach"), root+"/internal/"+name) {
			t.Errorf("detach imports %s: it is given what answers and what counts", name)
		}
	}
	for _, name := range []string{"park", "reply", "check", "ops"} {
		for _, other := range []string{"park", "reply", "check", "ops"} {
			if slices.Contains(room(name), root+"/internal/"+other) {
				t.Errorf("%s imports %s", name, other)
			}
		}
	}
}

// sources are the Go files of this module: benchmarks and clients of other languages,
// which are modules of their own, are not among them.
func sources(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != dir:
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil || strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir
			}
		case strings.HasSuffix(path, ".go"):
			files = append(files, path)
		}
		return nil
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("finding sources: %d files, %v", len(files), err)
	}
	return files
}

// A poll starts no goroutine but the one of OnOwnStack.
func TestPollStartsNoGoroutine(t *testing.T) {
	var own int
	for _, file := range sources(t, "internal/poll") {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range tree.Decls {
			ast.Inspect(decl, func(n ast.Node) bool {
				if _, ok := n.(*ast.GoStmt); !ok {
					return true
				}
				if f, ok := decl.(*ast.FuncDecl); ok && f.Name.Name == "OnOwnStack" {
					own++
				} else {
					t.Errorf("%s starts a goroutine", set.Position(n.Pos()))
				}
				return true
			})
		}
	}
	if own != 1 {
		t.Errorf("OnOwnStack starts %d goroutines; want 1", own)
	}
}

// A file is read at one sitting.
func TestFilesAreShort(t *testing.T) {
	for _, file := range sources(t, ".") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		limit := 400
		if strings.HasSuffix(file, "_test.go") {
			limit = 800
		}
		if n := bytes.Count(text, []byte("\n")); n > limit {
			t.Errorf("%s has %d lines; want %d at most", file, n, limit)
		}
	}
}

// cited finds what a comment cites of the contract: the numbers after the word.
var cited = regexp.MustCompile(`contract\s+(?://\s*)?(\d+(?:\.\d+)?(?:(?:,| and| to|, and)\s+(?://\s*)?\d+(?:\.\d+)?)*)`)

// TestCitations: what the code cites of the contract is a section or a rule of it, and
// nothing cites a page that is not in the repository.
func TestCitations(t *testing.T) {
	sections := make(map[string]bool)
	for _, heading := range regexp.MustCompile(`(?m)^##+ (\d+(?:\.\d+)?)[. ]`).FindAllStringSubmatch(read(t, "docs/contract.md"), -1) {
		sections[heading[1]] = true
	}
	var found int
	for _, dir := range []string{".", "bench", "e2e"} {
		for _, file := range sources(t, dir) {
			text := read(t, file)
			for _, c := range cited.FindAllStringSubmatch(text, -1) {
				for _, number := range regexp.MustCompile(`\d+(?:\.\d+)?`).FindAllString(c[1], -1) {
					found++
					if !sections[number] {
						t.Errorf("%s cites contract %s, which docs/contract.md does not have", file, number)
					}
				}
			}
			if regexp.MustCompile(`\bSPE[C]\b`).MatchString(text) {
				t.Errorf("%s cites a page that is not here; want docs/contract.md", file)
			}
		}
	}
	if found < 10 {
		t.Errorf("found %d citations; want those of the whole module", found)
	}
}
