package httphdr

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// SplitTags splits a list of entity tags (RFC 9110, section 13.1.2), or of other
// things. A comma may stand inside of quotes. A backslash there is part of the tag, unlike
// in a quoted string, so that next does not do. What is malformed is kept as it is: it
// just never matches anything but its like.
func SplitTags(field string) (tags []string) {
	var quoted bool
	start := 0
	add := func(end int) {
		if tag := trim(field[start:end]); tag != "" {
			tags = append(tags, tag)
		}
		start = end + 1
	}
	for i := range len(field) {
		switch {
		case field[i] == '"':
			quoted = !quoted
		case field[i] == ',' && !quoted:
			add(i)
		}
	}
	if start < len(field) {
		add(len(field))
	}
	return tags
}

// Opaque is a tag without W/ and quotes.
func Opaque(tag string) string {
	tag = strings.TrimPrefix(tag, "W/")
	if len(tag) >= 2 && tag[0] == '"' && tag[len(tag)-1] == '"' {
		tag = tag[1 : len(tag)-1]
	}
	return tag
}

// SameTag reports whether two entity tags are the same by weak comparison (RFC 9110,
// section 8.8.3.2), which does not look at W/: Apache's tag of a file has it for the first
// second, and then no more.
func SameTag(a, b string) bool { return strings.TrimPrefix(a, "W/") == strings.TrimPrefix(b, "W/") }

// WeakTag makes a weak entity tag of a version: readable where it can be.
func WeakTag(version string) string {
	ok := version != "" && len(version) <= 64
	for i := 0; ok && i < len(version); i++ {
		c := version[i]
		ok = c > ' ' && c < 0x7f && c != '"' && c != ',' && c != '\\'
	}
	if !ok {
		sum := sha256.Sum256([]byte(version))
		version = hex.EncodeToString(sum[:16])
	}
	return `W/"` + version + `"`
}

// codingSuffixes are what servers add to the tag of an answer that they have compressed:
// Apache and Caddy a hyphen and the coding, Jetty two of them, LiteSpeed a semicolon.
var codingSuffixes = []string{
	"--gzip", "--br", "--zstd", "--deflate",
	"-gzip", "-br", "-zstd", "-deflate",
	";gzip", ";gz", ";br", ";zstd",
}

// WithoutSuffix is an opaque tag without the suffix of a content coding, and whether it
// had one. A backend's own tag may end so too: the tag as it is names a version as well.
func WithoutSuffix(opaque string) (string, bool) {
	for _, suffix := range codingSuffixes {
		if rest, ok := strings.CutSuffix(opaque, suffix); ok && rest != "" {
			return rest, true
		}
	}
	return opaque, false
}
