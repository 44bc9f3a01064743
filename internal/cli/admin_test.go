package cli

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// An interrupt ends the wait for an admin endpoint that never answers.
func TestAskEndsWithItsContext(t *testing.T) {
	t.Parallel()
	asked, over := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-over
	}))
	t.Cleanup(func() {
		close(over)
		server.Close()
	})
	ctx, interrupt := context.WithCancel(context.Background())
	go func() {
		<-asked
		interrupt()
	}()
	a := admin{address: strings.TrimPrefix(server.URL, "http://")}
	if _, err := a.ask(ctx, http.MethodGet, "/long_poll/stats", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
