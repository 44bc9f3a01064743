package cluster

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"sync"
	"weak"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
)

// Membership is the part of the configuration that is about a cluster.
type Membership struct {
	// Checks are shared with other Caddys: a guest module that they meet at. Default:
	// none, each checks for itself.
	ClusterRaw json.RawMessage `json:"cluster,omitempty" caddy:"namespace=http.long_poll.clusters inline_key=cluster"`
}

// Subdirectives are those that fill in the options.
func (o *Membership) Subdirectives() directive.Block {
	return directive.Block{"cluster": {Guest: o.unmarshal}}
}

func (o *Membership) unmarshal(d *caddyfile.Dispenser) error {
	given := o.ClusterRaw != nil
	raw, name, err := directive.Guest(d, "http.long_poll.clusters", "cluster")
	if err == nil && given {
		err = d.Errf("parsing cluster %q: given twice; expected at most one cluster", name)
	}
	if err != nil {
		return err
	}
	o.ClusterRaw = raw
	return nil
}

// LoadBoard is the board that the members meet at; nil if none is configured. o is embedded
// in host.
func (o *Membership) LoadBoard(ctx caddy.Context, host any) (Board, error) {
	if o.ClusterRaw == nil {
		return nil, nil
	}
	guest, err := ctx.LoadModule(host, "ClusterRaw")
	if err != nil {
		return nil, fmt.Errorf("loading cluster: %w", err)
	}
	board, ok := guest.(Board)
	if !ok {
		return nil, fmt.Errorf("loading cluster: module %T is not a Board; expected one with the method Claim and its like", guest)
	}
	return board, nil
}

// places counts the handlers of each server that share.
var places struct {
	mu   sync.Mutex // protects next
	next map[weak.Pointer[caddyhttp.Server]]int
}

// Place tells a handler from the others of its Caddy, which may have another backend: other
// Caddys with the same sites have one in the same place.
type Place struct {
	Server string
	Number int
}

// PlaceOf is the place of a handler that is provisioned now.
func PlaceOf(server *caddyhttp.Server) Place {
	if server == nil {
		return Place{}
	}
	places.mu.Lock()
	defer places.mu.Unlock()
	maps.DeleteFunc(places.next, func(s weak.Pointer[caddyhttp.Server], _ int) bool { return s.Value() == nil })
	if places.next == nil {
		places.next = make(map[weak.Pointer[caddyhttp.Server]]int)
	}
	of := weak.Make(server)
	places.next[of]++
	return Place{server.Name(), places.next[of]}
}

// Digest is one of what is configured.
func Digest(parts ...any) (sum [sha256.Size]byte) {
	text, err := json.Marshal(parts)
	if err != nil {
		panic(err) // what was decoded from JSON can be encoded
	}
	return sha256.Sum256(text)
}

// WakesOf is a digest of the wakers that are configured, less writes, of which all are
// told, and less what they connect with: the digest is in messages, and a password could be
// found out from it by trying. It is never 0.
func WakesOf(raw []json.RawMessage) uint64 {
	var others []any
	for _, guest := range raw {
		var fields map[string]any // in a fixed order, once they are encoded again
		if json.Unmarshal(guest, &fields) == nil && fields["waker"] != "writes" {
			maps.DeleteFunc(fields, func(name string, _ any) bool { return isCredential(name) })
			if text, ok := fields["url"].(string); ok {
				fields["url"] = withoutCredentials(text)
			}
			others = append(others, fields)
		}
	}
	sum := Digest(others)
	return binary.BigEndian.Uint64(sum[:8]) | 1
}

// isCredential reports whether a field of a waker's configuration, or a parameter of a url in
// it, bears the name of what it connects with.
func isCredential(name string) bool {
	for _, suffix := range []string{"username", "password", "secret", "token"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// withoutCredentials is a url without what it connects with; nothing of what is no url.
func withoutCredentials(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	query := u.Query()
	maps.DeleteFunc(query, func(name string, _ []string) bool { return isCredential(name) })
	u.User, u.RawQuery = nil, query.Encode()
	return u.String()
}
