package redis

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
)

func init() {
	caddy.RegisterModule(new(Board))
}

// Board is where the Caddys of a cluster meet: each resource that is waited for at any of
// them is checked by one, which has a lease in Redis, and what it reads, all get. Nothing
// fails while the server can not be reached: each checks for itself then.
//
// Answers of the backend are kept there, and whoever can write to it can write answers.
// It takes Redis 6.2 or later, and a user that may use the keys and the channels that
// begin with `long_poll:{<group>}:`, and the commands SUBSCRIBE, UNSUBSCRIBE, PUBLISH,
// GET, GETEX, MGET, SET, DEL, PTTL, PEXPIRE, EVAL, EVALSHA and PING; with db SELECT, and on
// a cluster CLUSTER SLOTS and COMMAND.
type Board struct {
	Server

	// Caddys share with those of their group. Global placeholders are replaced. Default:
	// default.
	Group string `json:"group,omitempty"`

	// What all Caddys of the group know and nobody else. With it requests with credentials
	// share too, names in Redis can not be guessed, and what is kept and said there can
	// neither be read nor forged by who does not know it. Global placeholders such as
	// `{env.SECRET}` are replaced. Default: none.
	Secret string `json:"secret,omitempty"`

	logger *zap.Logger
	link   *link
	prefix string      // of all keys and channels
	secret []byte      // nil without one
	seal   cipher.AEAD // nil without a secret
	pace   *pace       // nil but in tests

	mu      sync.Mutex // protects what follows
	refused time.Time  // when the server has last refused something; zero once that is over
}

// CaddyModule returns the Caddy module information.
func (*Board) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.long_poll.clusters.redis",
		New: func() caddy.Module { return new(Board) },
	}
}

// UnmarshalCaddyfile sets up the board from Caddyfile tokens. It parses and judges nothing
// but what JSON can not express: that is for Validate. Syntax:
//
//	cluster redis {
//	    address   <host:port>...
//	    master    <name>
//	    username  <text>
//	    password  <text>
//	    db        <n>
//	    tls       [insecure_skip_verify]
//	    url       <redis url>
//	    group     <name>
//	    secret    <text>
//	}
func (b *Board) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the board's name
	return directive.Table{
		Name: "cluster redis",
		Line: directive.Subdirective{Args: "{ ... }", Secret: true},
		Block: directive.Join(b.Server.subdirectives(), directive.Block{
			"group":  {Args: "<name>", Min: 1, Max: 1, Set: directive.Value(&b.Group, directive.Text), Secret: true},
			"secret": {Args: "<text>", Min: 1, Max: 1, Set: directive.Value(&b.Secret, directive.Text), Secret: true},
		}),
	}.Read(d)
}

// Provision finds the link that the board shares. It dials nothing.
func (b *Board) Provision(ctx caddy.Context) error {
	b.logger = ctx.Logger()
	repl := caddy.NewReplacer()
	s, err := b.server(repl)
	if err != nil {
		return fmt.Errorf("cluster redis: %w", err)
	}
	group := "default"
	if b.Group != "" {
		group = repl.ReplaceKnown(b.Group, "")
	}
	b.prefix = "long_poll:{" + group + "}:"
	if b.Secret != "" {
		b.secret = []byte(repl.ReplaceKnown(b.Secret, ""))
		if err := b.makeSeal(); err != nil {
			return fmt.Errorf("cluster redis: %w", err)
		}
	}
	p := b.pace
	if p == nil {
		p = &defaultPace
	}
	b.link = join(s, p, b.logger)
	return nil
}

// keyed is a digest of text that only who knows the secret can make: another one in each
// group, so that nobody who can write to Redis brings what one says to another.
func (b *Board) keyed(use string, text []byte) []byte {
	h := hmac.New(sha256.New, b.secret)
	h.Write([]byte(use + "\x00" + b.prefix + "\x00"))
	h.Write(text)
	return h.Sum(nil)
}

