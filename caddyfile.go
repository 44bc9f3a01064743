package longpoll

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddy-longpoll/caddy-longpoll/internal/check"
	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/reply"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
	"github.com/caddy-longpoll/caddy-longpoll/internal/wake"
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
	if wake.OnWrites(handler.WakeRaw) && (matcherSet != nil || handler.Shadow) {
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
//	    hold          auto [<max>] [<jitter>%]
//	    wait          <value> [s|ms]
//	    since         <value> [unset <literal>...]
//	    version       <value>
//	    ignore        <json path>...
//	    ignore_match  <regexp>...
//	    hold_while    <value> is|not <literal>...
//	    hold_while    <value> empty
//	    hold_while    <value> below|above <value>
//	    unversioned   answer|park
//	    polls         any|asked
//	    interval      <min> [<max>]
//	    freshness     <duration>
//	    methods       <method>...
//	    strip_query   <name>...
//	    probe         [<method>] <uri>
//	    check_timeout <duration>
//	    max_checks    <n>
//	    on_error      hold|release
//	    key           <value>...
//	    vary          [-]<field>|client_ip...
//	    public
//	    on_change     <status> [<body>]
//	    on_timeout    replay | <status> [<body>]
//	    header        <field> <value>
//	    wake          <name> ...
//	    max_parked    <n>
//	    max_parked_per_client <n>
//	    max_resources <n>
//	    max_body      <size>
//	    max_memory    <size>
//	    linger        <duration>
//	    cluster       redis { ... }
//	    stream        [sse] [ndjson]
//	    heartbeat     <duration>
//	    stream_timeout <duration>
//	    delta         json_patch|merge_patch
//	    detach
//	    shadow
//	}
//
// wake, hold_while, vary, ignore_match and header may be repeated.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	return directive.Table{
		Name:   "long_poll",
		Line:   directive.Subdirective{Args: "[<matcher>] [<hold>]", Max: 1, Set: duration(&h.Hold)},
		LineIs: "hold",
		Block: directive.Join(h.Membership.Subdirectives(), h.Bounds.Subdirectives(), h.Options.Subdirectives(), h.Switch.Subdirectives(), h.Answers.Subdirectives(), directive.Block{
			"hold":          {Args: "<duration> [<jitter>%], or auto [<max>] [<jitter>%]", Min: 1, Max: 3, Set: h.setHold},
			"wait":          {Args: "<value> [s|ms]", Min: 1, Max: 2, Set: directive.Each(text(&h.Wait), text(&h.WaitUnit))},
			"since":         {Args: "<value> [unset <literal>...]", Min: 1, Max: directive.Many, Set: h.setSince},
			"version":       {Args: "<value>", Min: 1, Max: 1, Set: text(&h.Version)},
			"ignore":        {Args: "<json path>...", Min: 1, Max: directive.Many, Set: directive.List(&h.Ignore)},
			"ignore_match":  {Args: "<regexp>...", Min: 1, Max: directive.Many, Set: directive.List(&h.IgnoreMatch), Repeats: true},
			"hold_while":    {Args: "<value> is|not <literal>..., <value> empty, or <value> below|above <value>", Min: 2, Max: directive.Many, Set: h.addHoldWhile, Repeats: true},
			"unversioned":   {Args: "answer|park", Min: 1, Max: 1, Set: text(&h.Unversioned)},
			"polls":         {Args: "any|asked", Min: 1, Max: 1, Set: text(&h.Polls)},
			"interval":      {Args: "<min> [<max>]", Min: 1, Max: 2, Set: directive.Each(duration(&h.Interval), duration(&h.MaxInterval))},
			"freshness":     {Args: "<duration>", Min: 1, Max: 1, Set: directive.Value(&h.Freshness, directive.Duration)},
			"methods":       {Args: "<method>...", Min: 1, Max: directive.Many, Set: directive.List(&h.Methods)},
			"strip_query":   {Args: "<name>...", Min: 1, Max: directive.Many, Set: directive.List(&h.StripQuery)},
			"probe":         {Args: "[<method>] <uri>", Min: 1, Max: 2, Set: h.setProbe},
			"check_timeout": {Args: "<duration>", Min: 1, Max: 1, Set: duration(&h.CheckTimeout)},
			"max_checks":    {Args: "<n>", Min: 1, Max: 1, Set: directive.Pointer(&h.MaxChecks, directive.Number)},
			"on_error":      {Args: "hold|release", Min: 1, Max: 1, Set: text(&h.OnError)},
			"key":           {Args: "<value>...", Min: 1, Max: directive.Many, Set: directive.List(&h.Key)},
			"vary":          {Args: "[-]<field>|client_ip...", Min: 1, Max: directive.Many, Set: directive.List(&h.Vary), Repeats: true},
			"public":        {Set: directive.Flag(&h.Public)},
			"wake":          {Guest: h.unmarshalWake},
			"shadow":        {Set: directive.Flag(&h.Shadow)},
		}),
	}.Read(d)
}

