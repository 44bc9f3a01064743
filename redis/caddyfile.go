package redis

import (
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile sets up the waker from Caddyfile tokens. It parses and
// judges nothing but what JSON can not express: that is for Validate. Syntax:
//
//	wake redis {
//	    address   <host:port>...
//	    master    <name>
//	    username  <text>
//	    password  <text>
//	    db        <n>
//	    tls       [insecure_skip_verify]
//	    url       <redis url>
//	    channel   <text>...
//	    pattern   <text>...
//	    keyspace  <key>...
//	    sharded
//	}
func (w *Waker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the waker's name
	if d.NextArg() {
		return d.Errf("parsing wake redis %q: surplus argument; expected wake redis { ... }", d.Val())
	}

	seen := make(map[string]bool)
	for d.NextBlock(0) {
		name := d.Val()
		i := slices.IndexFunc(subdirectives, func(s subdirective) bool { return s.name == name })
		if i < 0 {
			return d.Errf("parsing wake redis: unknown subdirective %q; expected %s", name, subdirectiveNames())
		}
		sub := subdirectives[i]
		if seen[name] {
			return d.Errf("parsing wake redis: %s: given twice; expected at most one %s", name, name)
		}
		seen[name] = true

		args := d.RemainingArgs()
		usage := strings.TrimSpace(name + " " + sub.args)
		switch {
		case len(args) < sub.min:
			return d.Errf("parsing wake redis: %s: missing argument; expected %s", name, usage)
		case sub.max >= 0 && len(args) > sub.max:
			// They are not repeated: a password with a space in it would be here.
			return d.Errf("parsing wake redis: %s: %d arguments; expected %s", name, len(args), usage)
		case sub.max == 1 && len(args) == 1 && args[0] == "":
			return d.Errf(`parsing wake redis: %s "": expected %s`, name, usage)
		}
		if expected := sub.set(w, args); expected != "" {
			return d.Errf("parsing wake redis: %s %q: expected %s", name, strings.Join(args, " "), expected)
		}
		if d.NextBlock(d.Nesting()) {
			return d.Errf("parsing wake redis: %s: unexpected block; expected %s", name, usage)
		}
	}
	return nil
}

// A subdirective is one line of the block.
type subdirective struct {
	name     string
	args     string // as errors and the manual write them
	min, max int    // how many; a negative max is none

	// set returns what it expected, if that is not what it got.
	set func(w *Waker, args []string) (expected string)
}

var subdirectives = []subdirective{
	{"address", "<host:port>...", 1, -1, list(func(w *Waker) *[]string { return &w.Address })},
	{"master", "<name>", 1, 1, text(func(w *Waker) *string { return &w.Master })},
	{"username", "<text>", 1, 1, text(func(w *Waker) *string { return &w.Username })},
	{"password", "<text>", 1, 1, text(func(w *Waker) *string { return &w.Password })},
	{"db", "<n>", 1, 1, func(w *Waker, args []string) string {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return "a number"
		}
		w.DB = &n
		return ""
	}},
	{"tls", "[insecure_skip_verify]", 0, 1, func(w *Waker, args []string) string {
		w.TLS = &TLS{InsecureSkipVerify: len(args) > 0}
		if len(args) > 0 && args[0] != "insecure_skip_verify" {
			return "nothing or insecure_skip_verify"
		}
		return ""
	}},
	{"url", "<redis url>", 1, 1, text(func(w *Waker) *string { return &w.URL })},
	{"channel", "<text>...", 1, -1, list(func(w *Waker) *[]string { return &w.Channel })},
	{"pattern", "<text>...", 1, -1, list(func(w *Waker) *[]string { return &w.Pattern })},
	{"keyspace", "<key>...", 1, -1, list(func(w *Waker) *[]string { return &w.Keyspace })},
	{"sharded", "", 0, 0, func(w *Waker, _ []string) string {
		w.Sharded = true
		return ""
	}},
}

func text(field func(*Waker) *string) func(*Waker, []string) string {
	return func(w *Waker, args []string) string {
		*field(w) = args[0]
		return ""
	}
}

func list(field func(*Waker) *[]string) func(*Waker, []string) string {
	return func(w *Waker, args []string) string {
		*field(w) = args
		return ""
	}
}

func subdirectiveNames() string {
	names := make([]string, len(subdirectives))
	for i, s := range subdirectives {
		names[i] = s.name
	}
	return strings.Join(names, ", ")
}
