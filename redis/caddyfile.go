package redis

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
)

// UnmarshalCaddyfile sets up the waker from Caddyfile tokens. It parses and
// judges nothing but what JSON can not express: that is for Validate. Syntax:
//
//	wake redis {
//	    address   <host:port>...
//	    master    <name>
//	    username  <text>
//	    password  <text>
//	    db        <n>
//	    tls       [insecure_skip_verify]
//	    url       <redis url>
//	    channel   <text>...
//	    pattern   <text>...
//	    keyspace  <key>...
//	    sharded
//	}
func (w *Waker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the waker's name
	return directive.Table{
		Name: "wake redis",
		Line: directive.Subdirective{Args: "{ ... }", Secret: true},
		Block: directive.Join(w.Server.subdirectives(), directive.Block{
			"channel":  {Args: "<text>...", Min: 1, Max: directive.Many, Set: directive.List(&w.Channel)},
			"pattern":  {Args: "<text>...", Min: 1, Max: directive.Many, Set: directive.List(&w.Pattern)},
			"keyspace": {Args: "<key>...", Min: 1, Max: directive.Many, Set: directive.List(&w.Keyspace)},
			"sharded":  {Set: directive.Flag(&w.Sharded)},
		}),
	}.Read(d)
}