func text(field *string) func([]string) error {
	return directive.Value(field, directive.Text)
}

func duration(field **caddy.Duration) func([]string) error {
	return directive.Pointer(field, directive.Duration)
}

func (h *Handler) unmarshalWake(d *caddyfile.Dispenser) error {
	raw, _, err := directive.Guest(d, "http.long_poll.wakers", "waker")
	if err != nil {
		return err
	}
	h.WakeRaw = append(h.WakeRaw, raw)
	return nil
}

func (h *Handler) setHold(args []string) error {
	set := []func(args []string) error{duration(&h.Hold), directive.Pointer(&h.Jitter, directive.Percent)}
	if h.HoldAuto = args[0] == "auto"; h.HoldAuto {
		if args = args[1:]; len(args) > 0 && strings.HasSuffix(args[0], "%") {
			set = set[1:]
		}
	}
	if len(args) > len(set) {
		return fmt.Errorf("surplus argument %q", args[len(set)])
	}
	return directive.Each(set...)(args)
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

func (h *Handler) setProbe(args []string) error {
	h.Probe = &Probe{URI: args[len(args)-1]}
	if len(args) == 2 {
		h.Probe.Method = args[0]
	}
	return nil
}

// Validate judges the configuration, wherever it was written. Its errors name
// the subdirective as the Caddyfile spells it, what was read and what is
// accepted. What is written in a way that nothing resolves, that is always the same, or
// that nobody is held by, it warns of.
func (h *Handler) Validate() error {
	if h.site != nil {
		h.warnUnresolved(h.site.Log)
		h.warnConstant(h.site.Log)
		h.warnUnheld(h.site.Log)
	}
	return cmp.Or(
		h.validateDurations(),
		h.Bounds.Validate(),
		h.validateVersion(),
		h.validateSharing(),
		directive.OneOf("wait: unit", h.WaitUnit, "s", "ms"),
		directive.OneOf("unversioned", h.Unversioned, "answer", "park"),
		directive.OneOf("polls", h.Polls, "any", "asked"),
		directive.OneOf("on_error", h.OnError, "hold", "release"),
		h.validateHoldWhile(),
		directive.Methods("methods", h.Methods),
		h.Probe.Validate(),
		h.Answers.Validate(),
		h.Options.Validate(),
		directive.Placeholders(h.values()),
	)
}

func (h *Handler) validateDurations() error {
	if err := cmp.Or(
		directive.AboveZero("hold", h.Hold),
		directive.AboveZero("interval", h.Interval),
		directive.AboveZero("check_timeout", h.CheckTimeout),
		directive.AboveZero("max_checks", h.MaxChecks),
		directive.NotNegative("freshness", &h.Freshness),
	); err != nil {
		return err
	}
	if j := h.Jitter; j != nil && (*j < 0 || *j > 100) {
		return fmt.Errorf("hold: jitter %q: expected a percentage from 0 to 100", directive.Print(*j)+"%")
	}
	if h.Interval != nil && h.MaxInterval != nil && *h.MaxInterval < *h.Interval {
		return fmt.Errorf("interval %q: expected a <max> that is not below <min>", directive.Print(*h.Interval)+" "+directive.Print(*h.MaxInterval))
	}
	return nil
}

func (h *Handler) validateVersion() error {
	if len(h.Unset) > 0 && h.Since == "" {
		return fmt.Errorf("unset %q: expected a since whose values they are", h.Unset)
	}
	switch {
	case h.Version == "":
	case poll.Speaks(h.Version, "version}"), poll.Speaks(h.Version, "held}"), poll.Speaks(h.Version, "outcome}"):
		return fmt.Errorf("version %q: expected what an answer says, such as {lp.json.revision}, and not what becomes of it", h.Version)
	case len(h.Ignore) > 0:
		return fmt.Errorf("ignore %q with version %q: expected one of them, since ignore makes a hash the version", h.Ignore, h.Version)
	case len(h.IgnoreMatch) > 0:
		return fmt.Errorf("ignore_match %q with version %q: expected one of them, since ignore_match makes a hash the version", h.IgnoreMatch, h.Version)
	}
	for _, path := range h.Ignore {
		if _, err := state.MemberPath(path); err != nil {
			return fmt.Errorf("ignore: %w", err)
		}
	}
	return directive.Regexps("ignore_match", h.IgnoreMatch)
}

func (h *Handler) validateSharing() error {
	if h.Public && len(h.Key) > 0 {
		return fmt.Errorf("public with key %q: expected one of them, since public shares answers and key separates them", h.Key)
	}
	if slices.Contains(h.Key, "") {
		return errors.New(`key "": expected text, usually a placeholder such as {query.consumer}`)
	}
	if slices.Contains(h.StripQuery, "") {
		return errors.New(`strip_query "": expected the name of a query parameter`)
	}
	return directive.Vary("vary", h.Vary)
}

func (h *Handler) validateHoldWhile() error {
	for _, c := range h.HoldWhile {
		if err := directive.Comparison("hold_while", c.Value, c.Op, c.Literals); err != nil {
			return err
		}
	}
	return nil
}

// values are the texts with placeholders, by subdirective.
func (h *Handler) values() map[string][]string {
	values := map[string][]string{
		"wait":    {h.Wait},
		"since":   {h.Since},
		"version": {h.Version},
		"key":     h.Key,
	}
	for _, c := range h.HoldWhile {
		values["hold_while"] = append(values["hold_while"], c.Value)
		if c.Op == "below" || c.Op == "above" {
			values["hold_while"] = append(values["hold_while"], c.Literals...)
		}
	}
	if h.Probe != nil {
		values["probe"] = []string{h.Probe.URI}
	}
	for _, field := range slices.Sorted(maps.Keys(h.Header)) {
		values["header"] = append(values["header"], h.Header[field]...)
	}
	for name, r := range map[string]*Reply{"on_change": h.OnChange, "on_timeout": h.OnTimeout} {
		if r != nil { // other braces are those of JSON
			values[name] = reply.Placeholders(r.Body)
		}
	}
	return values
}

// warnUnresolved says which placeholders are written in a way that nothing resolves.
func (h *Handler) warnUnresolved(log *zap.Logger) {
	shorthands := httpcaddyfile.NewShorthandReplacer()
	long := func(placeholder string) string {
		if name, ok := strings.CutPrefix(placeholder, "{form."); ok {
			return "{lp.request.form." + name // Caddy has none
		}
		segment := caddyfile.Segment{{Text: placeholder}}
		shorthands.ApplyToSegment(&segment)
		return segment[0].Text
	}
	if found := directive.Unresolved(long, h.values()); len(found) > 0 {
		log.Warn("placeholders that nothing resolves", zap.Strings("placeholders", found))
	}
}

// warnConstant says where a value is the same for all, which it is where somebody has
// forgotten the braces: such a version never changes, and such a key keeps nobody apart.
func (h *Handler) warnConstant(log *zap.Logger) {
	values := map[string][]string{"version": {h.Version}, "since": {h.Since}, "key": {strings.Join(h.Key, " ")}}
	for _, c := range h.HoldWhile {
		values["hold_while"] = append(values["hold_while"], c.Value)
	}
	if found := directive.Constant(values); len(found) > 0 {
		log.Warn("values without a placeholder are always the same: expected one, in braces, such as {lp.json.revision}", zap.Strings("subdirectives", found))
	}
}

// warnUnheld says that no client can be held by its version, since none of those that
// clients name is one that an answer has.
func (h *Handler) warnUnheld(log *zap.Logger) {
	if h.Version != "" || len(h.HoldWhile) > 0 || h.Unversioned == "park" {
		return
	}
	values := h.values()
	given := slices.Concat(values["header"], values["on_change"], values["on_timeout"])
	if directive.NeverTag(h.Since, given) {
		log.Warn("since names a version that no answer has, so that it holds nobody: without version, that of an answer is its ETag. Say version, such as {lp.json.revision}",
			zap.String("since", h.Since))
	}
}

// The parts of the configuration, as embedders know them.
type (
	// Condition is one hold_while: Value, Op and Literals.
	Condition = poll.Condition

	// Probe is the URI that is checked in place of the resource, and its Method.
	Probe = check.Probe

	// Reply is on_change or on_timeout: Status and Body, or Replay.
	Reply = reply.Reply
)

// The contracts of guest modules.
type (
	// Waker is a guest module in the namespace http.long_poll.wakers, a source of wake-ups:
	//
	//	Watch(repl *caddy.Replacer, wake func()) (stop func())
	//
	// Watch is called when a resource gets its first waiter, and returns at once. repl has the
	// placeholders of its request, during the call only. wake, from any goroutine and any
	// number of times, has the resource checked. stop is called once, when it is forgotten.
	Waker = wake.Waker

	// PathWaker is a Waker whose messages name paths themselves: OnPath(wake func(path string))
	// is called once, before any Watch.
	PathWaker = wake.PathWaker

	// StatusWaker is a Waker that knows whether it can hear its source now: Up() bool.
	StatusWaker = wake.StatusWaker

	// Writes is the Waker of `wake writes`.
	Writes = wake.Writes

	// WritesHandler sees the writes of a site for `wake writes`: long_poll_writes.
	WritesHandler = wake.WritesHandler
)

// Interface guards
var (
	_ caddy.Validator       = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)
