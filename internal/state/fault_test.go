package state_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
	"github.com/caddy-longpoll/caddy-longpoll/internal/tap"
)

// A reason is made of what is known to be harmless.
func TestReason(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for want, s := range map[string]*state.State{
		"":                          {Version: state.Version{Status: 0}},
		"Service Unavailable":       {Version: state.Version{Status: 503}},
		"connection refused":        {Err: caddyhttp.Error(502, refused)},
		"no such host":              {Err: caddyhttp.Error(502, &net.DNSError{Err: "no such host", Name: "backend"})},
		"certificate not trusted":   {Err: fmt.Errorf("secret: %w", x509.UnknownAuthorityError{})},
		"context deadline exceeded": {Err: &url.Error{Op: "Get", URL: "http://secret", Err: context.DeadlineExceeded}},
		state.ErrTimeout.Error():    {Err: caddyhttp.Error(502, state.ErrTimeout)},
		tap.ErrAborted.Error():      {Err: caddyhttp.Error(502, tap.ErrAborted)},
		tap.ErrNothing.Error():      {Err: caddyhttp.Error(502, tap.ErrNothing)},
		"Bad Gateway":               {Err: errors.New("secret"), Version: state.Version{Status: 502}},
	} {
		if got := s.Reason(); got != want {
			t.Errorf("%v: got %q; want %q", s.Err, got, want)
		}
	}

	// A real one.
	server := httptest.NewServer(nil)
	server.Close()
	if _, err := http.Get(server.URL); (&state.State{Err: err}).Reason() != "connection refused" {
		t.Errorf("%v: got %q", err, (&state.State{Err: err}).Reason())
	}
}
