package redis

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Validate judges the configuration. No error repeats the url or the password.
func (w *Waker) Validate() error {
	if err := cmp.Or(
		w.validateURL(),
		w.validateServer(w.link.server),
		noneEmpty("channel", w.Channel),
		noneEmpty("pattern", w.Pattern),
		noneEmpty("keyspace", w.Keyspace),
	); err != nil {
		return fmt.Errorf("wake redis: %w", err)
	}
	if w.Sharded && len(w.Pattern) > 0 {
		return fmt.Errorf("wake redis: sharded with pattern %q: expected one of them, since Redis has no patterns of sharded channels", w.Pattern)
	}
	return nil
}

func (w *Waker) validateURL() error {
	if w.URL == "" {
		return nil
	}
	for _, other := range []struct {
		name  string
		given bool
	}{
		{"address", len(w.Address) > 0},
		{"master", w.Master != ""},
		{"username", w.Username != ""},
		{"password", w.Password != ""},
		{"db", w.DB != nil},
		{"tls", w.TLS != nil},
	} {
		if other.given {
			return fmt.Errorf("url with %s: expected one of them, since a url can say it all", other.name)
		}
	}
	return nil
}

func (w *Waker) validateServer(s server) error {
	switch {
	case w.Username != "" && s.username == "":
		return fmt.Errorf("username %q: is empty once placeholders are replaced; expected a name", w.Username)
	case w.Password != "" && s.password == "":
		return fmt.Errorf("password %q: is empty once placeholders are replaced; expected a text", w.Password)
	case s.username != "" && s.password == "":
		return fmt.Errorf("username %q: has no password; expected both", s.username)
	case s.db < 0:
		return fmt.Errorf(`db "%d": expected 0 or more`, s.db)
	case s.db > 0 && s.cluster():
		return fmt.Errorf(`db "%d" with several addresses: expected 0, since a cluster has no other`, s.db)
	}
	for i, a := range w.Address {
		if strings.Contains(s.addrs[i], "@") { // it may hold a password
			return errors.New("address: has an @; expected <host:port>, or the whole as url")
		}
		if err := validateAddress(s.addrs[i]); err != nil {
			return fmt.Errorf("address %q: %w; expected <host:port>, such as 127.0.0.1:6379", cmp.Or(s.addrs[i], a), err)
		}
	}
	return nil
}

func validateAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	var malformed *net.AddrError
	switch {
	case errors.As(err, &malformed):
		return errors.New(malformed.Err)
	case err != nil:
		return err
	case host == "" || strings.ContainsAny(host, "/ "):
		return fmt.Errorf("bad host %q", host)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("bad port %q", port)
	}
	return nil
}

func noneEmpty(name string, values []string) error {
	if slices.Contains(values, "") {
		return fmt.Errorf(`%s "": expected a text that is not empty`, name)
	}
	return nil
}
