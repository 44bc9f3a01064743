package directive

import (
	"slices"
	"strings"
)

// NeverTag reports whether what `since` reads is never an ETag or a hash, as far as its
// name tells: these are the version of an answer where `version` is not given. given are
// texts that clients get with an answer: where one of them says the version, clients can
// name it in any place.
func NeverTag(since string, given []string) bool {
	if since == "" {
		return false
	}
	for _, name := range names([]string{since}) {
		name = strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(name))
		if slices.ContainsFunc([]string{"tag", "nonematch", "hash"}, func(word string) bool { return strings.Contains(name, word) }) {
			return false
		}
	}
	for _, name := range names(given) {
		for _, prefix := range prefixes {
			if own, ok := strings.CutPrefix(name, prefix); ok && slices.Contains([]string{"version", "etag", "hash", "header.etag"}, strings.ToLower(own)) {
				return false
			}
		}
	}
	return true
}
