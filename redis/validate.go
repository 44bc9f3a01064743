package redis

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
)

// Validate judges the configuration. No error repeats the url or the password.
func (w *Waker) Validate() error {
	if err := cmp.Or(
		w.Server.validate(w.link.server),
		noneEmpty("channel", w.Channel),
		noneEmpty("pattern", w.Pattern),
		noneEmpty("keyspace", w.Keyspace),
		directive.Placeholders(map[string][]string{"channel": w.Channel, "keyspace": w.Keyspace}),
	); err != nil {
		return fmt.Errorf("wake redis: %w", err)
	}
	if w.Sharded && len(w.Pattern) > 0 {
		return fmt.Errorf("wake redis: sharded with pattern %q: expected one of them, since Redis has no patterns of sharded channels", w.Pattern)
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
