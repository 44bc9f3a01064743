package longpoll

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func init() {
	httpcaddyfile.RegisterDirective("long_poll", parseCaddyfile)

	// Authentication and rewrites have run by then, and an answer is compressed
	// once, for all who wait for it.
	httpcaddyfile.RegisterDirectiveOrder("long_poll", httpcaddyfile.Before, "encode")
}

// parseCaddyfile makes a route of the directive, and with `wake writes` one more that
// no matcher restricts, unless the first does so for itself: a long_poll that matches
// reads only is to learn of writes too.
func parseCaddyfile(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() { // consume directive name
		return nil, h.ArgErr()
	}
	matcherSet, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	routes := h.NewRoute(matcherSet, handler)
	if handler.wakesOnWrites() && (matcherSet != nil || handler.Shadow) {
		routes = append(routes, h.NewRoute(nil, new(WritesHandler))...)
	}
	return routes, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. It parses and
// judges nothing: that is for Validate, which sees JSON configurations too.
// Syntax:
//
//	long_poll [<matcher>] [<hold>] {
//	    hold          <duration> [<jitter>%]
//	    wait          <value> [s|ms]
//	    since         <value> [unset <literal>...]
//	    version       <value>
//	    ignore        <json path>...
//	    hold_while    <value> is|not <literal>...
//	    hold_while    <value> empty
//	    unversioned   answer|park
//	    interval      <min> [<max>]
//	    freshness     <duration>
//	    methods       <method>...
//	    strip_query   <name>...
//	    probe         [<method>] <uri>
//	    check_timeout <duration>
//	    max_checks    <n>
//	    on_error      hold|release
//	    key           <value>...
//	    vary          <field>...
//	    public
//	    on_change     <status> [<body>]
//	    on_timeout    replay | <status> [<body>]
//	    header        <field> <value>
//	    wake          <name> ...
//	    max_parked    <n>
//	    max_parked_per_client <n>
//	    max_resources <n>
//	    max_body      <size>
//	    linger        <duration>
//	    shadow
//	}
//
// wake, hold_while and header may be repeated.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name

	known := h.subdirectives()
	seen := make(map[string]bool)

	if args := d.RemainingArgs(); len(args) > 0 {
		if err := (subdirective{"[<matcher>] [<hold>]", 1, 1, h.setHold}).read("long_poll", args); err != nil {
			return d.WrapErr(err)
		}
		seen["hold"] = true
	}

	for d.NextBlock(0) {
		name := d.Val()

		if name == "wake" { // a guest module reads the rest of it
			if err := h.unmarshalWake(d); err != nil {
				return err
			}
			continue
		}

		sub, ok := known[name]
		if !ok {
			names := slices.Sorted(maps.Keys(known))
			return d.Errf("parsing long_poll: unknown subdirective %q; expected %s or wake", name, strings.Join(names, ", "))
		}
		if seen[name] {
			return d.Errf("parsing %s %q: given twice; expected at most one %s", name, strings.Join(d.RemainingArgs(), " "), name)
		}
		seen[name] = name != "hold_while" && name != "header"

		if err := sub.read(name, d.RemainingArgs()); err != nil {
			return d.WrapErr(err)
		}
		if d.NextBlock(d.Nesting()) {
			return d.Errf("parsing %s: unexpected block; expected %s", name, sub.usage(name))
		}
	}

	return nil
}

func (h *Handler) unmarshalWake(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err(`parsing wake "": missing argument; expected wake <name> ...`)
	}
	name := d.Val()
	waker, err := caddyfile.UnmarshalModule(d, "http.long_poll.wakers."+name)
	if err != nil {
		return fmt.Errorf("parsing wake %q: %w", name, err)
	}
	h.WakeRaw = append(h.WakeRaw, caddyconfig.JSONModuleObject(waker, "waker", name, nil))
	return nil
}

// A subdirective is one line of the block, but for wake.
type subdirective struct {
	args     string // as errors and the manual write them
	min, max int    // how many
	set      func(args []string) error
}

