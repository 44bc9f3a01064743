package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// admin is where the admin endpoint is, as Caddy's own commands find it.
type admin struct{ address, config, adapter string }

func (a *admin) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.address, "address", "", "The address of the admin endpoint, if it is not the default")
	cmd.Flags().StringVarP(&a.config, "config", "c", "", "Configuration file to read that address from")
	cmd.Flags().StringVarP(&a.adapter, "adapter", "a", "", "Name of the config adapter for it")
}

// ask sends a request to the admin endpoint. It ends with ctx, though Caddy's own client
// of the endpoint has neither a context nor a time-out.
func (a *admin) ask(ctx context.Context, method, uri string, body io.Reader) ([]byte, error) {
	type answer struct {
		text []byte
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		text, err := a.exchange(method, uri, body)
		answered <- answer{text, err}
	}()
	select {
	case got := <-answered:
		return got.text, got.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *admin) exchange(method, uri string, body io.Reader) ([]byte, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(a.address, nil, a.config, a.adapter)
	if err != nil {
		return nil, fmt.Errorf("finding the admin endpoint: %w", err)
	}
	resp, err := caddycmd.AdminAPIRequest(address, method, uri, nil, body)
	if err != nil {
		return nil, fmt.Errorf("asking the admin endpoint at %s: %w", address, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxRead))
	if err != nil {
		return nil, fmt.Errorf("reading what the admin endpoint says: %w", err)
	}
	return text, nil
}

func wakeCommand() *cobra.Command {
	var a admin
	var prefix bool
	cmd := &cobra.Command{
		Use:   "wake <path>",
		Short: "Has a running Caddy look at a path now",
		Long: `Wakes what waits for a path, or with --prefix for any path that begins so: the backend is
asked at once, and not at the next interval. Paths are those that long_poll sees, without
a query. It says how many resources were woken; nobody waits for what was not.`,
		Example: `  caddy long-poll wake /api/orders/42
  caddy long-poll wake /api/orders/ --prefix
  caddy long-poll wake /api/orders/42 --address unix//run/caddy/admin.sock`,
		Args: one("<path>"),
		RunE: run(func(ctx context.Context, args []string, out io.Writer) error {
			if !strings.HasPrefix(args[0], "/") {
				return fmt.Errorf("reading path %q: expected one that begins with a slash", args[0])
			}
			name := "path"
			if prefix {
				name = "prefix"
			}
			body, err := json.Marshal(map[string]string{name: args[0]})
			if err != nil {
				return err
			}
			text, err := a.ask(ctx, http.MethodPost, "/long_poll/wake", strings.NewReader(string(body)))
			if err != nil {
				return err
			}
			var said struct {
				Woken *int `json:"woken"`
			}
			if err := json.Unmarshal(text, &said); err != nil || said.Woken == nil {
				return errors.New("reading what the admin endpoint says: expected how many were woken")
			}
			_, err = fmt.Fprintf(out, "%d woken\n", *said.Woken)
			return err
		}),
	}
	a.flags(cmd)
	cmd.Flags().BoolVar(&prefix, "prefix", false, "Wake every path that begins so")
	return cmd
}

func statsCommand() *cobra.Command {
	var a admin
	var raw bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Shows what a running Caddy has counted",
		Long: `Shows what long_poll has counted since the process began, over all its handlers: parked
requests, outcomes, checks made and saved, what fails, and what cuts silent connections.`,
		Example: `  caddy long-poll stats
  caddy long-poll stats --json
  caddy long-poll stats --config /etc/caddy/Caddyfile`,
		Args: cobra.NoArgs,
		RunE: run(func(ctx context.Context, _ []string, out io.Writer) error {
			text, err := a.ask(ctx, http.MethodGet, "/long_poll/stats", nil)
			if err != nil {
				return err
			}
			if raw {
				_, err := out.Write(text)
				return err
			}
			return showStats(text, out)
		}),
	}
	a.flags(cmd)
	cmd.Flags().BoolVar(&raw, "json", false, "Print them as the admin endpoint gives them")
	return cmd
}

// stats is what is shown of the stats: the admin endpoint documents them.
type stats struct {
	Uptime    float64           `json:"uptime"`
	Parked    int               `json:"parked"`
	Resources int               `json:"resources"`
	Requests  map[string]uint64 `json:"requests"`
	Checks    map[string]uint64 `json:"checks"`
	Saved     uint64            `json:"checks_saved"`
	Wakes     map[string]uint64 `json:"wakes"`
	WakersUp  map[string]bool   `json:"wakers_up"`
	Outages   []struct {
		Seconds                    float64
		Parked                     int
		Method, Host, Path, Reason string
	} `json:"outages"`
	Cuts []struct {
		Age, Share, Hold float64
		Auto             bool
	} `json:"cuts"`
}

func showStats(text []byte, out io.Writer) error {
	var s stats
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("reading what the admin endpoint says: %w", err)
	}
	var lines []string
	add := func(name, format string, args ...any) {
		lines = append(lines, fmt.Sprintf("%-11s", name)+printable(fmt.Sprintf(format, args...)))
	}
	add("up", "%s", (time.Duration(s.Uptime) * time.Second).String())
	add("parked", "%d requests, for %d resources known", s.Parked, s.Resources)
	add("requests", "%s", counts(s.Requests))
	add("checks", "%s; %d saved", counts(s.Checks), s.Saved)
	add("wake-ups", "%s", counts(s.Wakes))
	for _, source := range slices.Sorted(maps.Keys(s.WakersUp)) {
		if !s.WakersUp[source] {
			add("waker", "%s can not be heard", source)
		}
	}
	for _, o := range s.Outages {
		add("outage", "%s %s%s fails for %s: %s (%d parked)", o.Method, o.Host, o.Path, seconds(time.Duration(o.Seconds*float64(time.Second))), o.Reason, o.Parked)
	}
	for _, c := range s.Cuts {
		advice := "choose hold below that"
		if c.Auto {
			advice = "hold is kept at " + strconv.FormatFloat(c.Hold, 'f', -1, 64) + " s"
		}
		add("cut", "something cuts silent connections after %v s, %.0f%% of them: %s", c.Age, c.Share*100, advice)
	}
	_, err := fmt.Fprintln(out, strings.Join(lines, "\n"))
	return err
}

// counts are the counters by name, the largest first.
func counts(all map[string]uint64) string {
	names := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(cmp.Compare(all[b], all[a]), strings.Compare(a, b))
	})
	var parts []string
	for _, name := range names {
		if all[name] > 0 {
			parts = append(parts, fmt.Sprint(all[name], " ", name))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}
