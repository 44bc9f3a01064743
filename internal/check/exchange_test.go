package check

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
	"github.com/caddy-longpoll/caddy-longpoll/internal/tap"
)

// A retry mends what comes of a connection that was closed while it was being used
// again, however it is wrapped, and nothing else.
func TestMendable(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{io.EOF, true},
		{io.ErrUnexpectedEOF, true},
		{syscall.EPIPE, true},
		{fmt.Errorf("read tcp 127.0.0.1:1->127.0.0.1:2: read: %w", syscall.ECONNRESET), true},
		{errors.New("http: server closed idle connection"), true},
		{errors.New("http2: client connection lost"), true},
		{errors.New("http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug="), true},
		{syscall.ECONNREFUSED, false},
		{errors.New("no upstreams available"), false},
		{errors.New("x509: certificate signed by unknown authority"), false},
		{tap.ErrUnshared, false},
		{tap.ErrAborted, false},
		{tap.ErrNothing, false},
		{errAbandoned, false},
		{state.ErrTimeout, false},
	} {
		if got := mendable(test.err); got != test.want {
			t.Errorf("%v: got %v", test.err, got)
		}
		if test.err != nil && mendable(caddyhttp.Error(http.StatusBadGateway, test.err)) != test.want {
			t.Errorf("%v, with a status: got %v", test.err, !test.want)
		}
	}
}

func TestSafe(t *testing.T) {
	for method, want := range map[string]bool{"GET": true, "HEAD": true, "POST": false, "get": false, "": false} {
		if got := safe(method); got != want {
			t.Errorf("%s: got %v", method, got)
		}
	}
}

// TestReasons: what tap says of an exchange is harmless, and operators are shown it. Its
// words are written down twice, since a state knows nothing of how it was read.
func TestReasons(t *testing.T) {
	for _, err := range []error{tap.ErrAborted, tap.ErrNothing} {
		if got := state.Failure(asHandlerError(err), http.StatusBadGateway).Reason(); got != err.Error() {
			t.Errorf("%v: got %q", err, got)
		}
	}
}
