package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRecipes: each recipe of the manual is what the test of its system has used, but
// for the hold, which is shorter here where the client does not say how long it
// waits.
func TestRecipes(t *testing.T) {
	pages, err := filepath.Glob("../docs/recipes/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("there are no recipes: %v", err)
	}
	var manual strings.Builder
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		manual.Write(text)
	}
	files, err := filepath.Glob("../testdata/dialects/*.Caddyfile")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no dialects: %v", err)
	}
	// What a site has, up to its reverse_proxy.
	site := regexp.MustCompile(`(?ms)^\{\$LISTEN:[^ ]*\} \{\n(.*)^\treverse_proxy \{\$BACKEND:localhost:9000\}\n\}\n$`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := site.FindSubmatch(text)
		if found == nil {
			t.Errorf("%s is not a site with a reverse_proxy at its end", file)
			continue
		}
		recipe := regexp.MustCompile(`(?m)^\t`).ReplaceAllString(string(found[1]), "")
		recipe = "\n```caddyfile\n" + strings.Replace(recipe, " {$HOLD}", "", 1) + "```\n"
		if !strings.Contains(manual.String(), recipe) {
			t.Errorf("docs/recipes does not have the recipe of %s:\n%s", file, recipe)
		}
	}
}
