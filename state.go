package longpoll

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/tidwall/gjson"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// answer is one answer of the backend. It is immutable: what a client is sent is
// a copy of its header, and its body as it is.
type answer struct {
	status  int
	header  http.Header // without hop-by-hop fields and Set-Cookie
	cookies []string    // Set-Cookie, for the request whose exchange this was
	absent  []string    // fields that the handlers behind us took away
	body    []byte
	plain   func() []byte // the body without its content coding; nil if that is unknown
}

// version tells two states of a resource apart. The status is part of it: what
// turned into a 404 has changed, whatever its ETag says.
type version struct {
	status int
	text   string
}

// is reports whether a client that names text has this version.
func (v version) is(text string) bool { return v.text == text }

// state is what one check read, or what it failed with. It is immutable.
type state struct {
	answer *answer // what the backend said; nil if err says it all
	err    error   // the answer is to be made by Caddy's error routes
	seen   *answer // what the version was read from: the answer, or that of the probe

	version version
	etag    string // what the client's copy is known by; empty if by nothing
	through bool   // it can not be shared or held: everybody asks for himself

	owner     uint64     // the question on whose behalf it was read
	variation *variation // what it depends on beyond what is always compared
	varied    lot.Key    // a digest of that, as it was in the request that it was read by

	held bool // it is a fault that a hold_while holds on, and so an answer
	news bool // it could release somebody who is parked on what was read before

	ended  time.Time     // when it had been read
	since  time.Time     // the same of the first state of this version: when the change was seen
	result string        // what the check found, as metrics call it
	pause  time.Duration // until the next check, before jitter
	fails  int           // checks that have failed in a row

	values sync.Map // of strings by gjson path, and one by wholeBody: what was looked up in the body, once for all

	once  sync.Once // see fields
	shown []field
	lines int
}

// code is the status of what the backend said.
func (s *state) code() int { return s.version.status }

// json is a member of the JSON body; "" if it is missing, or the body no JSON.
func (s *state) json(path string) string {
	if v, ok := s.values.Load(path); ok {
		return v.(string)
	}
	var v string
	if s.seen != nil {
		v = member(s.seen.plain(), path)
	}
	s.values.Store(path, v)
	return v
}

// wholeBody is the key in values of what no gjson path gives.
type wholeBody struct{}

// text is the whole body.
func (s *state) text() string {
	if v, ok := s.values.Load(wholeBody{}); ok {
		return v.(string)
	}
	var v string
	if s.seen != nil {
		if v = string(s.seen.plain()); v == "" {
			v = string(s.seen.body) // its content coding may be unknown
		}
	}
	s.values.Store(wholeBody{}, v)
	return v
}

// member is a member of a JSON text; "" if it is missing, or the text no JSON.
func member(text []byte, path string) string {
	// Not gjson.Valid, which takes a stack as deep as the text is nested.
	if !json.Valid(text) {
		return ""
	}
	return gjson.GetBytes(text, path).String()
}

// hash is over the body, less what `ignore` names.
func (h *Handler) hash(a *answer) string {
	body := a.plain()
	if body == nil {
		body = a.body
	}
	if len(h.ignore) > 0 {
		if rest, ok := dropMembers(body, h.ignore); ok {
			body = rest
		}
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:16])
}

// fingerprint is the version of an answer that bears none of its own. It is the
// same in every process and every release, so that clients can move between them:
// never change it.
func (h *Handler) fingerprint(a *answer) string {
	sum := sha256.New()
	var length [8]byte
	for _, part := range []string{
		strconv.Itoa(a.status),
		a.header.Get("Content-Type"),
		a.header.Get("Location"),
		h.hash(a),
	} {
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		sum.Write(length[:])
		io.WriteString(sum, part)
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// matches reports whether one of the tags of an If-None-Match is that of s, by
// weak comparison (RFC 9110, section 8.8.3.2).
func (s *state) matches(tags []string) bool {
	if s.etag == "" {
		return slices.Contains(tags, "*")
	}
	mine := s.opaque(s.etag)
	for _, tag := range tags {
		if tag == "*" || s.opaque(tag) == mine {
			return true
		}
	}
	return false
}

// opaque is what tells a tag from others, less the suffix that Caddy's encode adds
// to a strong one ("v1-gzip"), since the 304 to it says "v1" again.
func (s *state) opaque(tag string) string {
	o := opaque(tag)
	if s.answer != nil {
		if coding := s.answer.header["Content-Encoding"]; len(coding) > 0 && coding[0] != "" {
			o = strings.TrimSuffix(o, "-"+coding[0])
		}
	}
	return o
}

// opaque is a tag without W/ and quotes.
func opaque(tag string) string {
	tag = strings.TrimPrefix(tag, "W/")
	if len(tag) >= 2 && tag[0] == '"' && tag[len(tag)-1] == '"' {
		tag = tag[1 : len(tag)-1]
	}
	return tag
}

// splitTags splits a list of entity tags (RFC 9110, section 13.1.2), or of other
// things. A comma may stand inside of quotes. What is malformed is kept as it is: it
// just never matches anything but its like.
func splitTags(field string) (tags []string) {
	var quoted bool
	start := 0
	cut := func(end int) {
		if tag := strings.Trim(field[start:end], " \t"); tag != "" {
			tags = append(tags, tag)
		}
		start = end + 1
	}
	for i := range len(field) {
		switch {
		case field[i] == '"':
			quoted = !quoted
		case field[i] == ',' && !quoted:
			cut(i)
		}
	}
	if start < len(field) {
		cut(len(field))
	}
	return tags
}

// tagFor makes a weak entity tag of a version: readable where it can be.
func tagFor(v string) string {
	ok := v != "" && len(v) <= 64
	for i := 0; ok && i < len(v); i++ {
		ok = v[i] > ' ' && v[i] < 0x7f && v[i] != '"' && v[i] != ',' && v[i] != '\\'
	}
	if !ok {
		sum := sha256.Sum256([]byte(v))
		v = hex.EncodeToString(sum[:16])
	}
	return `W/"` + v + `"`
}

// maxExpansion bounds what a compressed answer may become when it is looked at, as
// a multiple of max_body: text shrinks to a tenth, a bomb to a thousandth.
const maxExpansion = 16

// decoder returns a function that undoes the content coding of body, once.
func decoder(coding string, body []byte, limit int64) func() []byte {
	var open func(io.Reader) (io.Reader, error)
	switch coding {
	case "", "identity":
		return func() []byte { return body }
	case "gzip", "x-gzip":
		open = func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }
	case "zstd":
		open = func(r io.Reader) (io.Reader, error) {
			d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(max(limit, 1<<23))*maxExpansion))
			if err != nil {
				return nil, err
			}
			return d.IOReadCloser(), nil
		}
	default:
		return func() []byte { return nil }
	}
	return sync.OnceValue(func() []byte {
		r, err := open(bytes.NewReader(body))
		if err != nil {
			return nil
		}
		if c, ok := r.(io.Closer); ok {
			defer c.Close()
		}
		plain, err := io.ReadAll(io.LimitReader(r, limit*maxExpansion+1))
		if err != nil || int64(len(plain)) > limit*maxExpansion {
			return nil
		}
		return plain
	})
}
