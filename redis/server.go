package redis

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// server is where to connect and as whom, with no placeholders left. Two wakers
// for which it is the same share a link.
type server struct {
	addrs              []string
	master             string
	username           string
	password           string
	sentinelUsername   string
	sentinelPassword   string
	db                 int
	tls                bool
	insecureSkipVerify bool
}

func (s server) cluster() bool {
	return s.master == "" && len(s.addrs) > 1
}

// key identifies the server without telling its password.
func (s server) key() [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%#v", s))
}

// options are those of a client that is nothing but subscriptions, and commands of who
// shares over it.
func (s server) options(patience time.Duration) *goredis.UniversalOptions {
	o := &goredis.UniversalOptions{
		Addrs:            s.addrs,
		MasterName:       s.master,
		Username:         s.username,
		Password:         s.password,
		SentinelUsername: s.sentinelUsername,
		SentinelPassword: s.sentinelPassword,
		DB:               s.db,

		// Understood by every server and proxy, and RESP3 has nothing for us.
		Protocol: 2,

		// A line repeats a failed attempt itself, after a pause.
		MaxRetries:    -1,
		DialerRetries: 1,
		DialTimeout:   patience,
		ReadTimeout:   patience,
		WriteTimeout:  patience,

		// Of commands: they are short, and who waits for them gives up soon.
		ContextTimeoutEnabled: true,
		PoolSize:              16,

		// What asks the server for more than a subscription needs.
		DisableIdentity:          true,
		PipelinePoolSize:         -1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if s.tls {
		// The name to verify is that of the address that is dialed, since a
		// cluster and sentinels lead to hosts that nobody has configured.
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: s.insecureSkipVerify} //nolint:gosec // the operator asked for it
	}
	return o
}

// errURL says nothing of what was read: what a mistake in a url makes of its
// password, and in which part of an error it turns up, is anybody's guess.
var errURL = errors.New("parsing url: malformed (it is not shown, since it may hold a password); " +
	"expected redis://[<user>:<password>@]<host>[:<port>][/<db>], rediss://... or unix://[<user>:<password>@]</path>")

// parseURL reads a url as go-redis does, which has a form of it for each kind of
// client.
func parseURL(text string) (server, error) {
	u, err := url.Parse(text)
	if err != nil {
		return server{}, errURL
	}

	var s server
	var config *tls.Config
	switch q := u.Query(); {
	case q.Has("master_name"):
		o, err := goredis.ParseFailoverURL(text)
		if err != nil || o.MasterName == "" {
			return server{}, errURL
		}
		config = o.TLSConfig
		s = server{
			addrs: o.SentinelAddrs, master: o.MasterName, db: o.DB,
			username: o.Username, password: o.Password,
			sentinelUsername: o.SentinelUsername, sentinelPassword: o.SentinelPassword,
		}
	case q.Has("addr"):
		o, err := goredis.ParseClusterURL(text)
		if err != nil || strings.Trim(u.Path, "/0") != "" { // a cluster has no other than database 0
			return server{}, errURL
		}
		config = o.TLSConfig
		s = server{addrs: o.Addrs, username: o.Username, password: o.Password}
	default:
		o, err := goredis.ParseURL(text)
		if err != nil {
			return server{}, errURL
		}
		config = o.TLSConfig
		s = server{addrs: []string{o.Addr}, username: o.Username, password: o.Password, db: o.DB}
	}
	s.tls = config != nil
	s.insecureSkipVerify = config != nil && config.InsecureSkipVerify
	return s, nil
}
