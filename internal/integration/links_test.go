package integration_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	longpoll "github.com/caddy-longpoll/caddy-longpoll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// maxREADME is how many lines a busy person reads.
const maxREADME = 150

func TestDocsREADMEIsShort(t *testing.T) {
	if n := strings.Count(read(t, "README.md"), "\n"); n > maxREADME {
		t.Errorf("README.md has %d lines instead of at most %d", n, maxREADME)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} (.*)$`)
	symbols = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// prose is a page without its code blocks.
func prose(t *testing.T, page string) string {
	t.Helper()
	return fenced.ReplaceAllString(read(t, page), "")
}

// anchors are what a page's headings are found by, as GitHub makes them.
func anchors(t *testing.T, page string) (found []string) {
	t.Helper()
	for _, h := range heading.FindAllStringSubmatch(prose(t, page), -1) {
		found = append(found, strings.ReplaceAll(symbols.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-"))
	}
	return found
}

// TestDocsLinks: what is linked to exists, and so does its heading.
func TestDocsLinks(t *testing.T) {
	for _, page := range pages(t) {
		for _, l := range link.FindAllStringSubmatch(prose(t, page), -1) {
			target, anchor, named := strings.Cut(l[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := page
			if target != "" {
				file = filepath.Join(filepath.Dir(page), target)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s: %v", page, l[1], err)
			} else if named && !slices.Contains(anchors(t, file), anchor) {
				t.Errorf("%s links to %s, where there is no such heading", page, l[1])
			}
		}
	}
}

// TestDocsIndex: each page is in the index of its folder.
func TestDocsIndex(t *testing.T) {
	for _, page := range pages(t)[1:] {
		if index := filepath.Join(filepath.Dir(page), "README.md"); page != index &&
			!strings.Contains(read(t, index), "]("+filepath.Base(page)+")") {
			t.Errorf("%s does not link to %s", index, page)
		}
	}
}

// TestDocsContents: each section of the contract is in its list of contents.
func TestDocsContents(t *testing.T) {
	text := read(t, "docs/contract.md")
	for _, section := range regexp.MustCompile(`(?m)^## (\d+\.) (.*)$`).FindAllStringSubmatch(text, -1) {
		if want := "\n" + section[1] + " [" + section[2] + "](#"; !strings.Contains(text, want) {
			t.Errorf("the list of contents does not have %q", section[2])
		}
	}
}

// TestDocsVersion: the check that the manual shows is one of this release.
func TestDocsVersion(t *testing.T) {
	if want := "User-Agent: long_poll/" + longpoll.Version + "\n"; !strings.Contains(read(t, "docs/vary.md"), want) {
		t.Errorf("docs/vary.md does not have %q", want)
	}
}

// TestDocsPersonalFields: the list of what is neither compared nor carried is the one
// that the code has.
func TestDocsPersonalFields(t *testing.T) {
	_, list, found := strings.Cut(read(t, "docs/vary.md"), "\n## Neither compared nor carried\n")
	list, _, ended := strings.Cut(list, "\n### Not on the list\n")
	_, list, begun := strings.Cut(list, "\n### ")
	if !found || !ended || !begun {
		t.Fatal("docs/vary.md has no such list")
	}
	var names []string
	for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(list, -1) {
		names = append(names, http.CanonicalHeaderKey(name[1]))
	}
	slices.Sort(names)
	want := httphdr.PersonalFields()
	for _, name := range want {
		if !slices.Contains(names, name) {
			t.Errorf("docs/vary.md does not have %s", name)
		}
	}
	for i, name := range names {
		if !slices.Contains(want, name) {
			t.Errorf("docs/vary.md has %s, which is compared", name)
		}
		if i > 0 && name == names[i-1] {
			t.Errorf("docs/vary.md has %s twice", name)
		}
	}
}
