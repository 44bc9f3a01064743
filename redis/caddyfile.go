package redis

import (
	"fmt"

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
		Block: directive.Block{
			// A password with a space in it, or on the wrong line, is in one of the secret ones.
			"address":  {Args: "<host:port>...", Min: 1, Max: directive.Many, Set: directive.List(&w.Address), Secret: true},
			"master":   {Args: "<name>", Min: 1, Max: 1, Set: directive.Value(&w.Master, directive.Text)},
			"username": {Args: "<text>", Min: 1, Max: 1, Set: directive.Value(&w.Username, directive.Text), Secret: true},
			"password": {Args: "<text>", Min: 1, Max: 1, Set: directive.Value(&w.Password, directive.Text), Secret: true},
			"db":       {Args: "<n>", Min: 1, Max: 1, Set: directive.Pointer(&w.DB, directive.Number)},
			"tls":      {Args: "[insecure_skip_verify]", Max: 1, Set: w.setTLS},
			"url":      {Args: "<redis url>", Min: 1, Max: 1, Set: directive.Value(&w.URL, directive.Text), Secret: true},
			"channel":  {Args: "<text>...", Min: 1, Max: directive.Many, Set: directive.List(&w.Channel)},
			"pattern":  {Args: "<text>...", Min: 1, Max: directive.Many, Set: directive.List(&w.Pattern)},
			"keyspace": {Args: "<key>...", Min: 1, Max: directive.Many, Set: directive.List(&w.Keyspace)},
			"sharded":  {Set: directive.Flag(&w.Sharded)},
		},
	}.Read(d)
}

func (w *Waker) setTLS(args []string) error {
	w.TLS = &TLS{InsecureSkipVerify: len(args) > 0}
	if len(args) > 0 && args[0] != "insecure_skip_verify" {
		return fmt.Errorf("unknown option %q", args[0])
	}
	return nil
}
