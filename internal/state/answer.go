package state

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// Answer is one answer of the backend. It is immutable: what a client is sent is a
// copy of its header, and its body as it is.
type Answer struct {
	Status  int
	Header  http.Header // without hop-by-hop fields and Set-Cookie; Date and Content-Length are the backend's, clients are sent others
	Cookies []string    // Set-Cookie, for the request whose exchange this was
	Absent  []string    // fields that the handlers behind us took away, or never gave
	Added   []string    // fields to which they added: Header has what they added alone
	Body    []byte

	limit  int64 // max_body
	unread bool  // nothing is known of the body

	mu      sync.Mutex // protects what follows
	decoded bool
	settled bool
	plain   []byte // see Plain
}

// NewAnswer makes an answer of what the handlers behind us said. preset is the header
// that they found, which each client's own way to us sets for itself; limit bounds the
// size of a body (max_body). The header is the answer's from now on.
func NewAnswer(status int, header http.Header, body []byte, preset http.Header, limit int64) *Answer {
	a := &Answer{Status: status, Header: header, Body: body, limit: limit}
	if a.Header == nil {
		a.Header = make(http.Header)
	}
	httphdr.DropHop(a.Header)
	delete(a.Header, "Proxy-Authenticate")
	if status == 0 {
		delete(a.Header, "Date")
	}
	if !httphdr.HasBody(status) {
		delete(a.Header, "Content-Length") // a proxy may have left a 0
	}
	a.Cookies = a.Header["Set-Cookie"]
	delete(a.Header, "Set-Cookie")
	for name, values := range preset {
		if name == "Set-Cookie" { // each client has its own already
			a.Cookies = slices.DeleteFunc(a.Cookies, func(c string) bool { return slices.Contains(values, c) })
			continue
		}
		now, ok := a.Header[name]
		switch {
		case !ok:
			a.Absent = append(a.Absent, name)
		case ofVersion(name): // whoever has set it
		case slices.Equal(now, values):
			delete(a.Header, name)
		case name != "Cache-Control" && name != "Vary" && len(now) > len(values) && slices.Equal(now[:len(values)], values):
			// What stands before it is of one client (a nonce, an address): others have theirs.
			a.Header[name] = now[len(values):]
			a.Added = append(a.Added, name)
		}
	}
	return a
}

// ofVersion reports whether the version of an answer may depend on a field of it.
func ofVersion(name string) bool {
	return name == "Etag" || name == "Content-Type" || name == "Location"
}

// Overheard is an answer that was seen on its way to a client; without a body if that
// was not.
func Overheard(status int, header http.Header, body []byte, limit int64) *Answer {
	a := new(Answer)
	a.Overhear(status, header, body, limit)
	return a
}

// Overhear makes a, which is new, what Overheard makes.
func (a *Answer) Overhear(status int, header http.Header, body []byte, limit int64) {
	a.Status, a.Header, a.Body, a.limit, a.unread = status, header, body, limit, body == nil
}

// said are the values of a field that the backend has given: the header of an answer that
// was overheard is its client's, and has others too.
func (a *Answer) said(name string) []string {
	if slices.Contains(a.Absent, name) {
		return nil
	}
	return a.Header[name]
}

// Plain is the body without its content coding; nil if that is unknown. It is decoded
// once, as long as the answer is looked at, and anew each time when it is [Answer.Settle]d.
func (a *Answer) Plain() []byte {
	coding := a.coding()
	if coding == "" || coding == "identity" {
		return a.Body
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.decoded {
		return a.plain
	}
	plain := decode(coding, a.Body, a.limit)
	if !a.settled {
		a.plain, a.decoded = plain, true
	}
	return plain
}

// Gunzip undoes gzip of an answer for those who do not take it: backends code so whatever
// they are asked for, and net/http's transport undoes it for clients that say nothing of
// codings, but not for a check, which asks for none. It reports false where the body turns
// out larger than max_body. What can not be decoded stays as it is.
func (a *Answer) Gunzip() bool {
	if c := a.coding(); c != "gzip" && c != "x-gzip" || len(a.Body) == 0 || !httphdr.HasBody(a.Status) {
		return true
	}
	plain := a.Plain()
	switch {
	case plain == nil:
		return true
	case int64(len(plain)) > a.limit:
		return false
	}
	a.Body = plain
	delete(a.Header, "Content-Encoding")
	delete(a.Header, "Content-Length")
	return true
}

// Settle lets go of the decoded body: what had to be found out of it has been, and what
// is kept for as long as somebody waits is small.
func (a *Answer) Settle() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.plain, a.decoded, a.settled = nil, false, true
}

// Forget lets go of the body too, of an answer that was overheard: what has not been found
// out of it by now is as in a body that was not seen.
func (a *Answer) Forget() {
	a.Settle()
	a.Body, a.unread = nil, true
}

func (a *Answer) coding() string { return strings.ToLower(a.Header.Get("Content-Encoding")) }

// Decodable reports whether Plain knows how to undo the content coding of an answer
// with that header.
func Decodable(header http.Header) bool {
	switch strings.ToLower(header.Get("Content-Encoding")) {
	case "", "identity", "gzip", "x-gzip", "zstd":
		return true
	}
	return false
}

// Validator is what the next check asks with. An answer that is not 2xx has none: a
// 304 would not tell whether it or another with its ETag is meant.
func (a *Answer) Validator() string {
	if a == nil || a.Status/100 != 2 {
		return ""
	}
	return a.Header.Get("Etag")
}

// Freshened is a, after the 304 by said that it is still good (RFC 9111, section
// 3.2). The ETag stays: Caddy's encode puts the one without its suffix into a 304.
func (a *Answer) Freshened(by *Answer) *Answer {
	b := &Answer{Status: a.Status, Header: a.Header.Clone(), Cookies: by.Cookies, Absent: a.Absent, Body: a.Body, limit: a.limit}
	b.Added = slices.DeleteFunc(slices.Clone(a.Added), func(name string) bool { return by.Header[name] != nil })
	b.Added = append(b.Added, by.Added...)
	for _, name := range httphdr.PauseFields {
		delete(b.Header, name) // it asked for a pause then, and does not now
	}
	for name, values := range by.Header {
		switch name {
		case "Etag", "Content-Encoding", "Content-Type", "Content-Range":
		case "Vary":
			for _, v := range values { // less would let others read it
				if !slices.Contains(b.Header[name], v) {
					b.Header[name] = append(b.Header[name], v)
				}
			}
		default:
			b.Header[name] = values
		}
	}
	return b
}

// maxExpansion bounds what a compressed answer may become when it is looked at, as
// a multiple of max_body: text shrinks to a tenth, a bomb to a thousandth.
const maxExpansion = 16

// decode undoes the content coding of body; nil if it can not be undone.
func decode(coding string, body []byte, limit int64) []byte {
	var r io.Reader
	switch coding {
	case "gzip", "x-gzip":
		d, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil
		}
		r = d
	case "zstd":
		d, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(max(limit, 1<<23))*maxExpansion))
		if err != nil {
			return nil
		}
		defer d.Close()
		r = d
	default:
		return nil
	}
	plain, err := io.ReadAll(io.LimitReader(r, limit*maxExpansion+1))
	if err != nil || int64(len(plain)) > limit*maxExpansion {
		return nil
	}
	return plain
}
