// Package cli is `caddy long-poll`: what a person at a terminal needs of a site that holds
// requests. It speaks HTTP, as any client does, and to the admin endpoint; it knows nothing
// of how requests are held.
package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// Register adds the command to those of the binary. version is that of the module.
func Register(version string) {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "long-poll",
		Usage: "watch|line|wake|stats|version",
		Short: "Watches long polls, measures what cuts them, wakes them",
		Long: `
Tools for sites with long_poll:

  watch    polls a URL and shows each answer
  line     measures how long a silent connection lives on the way to a URL
  wake     has a running Caddy look at a path now
  stats    shows what a running Caddy has counted
  version  prints the version of the module
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Args = cobra.ArbitraryArgs
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) == 0 {
					return cmd.Help()
				}
				return fmt.Errorf("unknown command %q; expected watch, line, wake, stats or version", args[0])
			}
			cmd.AddCommand(watchCommand(), lineCommand(), wakeCommand(), statsCommand(), &cobra.Command{
				Use:   "version",
				Short: "Prints the version of the module",
				Args:  cobra.NoArgs,
				RunE: run(func(_ context.Context, _ []string, out io.Writer) error {
					_, err := fmt.Fprintln(out, version)
					return err
				}),
			})
		},
	})
}

// one takes one argument, such as <url>.
func one(argument string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("read %q; expected one %s", args, argument)
		}
		return nil
	}
}

// run is a command as cobra calls it: an interrupt ends its context, and is no error; an
// error is told as Caddy tells those of its own commands.
func run(f func(ctx context.Context, args []string, out io.Writer) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) {
			err := f(ctx, args, cmd.OutOrStdout())
			if err != nil && ctx.Err() == nil {
				return caddy.ExitCodeFailedStartup, err
			}
			return caddy.ExitCodeSuccess, nil
		})(cmd, args)
	}
}

// target is what a command asks, as its flags have it.
type target struct {
	url      string
	header   http.Header
	insecure bool

	lines []string // of the flag
}

// flags adds those that every command has which asks a URL.
func (t *target) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&t.lines, "header", "H", nil, `Field of the requests, such as "Authorization: Bearer x" (repeatable)`)
	cmd.Flags().BoolVar(&t.insecure, "insecure", false, "Accept any certificate")
}

// read reads the URL and the fields.
func (t *target) read(text string) error {
	if place, _, _ := strings.Cut(text, "?"); !strings.Contains(place, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("reading url %q: expected http://host/path or https://host/path", text)
	}
	t.url, t.header = u.String(), make(http.Header)
	for _, line := range t.lines {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return fmt.Errorf("reading header %q: expected a field such as \"Authorization: Bearer x\"", line)
		}
		t.header.Add(name, value)
	}
	return nil
}

// request is a GET with the given fields beside those of the flag, which win. What no
// field can bear, such as the id of an event, is left out.
func (t *target) request(ctx context.Context, fields ...string) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url, nil)
	if err != nil {
		return nil, fmt.Errorf("making request: %w", err)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i+1] != "" && httpguts.ValidHeaderFieldValue(fields[i+1]) {
			r.Header.Set(fields[i], fields[i+1])
		}
	}
	for name, values := range t.header {
		r.Header[name] = values
	}
	if host := t.header.Get("Host"); host != "" {
		r.Host = host
	}
	return r, nil
}

// client follows no redirect, for that would be another resource. keepAlive is as
// [net.Dialer] has it: 0 has the system send something on connections that are silent.
func (t *target) client(keepAlive time.Duration) (c *http.Client, end func()) {
	transport := &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		DialContext:       (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: keepAlive}).DialContext,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: t.insecure},
		ForceAttemptHTTP2: true,
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, transport.CloseIdleConnections
}

// pause lets d pass. It reports false if the command is to end.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// what is what a failed request has failed with, in few words.
func what(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "closed without an answer"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "time-out"
	}
	var of *url.Error
	if errors.As(err, &of) {
		err = of.Err
	}
	return printable(err.Error())
}

// printable is text on one line, without what a terminal would take for orders.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// seconds is a duration to a tenth of a second.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
