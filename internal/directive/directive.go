// Package directive reads a block of subdirectives by a table of them, and judges
// plain values: the same mistake has the same text wherever it is made. It serves
// the directive and its guests alike, so it may touch Caddy's configuration and
// nothing of this module.
package directive

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Table is how a directive is written.
type Table struct {
	// Name is what errors call the directive, such as `wake redis`.
	Name string

	// Line is what may stand on the directive's own line. It is set only where
	// something stands there. Its zero value accepts nothing.
	Line Subdirective

	// LineIs names the subdirective that Line is a short form of, so that it can
	// not be given in both places. Empty is none.
	LineIs string

	// Block is what may stand in the block.
	Block Block
}

// Block is what may stand in a block, by name.
type Block map[string]Subdirective

// Join is what may stand in any of the blocks, which have no name in common.
func Join(blocks ...Block) Block {
	all := make(Block)
	for _, b := range blocks {
		maps.Copy(all, b)
	}
	return all
}

// Subdirective is one line of a block.
type Subdirective struct {
	// Args is what follows the name, as errors and the manual write it.
	Args string

	// Min and Max are how many arguments there may be.
	Min, Max int

	// Set stores the arguments. Its error says what is wrong with which of them;
	// what is expected is added to it.
	Set func(args []string) error

	// Repeats is whether it may be given more than once.
	Repeats bool

	// Secret is whether an argument may be a password, by mistake too: no error
	// repeats any. Set has to see to its own.
	Secret bool

	// Guest reads the whole subdirective, its block too, in place of the above.
	// The dispenser stands at the name.
	Guest func(d *caddyfile.Dispenser) error
}

// Many is the Max of a subdirective that takes a list.
const Many = math.MaxInt

// Read reads the directive at whose name the dispenser stands, and its block.
// Errors name the subdirective, what was read and what is expected.
func (t Table) Read(d *caddyfile.Dispenser) error {
	given := make(map[string]bool)
	if args := d.RemainingArgs(); len(args) > 0 {
		if err := t.Line.read(t.Name, args); err != nil {
			return d.WrapErr(err)
		}
		given[t.LineIs] = true
	}
	for d.NextBlock(0) {
		name := d.Val()
		sub, ok := t.Block[name]
		if !ok {
			return d.Errf("parsing %s: unknown subdirective %q; expected %s", t.Name, name, t.names())
		}
		if sub.Guest != nil {
			if err := sub.Guest(d); err != nil {
				return err
			}
			continue
		}
		args := d.RemainingArgs()
		if given[name] && !sub.Repeats {
			return d.Errf("%s: given twice; expected at most one %s", sub.reading(name, args), name)
		}
		given[name] = true
		if err := sub.read(name, args); err != nil {
			return d.WrapErr(err)
		}
		if d.NextBlock(d.Nesting()) {
			return d.Errf("parsing %s: unexpected block; expected %s", name, sub.usage(name))
		}
	}
	return nil
}

// names lists what may stand in the block.
func (t Table) names() string {
	return list(slices.Sorted(maps.Keys(t.Block)))
}

// list writes what is accepted: the one or the other.
func list(accepted []string) string {
	last := len(accepted) - 1
	if last < 1 {
		return strings.Join(accepted, "")
	}
	return strings.Join(accepted[:last], ", ") + " or " + accepted[last]
}

// read hands the arguments to the subdirective.
func (s Subdirective) read(name string, args []string) error {
	var err error
	switch {
	case len(args) < s.Min:
		err = errors.New("missing argument")
	case len(args) > s.Max && s.Secret:
		err = errors.New("surplus argument")
	case len(args) > s.Max:
		err = fmt.Errorf("surplus argument %q", args[s.Max])
	case len(args) > 0 && args[0] == "":
		// It would leave no trace in the JSON, and the default would apply.
		err = errors.New("empty argument")
	default:
		err = s.Set(args)
	}
	if err != nil {
		return fmt.Errorf("%s: %w; expected %s", s.reading(name, args), err, s.usage(name))
	}
	return nil
}

// reading says what was read.
func (s Subdirective) reading(name string, args []string) string {
	if s.Secret {
		return "parsing " + name
	}
	return fmt.Sprintf("parsing %s %q", name, strings.Join(args, " "))
}

// usage is the subdirective as it should be written.
func (s Subdirective) usage(name string) string {
	if s.Args == "" {
		return name + " alone"
	}
	return name + " " + s.Args
}