// makeSeal derives the key by which all that is kept and said is sealed.
func (b *Board) makeSeal() error {
	block, err := aes.NewCipher(b.keyed("seal", nil))
	if err != nil {
		return err
	}
	b.seal, err = cipher.NewGCM(block)
	return err
}

// sealed is data that only who knows the secret can read or make, for one name; data as it
// is without a secret.
func (b *Board) sealed(name string, data []byte) []byte {
	if b.seal == nil || data == nil {
		return data
	}
	nonce := make([]byte, b.seal.NonceSize(), b.seal.NonceSize()+len(data)+b.seal.Overhead())
	_, _ = rand.Read(nonce) // it never fails
	return b.seal.Seal(nonce, nonce, data, []byte(name))
}

// opened is the opposite of sealed; nil of what is not sealed for that name.
func (b *Board) opened(name string, data []byte) []byte {
	if b.seal == nil {
		return data
	}
	n := b.seal.NonceSize()
	if len(data) < n {
		return nil
	}
	text, err := b.seal.Open(nil, data[:n], data[n:], []byte(name))
	if err != nil {
		return nil
	}
	return text
}

// Validate judges the configuration. No error repeats the url, the password or the secret.
func (b *Board) Validate() error {
	if err := b.Server.validate(b.link.server); err != nil {
		return fmt.Errorf("cluster redis: %w", err)
	}
	group := strings.TrimSuffix(strings.TrimPrefix(b.prefix, "long_poll:{"), "}:")
	switch {
	case group == "":
		return fmt.Errorf("cluster redis: group %q: is empty once placeholders are replaced; expected a name", b.Group)
	case strings.ContainsAny(group, "{}*?[]\\ \t\r\n\x00") || len(group) > maxGroup:
		return fmt.Errorf("cluster redis: group %q: expected a name of up to %d bytes without spaces, braces and wildcards", group, maxGroup)
	case b.Secret != "" && len(b.secret) == 0:
		return errors.New("cluster redis: secret: is empty once placeholders are replaced; expected a text")
	case b.Secret != "" && len(b.secret) < minSecret:
		b.logger.Warn("the secret of cluster redis is short: who can read Redis can find it by trying", zap.Int("bytes", len(b.secret)), zap.Int("want", minSecret))
	}
	return nil
}

const (
	maxGroup  = 200 // of a name; it is part of each key
	minSecret = 16  // of a secret: a shorter one can be found by trying
)

// Name is that by which a resource is known.
func (b *Board) Name(key [32]byte, personal bool) (name string, ok bool) {
	switch {
	case b.secret != nil:
		return hex.EncodeToString(b.keyed("name", key[:])[:16]), true
	case personal:
		return "", false
	}
	return hex.EncodeToString(key[:16]), true
}

// Cleanup gives the link back.
func (b *Board) Cleanup() error {
	if b.link == nil {
		return nil
	}
	return b.link.leave(b.logger)
}

// Up reports whether the server can be heard.
func (b *Board) Up() bool { return b.link.up() }

// follower is who follows a name.
type follower struct {
	board *Board
	name  string
	hear  func(message []byte)
	ready func(within time.Duration)
}

func (f *follower) heard(_, payload string) {
	if message := f.board.opened(f.name, []byte(payload)); message != nil {
		f.hear(message)
	}
}

func (f *follower) acknowledged(within time.Duration) { f.ready(within) }

// Follow hears a name until stop.
func (b *Board) Follow(which string, heard func(message []byte), ready func(within time.Duration)) (stop func()) {
	f := &follower{b, which, heard, ready}
	n := name{subscribe, b.channel(which)}
	b.link.listen(n, f)
	return sync.OnceFunc(func() { b.link.ignore(n, f) })
}

// channel is what messages to a name are published on.
func (b *Board) channel(name string) string { return b.prefix + "said:" + name }

// Interface guards. What long_poll asks of a board is spelled out in its own package, which
// this one does not import.
var (
	_ caddy.Provisioner     = (*Board)(nil)
	_ caddy.Validator       = (*Board)(nil)
	_ caddy.CleanerUpper    = (*Board)(nil)
	_ caddyfile.Unmarshaler = (*Board)(nil)
)
