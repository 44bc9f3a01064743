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
	Header  http.Header // without hop-by-hop fields and Set-Cookie
	Cookies []string    // Set-Cookie, for the request whose exchange this was
	Absent  []string    // fields that the handlers behind us took away
	Body    []byte

	Plain func() []byte // the body without its content coding; nil if that is unknown
}

// NewAnswer makes an answer of what the handlers behind us said. preset is the header
// that they found, which each client's own way to us sets for itself; limit bounds the
// size of a body (max_body). The header is the answer's from now on.
func NewAnswer(status int, header http.Header, body []byte, preset http.Header, limit int64) *Answer {
	a := &Answer{Status: status, Header: header, Body: body}
	if a.Header == nil {
		a.Header = make(http.Header)
	}
	httphdr.DropHop(a.Header)
	for _, name := range []string{"Proxy-Authenticate", "Date", "Content-Length"} { // the last two are made anew
		delete(a.Header, name)
	}
	a.Cookies = a.Header["Set-Cookie"]
	delete(a.Header, "Set-Cookie")
	for name, values := range preset {
		if name == "Set-Cookie" { // each client has its own already
			a.Cookies = slices.DeleteFunc(a.Cookies, func(c string) bool { return slices.Contains(values, c) })
			continue
		}
		now, ok := a.Header[name]
		if !ok {
			a.Absent = append(a.Absent, name)
		} else if slices.Equal(now, values) {
			delete(a.Header, name)
		}
	}
	a.Plain = decoder(strings.ToLower(a.Header.Get("Content-Encoding")), a.Body, limit)
	return a
}

// Overheard is an answer that was seen on its way to a client.
func Overheard(status int, header http.Header, body []byte, limit int64) *Answer {
	return &Answer{Status: status, Header: header, Body: body,
		Plain: decoder(strings.ToLower(header.Get("Content-Encoding")), body, limit)}
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
	b := *a
	b.Header = a.Header.Clone()
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
	b.Cookies = by.Cookies
	return &b
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
