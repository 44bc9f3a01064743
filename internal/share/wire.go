package share

import (
	"net/http"
	"slices"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/wire"
)

// Personal reports whether a state that depends on v is not to leave this process: what it
// depends on is one request alone, or a credential, of which no digest is to be seen
// elsewhere. credentials reports whether those who share have any.
func (v *Variation) Personal(credentials bool) bool {
	return v != nil && (v.all || v.private && !credentials || slices.ContainsFunc(v.fields, httphdr.LikeCredentials))
}

// Append appends v, which is not nil.
func (v *Variation) Append(b []byte) []byte {
	return append(wire.AppendTexts(wire.AppendTexts(b, v.fields), v.wanted), bit(v.private))
}

// ReadVariation reads what Append has written. What it says is not trusted: there are
// fields and placeholders in it in the form in which Variation has them, or it fails.
func ReadVariation(r *wire.Reader) *Variation {
	v := &Variation{fields: r.Texts(), wanted: r.Texts()}
	if private := r.Bytes(1); len(private) > 0 {
		v.private = private[0] == 1
	}
	for _, name := range v.fields {
		if name == "" || http.CanonicalHeaderKey(name) != name {
			r.Fail()
		}
	}
	sorted := func(texts []string) bool {
		return slices.IsSorted(texts) && len(slices.Compact(slices.Clone(texts))) == len(texts)
	}
	if len(v.wanted) > MaxWanted || len(v.fields) > maxFields || !sorted(v.fields) || !sorted(v.wanted) {
		r.Fail()
	}
	return v
}

// maxFields bounds the fields of a Variation that somebody else has read: a Vary with more
// is no Vary.
const maxFields = 64