// manyArgs is the maximum of a subdirective that takes a list.
const manyArgs = math.MaxInt

func (h *Handler) subdirectives() map[string]subdirective {
	return map[string]subdirective{
		"hold":                  {"<duration> [<jitter>%]", 1, 2, h.setHold},
		"wait":                  {"<value> [s|ms]", 1, 2, h.setWait},
		"since":                 {"<value> [unset <literal>...]", 1, manyArgs, h.setSince},
		"version":               {"<value>", 1, 1, storeValue(&h.Version, asText)},
		"ignore":                {"<json path>...", 1, manyArgs, storeList(&h.Ignore)},
		"hold_while":            {"<value> is|not <literal>..., or <value> empty", 2, manyArgs, h.addHoldWhile},
		"unversioned":           {"answer|park", 1, 1, storeValue(&h.Unversioned, asText)},
		"interval":              {"<min> [<max>]", 1, 2, h.setInterval},
		"freshness":             {"<duration>", 1, 1, storeValue(&h.Freshness, asDuration)},
		"methods":               {"<method>...", 1, manyArgs, storeList(&h.Methods)},
		"strip_query":           {"<name>...", 1, manyArgs, storeList(&h.StripQuery)},
		"probe":                 {"[<method>] <uri>", 1, 2, h.setProbe},
		"check_timeout":         {"<duration>", 1, 1, storePointer(&h.CheckTimeout, asDuration)},
		"max_checks":            {"<n>", 1, 1, storePointer(&h.MaxChecks, asNumber)},
		"on_error":              {"hold|release", 1, 1, storeValue(&h.OnError, asText)},
		"key":                   {"<value>...", 1, manyArgs, storeList(&h.Key)},
		"vary":                  {"<field>...", 1, manyArgs, storeList(&h.Vary)},
		"public":                {"", 0, 0, storeFlag(&h.Public)},
		"on_change":             {"<status> [<body>]", 1, 2, h.setOnChange},
		"on_timeout":            {"replay, or <status> [<body>]", 1, 2, h.setOnTimeout},
		"header":                {"<field> <value>", 2, 2, h.addHeader},
		"max_parked":            {"<n>", 1, 1, storeValue(&h.MaxParked, asNumber)},
		"max_parked_per_client": {"<n>", 1, 1, storeValue(&h.MaxParkedPerClient, asNumber)},
		"max_resources":         {"<n>", 1, 1, storePointer(&h.MaxResources, asNumber)},
		"max_body":              {"<size>", 1, 1, storePointer(&h.MaxBody, asSize)},
		"linger":                {"<duration>", 1, 1, storePointer(&h.Linger, asDuration)},
		"shadow":                {"", 0, 0, storeFlag(&h.Shadow)},
	}
}

// usage is the subdirective as it should be written.
func (s subdirective) usage(name string) string {
	if s.max == 0 {
		return name + " alone"
	}
	return name + " " + s.args
}

// read hands the arguments to the subdirective. Its errors name the
// subdirective, what was read and what was expected.
func (s subdirective) read(name string, args []string) error {
	var err error
	switch {
	case len(args) < s.min:
		err = errors.New("missing argument")
	case len(args) > s.max:
		err = fmt.Errorf("surplus argument %q", args[s.max])
	case len(args) > 0 && args[0] == "":
		// It would leave no trace in the JSON, and the default would apply.
		err = errors.New("empty argument")
	default:
		err = s.set(args)
	}
	if err != nil {
		return fmt.Errorf("parsing %s %q: %w; expected %s", name, strings.Join(args, " "), err, s.usage(name))
	}
	return nil
}

// The subdirectives with arguments of several kinds.

func (h *Handler) setHold(args []string) error {
	if len(args) == 2 {
		if err := storePointer(&h.Jitter, asPercent)(args[1:]); err != nil {
			return err
		}
	}
	return storePointer(&h.Hold, asDuration)(args)
}

