package integration_test

import (
	"encoding/xml"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocsImages: each image of the manual is shown by a page, and is what a page may
// show: XML without a script, with a text for who can not see it, a background of its own,
// and colours for dark pages too.
func TestDocsImages(t *testing.T) {
	images, err := filepath.Glob("docs/img/*")
	if err != nil || len(images) < 3 {
		t.Fatalf("found %v: %v", images, err)
	}
	shown := make(map[string]bool)
	for _, page := range pages(t) {
		for _, l := range link.FindAllStringSubmatch(prose(t, page), -1) {
			shown[filepath.Join(filepath.Dir(page), l[1])] = true
		}
	}
	for _, image := range images {
		text := read(t, image)
		if !shown[image] {
			t.Errorf("no page shows %s", image)
		}
		for _, want := range []string{"<title ", "<desc ", `class="page"`, "prefers-color-scheme: dark"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s has no %s", image, want)
			}
		}
		for d := xml.NewDecoder(strings.NewReader(text)); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", image, err)
			}
			if element, ok := token.(xml.StartElement); ok && (element.Name.Local == "script" || element.Name.Local == "foreignObject") {
				t.Errorf("%s has a %s", image, element.Name.Local)
			}
		}
	}
}
