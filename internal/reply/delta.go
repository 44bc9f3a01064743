package reply

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddy-longpoll/caddy-longpoll/internal/delta"
	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// manipulation is what a kind of patches is called in A-IM and IM (RFC 3229, section
// 10.5); its media type is application/<that>+json.
func manipulation(kind delta.Kind) string { return strings.ReplaceAll(string(kind), "_", "-") }

// delta sends what is different from the version that the client has named, where it asks
// for that and there is a patch (contract 13.8). It reports whether it has.
func (re *Writer) delta(p *poll.Poll, w http.ResponseWriter) bool {
	s := p.Told
	im := manipulation(re.Rules.State.Delta)
	if s.Code() != http.StatusOK || re.unread(s) || !httphdr.Manipulates(p.Request.Header, im) {
		return false
	}
	d, base := s.History.Patch(p.Names)
	if d == nil {
		return false
	}
	fields(w, p, s)
	header := w.Header()
	for name := range header {
		if httphdr.OfRepresentation(name) {
			delete(header, name)
		}
	}
	header["Content-Type"] = []string{"application/" + im + "+json"}
	header["Content-Length"] = []string{strconv.Itoa(len(d.Patch))}
	header["Im"] = []string{im}
	header["Delta-Base"] = []string{cmp.Or(base.Tag, strconv.Quote(base.Version))}
	header["Cache-Control"] = []string{"no-store"} // a cache that does not know 226 would take it for all there is
	re.mark(p, w)
	_ = send(w, p.Request, http.StatusIMUsed, d.Patch)
	return true
}
