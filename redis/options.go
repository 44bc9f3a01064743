package redis

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
)

// Server is where a Redis server is, and as whom to connect: the options that all have
// in common who use one.
type Server struct {
	// The server as host:port. Several are nodes of a cluster, or with `master`
	// sentinels. Global placeholders such as `{env.REDIS_ADDRESS}` are replaced.
	// Default: 127.0.0.1:6379; with `master` 127.0.0.1:26379.
	Address []string `json:"address,omitempty"`

	// The name by which the sentinels know the master. Default: none, `address`
	// is no sentinel.
	Master string `json:"master,omitempty"`

	// The ACL user; needs `password`. Global placeholders are replaced.
	// Default: Redis' own default user.
	Username string `json:"username,omitempty"`

	// Global placeholders such as `{env.REDIS_PASSWORD}` are replaced.
	// Default: none.
	Password string `json:"password,omitempty"`

	// The number of the database, which matters to `keyspace` only: channels
	// belong to none. A cluster has no other than 0. Default: 0.
	DB *int `json:"db,omitempty"`

	// Encrypts the connections, those to sentinels too. Default: off.
	TLS *TLS `json:"tls,omitempty"`

	// All of the above in one: `redis://`, `rediss://` (TLS) or `unix://`, in the
	// form that go-redis reads: with the parameter `addr` it is a cluster, with
	// `master_name` sentinels, with `skip_verify` TLS without verification. Its
	// parameters for pools and time-outs have no effect. Global placeholders are
	// replaced first, so what they stand for must be percent-encoded. Excludes
	// the fields above.
	URL string `json:"url,omitempty"`
}

// TLS is how connections are encrypted.
type TLS struct {
	// Accept any certificate. Default: it must be valid for the host's name.
	InsecureSkipVerify bool `json:"insecure_skip_verify,omitempty"`
}

// server resolves where and as whom to connect.
func (o *Server) server(repl *caddy.Replacer) (server, error) {
	if o.URL != "" {
		return parseURL(repl.ReplaceKnown(o.URL, ""))
	}
	s := server{
		master:   o.Master,
		username: repl.ReplaceKnown(o.Username, ""),
		password: repl.ReplaceKnown(o.Password, ""),
		tls:      o.TLS != nil,
	}
	if o.TLS != nil {
		s.insecureSkipVerify = o.TLS.InsecureSkipVerify
	}
	if o.DB != nil {
		s.db = *o.DB
	}
	for _, a := range o.Address {
		s.addrs = append(s.addrs, repl.ReplaceKnown(a, ""))
	}
	if len(s.addrs) == 0 {
		s.addrs = []string{"127.0.0.1:6379"}
		if s.master != "" {
			s.addrs[0] = "127.0.0.1:26379"
		}
	}
	return s, nil
}

// subdirectives are those that fill in the options.
func (o *Server) subdirectives() directive.Block {
	return directive.Block{
		// A password with a space in it, or on the wrong line, is in one of the secret ones.
		"address":  {Args: "<host:port>...", Min: 1, Max: directive.Many, Set: directive.List(&o.Address), Secret: true},
		"master":   {Args: "<name>", Min: 1, Max: 1, Set: directive.Value(&o.Master, directive.Text)},
		"username": {Args: "<text>", Min: 1, Max: 1, Set: directive.Value(&o.Username, directive.Text), Secret: true},
		"password": {Args: "<text>", Min: 1, Max: 1, Set: directive.Value(&o.Password, directive.Text), Secret: true},
		"db":       {Args: "<n>", Min: 1, Max: 1, Set: directive.Pointer(&o.DB, directive.Number)},
		"tls":      {Args: "[insecure_skip_verify]", Max: 1, Set: o.setTLS},
		"url":      {Args: "<redis url>", Min: 1, Max: 1, Set: directive.Value(&o.URL, directive.Text), Secret: true},
	}
}

func (o *Server) setTLS(args []string) error {
	o.TLS = &TLS{InsecureSkipVerify: len(args) > 0}
	if len(args) > 0 && args[0] != "insecure_skip_verify" {
		return fmt.Errorf("unknown option %q", args[0])
	}
	return nil
}

// validate judges the options, s being what they come to. No error repeats the url or
// the password.
func (o *Server) validate(s server) error { return cmp.Or(o.validateURL(), o.validateServer(s)) }

func (o *Server) validateURL() error {
	if o.URL == "" {
		return nil
	}
	for _, other := range []struct {
		name  string
		given bool
	}{
		{"address", len(o.Address) > 0},
		{"master", o.Master != ""},
		{"username", o.Username != ""},
		{"password", o.Password != ""},
		{"db", o.DB != nil},
		{"tls", o.TLS != nil},
	} {
		if other.given {
			return fmt.Errorf("url with %s: expected one of them, since a url can say it all", other.name)
		}
	}
	return nil
}

func (o *Server) validateServer(s server) error {
	switch {
	case o.Username != "" && s.username == "":
		return fmt.Errorf("username %q: is empty once placeholders are replaced; expected a name", o.Username)
	case o.Password != "" && s.password == "":
		return fmt.Errorf("password %q: is empty once placeholders are replaced; expected a text", o.Password)
	case s.username != "" && s.password == "":
		return fmt.Errorf("username %q: has no password; expected both", s.username)
	case s.db < 0:
		return fmt.Errorf(`db "%d": expected 0 or more`, s.db)
	case s.db > 0 && s.cluster():
		return fmt.Errorf(`db "%d" with several addresses: expected 0, since a cluster has no other`, s.db)
	}
	for i, a := range o.Address {
		if strings.Contains(s.addrs[i], "@") { // it may hold a password
			return errors.New("address: has an @; expected <host:port>, or the whole as url")
		}
		if err := validateAddress(s.addrs[i]); err != nil {
			return fmt.Errorf("address %q: %w; expected <host:port>, such as 127.0.0.1:6379", cmp.Or(s.addrs[i], a), err)
		}
	}
	return nil
}
