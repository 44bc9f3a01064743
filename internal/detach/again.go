package detach

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// once is the request of a poll as it goes over a connection, for the server to read it
// once more: as it was before it was rewritten, but for fields that handlers on the way
// to us have set or taken off.
func once(p *poll.Poll) []byte {
	r := p.Request
	method, uri := r.Method, r.RequestURI
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		method, uri = orig.Method, orig.RequestURI
	}
	var b bytes.Buffer
	b.WriteString(oneLine.Replace(method+" "+uri+" HTTP/1.1") + "\r\nHost: " + oneLine.Replace(r.Host) + "\r\n")
	except := map[string]bool{"Transfer-Encoding": true, "Content-Length": true, "Expect": true}
	_ = r.Header.WriteSubset(&b, except)
	if len(p.Body) > 0 {
		b.WriteString("Content-Length: " + strconv.Itoa(len(p.Body)) + "\r\n")
	}
	b.WriteString("\r\n")
	b.Write(p.Body)
	return b.Bytes()
}

// oneLine takes line ends out: a handler in front may have made the host of anything.
var oneLine = strings.NewReplacer("\r", "", "\n", "")
