package state

import (
	"errors"
	"net/http"
	"strings"
)

// Why a check failed, where no handler says it.
var (
	ErrTimeout = errors.New("check took longer than check_timeout")                        // check_timeout has passed, and no answer had begun
	ErrUnasked = errors.New("the backend answered 304 to a request without preconditions") // so that nobody knows what it has not modified
	ErrOverdue = errors.New("no check has ended within the time limit")                    // a poll has waited for its first check as long as it may
)

// Reason says in a few words why a check failed. It is shown to whoever can reach
// the admin endpoint, and the text of an error may bear anything, so that only what
// is known to be harmless is taken from it.
func (s *State) Reason() string {
	if s.Err != nil {
		text := s.Err.Error()
		for _, r := range reasons {
			if strings.HasSuffix(text, r) {
				return r
			}
		}
		if strings.Contains(text, "x509: ") {
			return untrusted
		}
	}
	return http.StatusText(s.Code())
}

// untrusted is the reason of an error that speaks of a certificate.
const untrusted = "certificate not trusted"

// reasons is how errors end that handlers commonly return: ours, those of
// connections, and those of reverse_proxy.
var reasons = []string{
	ErrTimeout.Error(), ErrUnasked.Error(), "the backend aborted its answer", "no handler answered the check",
	"connection refused", "connection reset by peer", "broken pipe", "no such host", "no route to host",
	"network is unreachable", "i/o timeout", "timeout awaiting response headers", "context deadline exceeded", "EOF",
	"no such file or directory", "permission denied", "server misbehaving", "no upstreams available",
}
