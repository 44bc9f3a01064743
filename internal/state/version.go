package state

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/caddy-longpoll/caddy-longpoll/internal/delta"
	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// Rules is the part of the configuration that decides what the version of an answer
// is (contract 4).
type Rules struct {
	Ignore      [][]string       // members that are no change, see [MemberPath]
	IgnoreMatch []*regexp.Regexp // texts that are none
	Configured  bool             // `version` gives it
	Named       bool             // clients name it by `since`, not by If-None-Match
	Delta       delta.Kind       // how a change is told to who has the former state; empty is by the whole state
}

// NewRules reads what is no change: the paths of members and the expressions.
func NewRules(ignore, ignoreMatch []string) (*Rules, error) {
	ru := new(Rules)
	for _, path := range ignore {
		parts, err := MemberPath(path)
		if err != nil {
			return nil, fmt.Errorf("ignore: %w", err)
		}
		ru.Ignore = append(ru.Ignore, parts)
	}
	for _, text := range ignoreMatch {
		noise, err := regexp.Compile(text)
		if err != nil {
			return nil, fmt.Errorf("ignore_match %q: %w; expected a regular expression of Go (RE2)", text, err)
		}
		ru.IgnoreMatch = append(ru.IgnoreMatch, noise)
	}
	return ru, nil
}

// Hashes reports whether the version is the hash, whatever ETag the answer has.
func (ru *Rules) Hashes() bool { return len(ru.Ignore) > 0 || len(ru.IgnoreMatch) > 0 }

// MakesETag reports whether the ETag that clients know an answer by is made here,
// although the answer may have one.
func (ru *Rules) MakesETag() bool { return ru.Hashes() || ru.Configured && !ru.Named }

// Version is that of an answer; text is what `version` gives, if it is configured: where
// that is empty the version is what it would be without.
func (ru *Rules) Version(a *Answer, text string) Version {
	v := Version{Status: a.Status, Text: text}
	switch {
	case text != "":
	case !ru.Hashes() && a.Header.Get("Etag") != "":
		v.Text = a.Header.Get("Etag")
	default:
		v.Text = ru.fingerprint(a)
	}
	return v
}

// ETag is what a client's copy of an answer is known by, v being the version.
func (ru *Rules) ETag(a *Answer, v Version) string {
	tag := a.Header.Get("Etag")
	if a.Status/100 != 2 {
		return tag
	}
	switch {
	case tag == "" && ru.Configured && ru.Named:
		return ""
	case tag == "" || ru.MakesETag() && !httphdr.SameTag(tag, v.Text):
		// Where clients name the version by If-None-Match, it has to be the version
		// that they are given. It may be the backend's own: `version` gave nothing.
		return httphdr.WeakTag(v.Text)
	}
	return tag
}

// hash is over the body, less what `ignore` names.
func (ru *Rules) hash(a *Answer) string {
	body := a.Plain()
	if body == nil {
		body = a.Body
	}
	if len(ru.Ignore) > 0 {
		if rest, ok := dropMembers(body, ru.Ignore); ok {
			body = rest
		}
	}
	for _, noise := range ru.IgnoreMatch {
		body = noise.ReplaceAllLiteral(body, nil)
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:16])
}

// fingerprint is the version of an answer that bears none of its own. It is the
// same in every process and every release, so that clients can move between them:
// never change it.
func (ru *Rules) fingerprint(a *Answer) string {
	var space [256]byte
	text := space[:0]
	for _, part := range [...]string{
		strconv.Itoa(a.Status),
		a.Header.Get("Content-Type"),
		a.Header.Get("Location"),
		ru.hash(a),
	} {
		text = binary.BigEndian.AppendUint64(text, uint64(len(part)))
		text = append(text, part...)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// isPlaceholder reports whether key is one that Placeholder knows.
func isPlaceholder(key string) bool {
	switch key {
	case "status", "etag", "hash", "version", "body":
		return true
	}
	return strings.HasPrefix(key, "header.") || strings.HasPrefix(key, "json.")
}

// Placeholder resolves the placeholders that speak of the backend's answer: key is
// one without our prefix. A nil state has them all empty.
func (ru *Rules) Placeholder(s *State, key string) (any, bool) {
	if s == nil {
		return "", isPlaceholder(key)
	}
	switch key {
	case "status":
		if s.Code() == 0 {
			return "", true
		}
		return strconv.Itoa(s.Code()), true
	case "version":
		return s.Version.Text, true
	case "body":
		return s.Text(), true
	}
	if path, ok := strings.CutPrefix(key, "json."); ok {
		return s.JSON(path), true
	}
	a := s.Source
	if a == nil {
		return "", isPlaceholder(key)
	}
	switch key {
	case "etag":
		return strings.Join(a.said("Etag"), ", "), true
	case "hash":
		if a.unread {
			return "", true
		}
		if v, ok := s.load(hashed{}); ok {
			return v, true
		}
		v := ru.hash(a)
		s.loadOrStore(hashed{}, v)
		return v, true
	}
	if name, ok := strings.CutPrefix(key, "header."); ok {
		return strings.Join(a.said(http.CanonicalHeaderKey(name)), ", "), true
	}
	return nil, false
}
