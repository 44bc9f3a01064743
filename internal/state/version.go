package state

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"strconv"
	"strings"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// Rules is the part of the configuration that decides what the version of an answer
// is (contract 4).
type Rules struct {
	Ignore     [][]string // members that are no change, see [MemberPath]
	Configured bool       // `version` gives it
	Named      bool       // clients name it by `since`, not by If-None-Match
}

// Version is that of an answer; text is what `version` gives, if it is configured.
func (ru *Rules) Version(a *Answer, text string) Version {
	v := Version{Status: a.Status, Text: text}
	switch {
	case ru.Configured:
	case len(ru.Ignore) == 0 && a.Header.Get("Etag") != "":
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
	own := len(ru.Ignore) > 0 || tag == ""
	if ru.Configured {
		// Where clients name the version by If-None-Match, it has to be the version
		// that they are given.
		own = !ru.Named
	}
	if own {
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
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:16])
}

// fingerprint is the version of an answer that bears none of its own. It is the
// same in every process and every release, so that clients can move between them:
// never change it.
func (ru *Rules) fingerprint(a *Answer) string {
	sum := sha256.New()
	var length [8]byte
	for _, part := range []string{
		strconv.Itoa(a.Status),
		a.Header.Get("Content-Type"),
		a.Header.Get("Location"),
		ru.hash(a),
	} {
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		sum.Write(length[:])
		io.WriteString(sum, part)
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// IsPlaceholder reports whether key is one that Placeholder knows.
func IsPlaceholder(key string) bool {
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
		return "", IsPlaceholder(key)
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
		return "", IsPlaceholder(key)
	}
	switch key {
	case "etag":
		return a.Header.Get("Etag"), true
	case "hash":
		return ru.hash(a), true
	}
	if name, ok := strings.CutPrefix(key, "header."); ok {
		return strings.Join(a.Header.Values(name), ", "), true
	}
	return nil, false
}