func (h *Handler) setWait(args []string) error {
	h.Wait = args[0]
	if len(args) == 2 {
		h.WaitUnit = args[1]
	}
	return nil
}

func (h *Handler) setSince(args []string) error {
	h.Since = args[0]
	switch {
	case len(args) == 1:
		return nil
	case args[1] != "unset":
		return fmt.Errorf("surplus argument %q", args[1])
	case len(args) == 2:
		return errors.New("missing literal after unset")
	}
	h.Unset = args[2:]
	return nil
}

func (h *Handler) addHoldWhile(args []string) error {
	h.HoldWhile = append(h.HoldWhile, Condition{Value: args[0], Op: args[1], Literals: args[2:]})
	return nil
}

func (h *Handler) setInterval(args []string) error {
	if len(args) == 2 {
		if err := storePointer(&h.MaxInterval, asDuration)(args[1:]); err != nil {
			return err
		}
	}
	return storePointer(&h.Interval, asDuration)(args)
}

func (h *Handler) setProbe(args []string) error {
	h.Probe = &Probe{URI: args[len(args)-1]}
	if len(args) == 2 {
		h.Probe.Method = args[0]
	}
	return nil
}

func (h *Handler) setOnChange(args []string) error {
	reply := new(Reply)
	if len(args) == 2 {
		reply.Body = args[1]
	}
	h.OnChange = reply
	return storeValue(&reply.Status, asNumber)(args)
}

func (h *Handler) setOnTimeout(args []string) error {
	reply := new(Reply)
	if len(args) == 2 {
		reply.Body = args[1]
	}
	h.OnTimeout = reply
	if args[0] == "replay" {
		reply.Replay = true
		return nil
	}
	return storeValue(&reply.Status, asNumber)(args)
}

func (h *Handler) addHeader(args []string) error {
	if h.Header == nil {
		h.Header = make(http.Header)
	}
	h.Header.Add(args[0], args[1])
	return nil
}

// The fields with one argument, or with arguments of one kind.

func storeValue[T any](field *T, parse func(string) (T, error)) func([]string) error {
	return func(args []string) error {
		v, err := parse(args[0])
		*field = v
		return err
	}
}

// storePointer is storeValue for fields whose zero value is not their default.
func storePointer[T any](field **T, parse func(string) (T, error)) func([]string) error {
	return func(args []string) error {
		v, err := parse(args[0])
		*field = &v
		return err
	}
}

func storeList(field *[]string) func([]string) error {
	return func(args []string) error {
		*field = args
		return nil
	}
}

func storeFlag(field *bool) func([]string) error {
	return func([]string) error {
		*field = true
		return nil
	}
}

// What one argument can be.

func asText(arg string) (string, error) {
	return arg, nil
}

func asDuration(arg string) (caddy.Duration, error) {
	d, err := caddy.ParseDuration(arg)
	return caddy.Duration(d), err
}

func asNumber(arg string) (int, error) {
	n, err := strconv.Atoi(arg)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", arg)
	}
	return n, nil
}

func asPercent(arg string) (float64, error) {
	p, err := strconv.ParseFloat(strings.TrimSuffix(arg, "%"), 64)
	if err != nil || math.IsNaN(p) || math.IsInf(p, 0) { // JSON knows neither
		return 0, fmt.Errorf("%q is not a percentage", arg)
	}
	return p, nil
}

func asSize(arg string) (int64, error) {
	n, err := humanize.ParseBytes(arg)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size such as 1MiB", arg)
	}
	return int64(n), nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)

// wakesOnWrites reports whether a `wake writes` is configured. It looks at the raw
// configuration, since a Caddyfile is adapted without provisioning anything.
func (h *Handler) wakesOnWrites() bool {
	return slices.ContainsFunc(h.WakeRaw, func(raw json.RawMessage) bool {
		var guest struct {
			Waker string `json:"waker"`
		}
		return json.Unmarshal(raw, &guest) == nil && guest.Waker == "writes"
	})
}
