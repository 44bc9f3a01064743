// Package stream tells clients each change of a resource as it is found, for those who
// would rather hear than ask: as server-sent events, or as JSON by lines (contract 13). It
// is beside reply: what it tells are the states that polls are answered with, and it knows
// neither who has read them nor where a stream waits between two events.
package stream

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-longpoll/caddy-longpoll/internal/delta"
	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
)

// Options is the part of the configuration that streams are told by.
type Options struct {
	// The formats in which clients may be told each change, if their Accept field prefers
	// one: `sse` (text/event-stream) and `ndjson` (application/x-ndjson). Default: none, no
	// streams.
	Stream []string `json:"stream,omitempty"`

	// After how long without a byte a stream says that it lives. Default: 15s.
	Heartbeat *caddy.Duration `json:"heartbeat,omitempty"`

	// How long a stream lasts, shortened by the jitter of `hold`: then its client comes
	// back, and is authenticated again. Default: 15m.
	StreamTimeout *caddy.Duration `json:"stream_timeout,omitempty"`

	// How a change from one JSON state to the next is told to clients who have the former:
	// `json_patch` (RFC 6902) or `merge_patch` (RFC 7396). Default: not at all, but by the
	// whole state.
	Delta string `json:"delta,omitempty"`
}

// Fill fills in the defaults.
func (o *Options) Fill() {
	if len(o.Stream) > 0 {
		directive.OrDefault(&o.Heartbeat, caddy.Duration(15*time.Second))
		directive.OrDefault(&o.StreamTimeout, caddy.Duration(15*time.Minute))
	}
}

// Subdirectives are those that o is written by.
func (o *Options) Subdirectives() directive.Block {
	return directive.Block{
		"stream":         {Args: "[sse] [ndjson]", Max: 2, Set: o.setStream},
		"heartbeat":      {Args: "<duration>", Min: 1, Max: 1, Set: directive.Pointer(&o.Heartbeat, directive.Duration)},
		"stream_timeout": {Args: "<duration>", Min: 1, Max: 1, Set: directive.Pointer(&o.StreamTimeout, directive.Duration)},
		"delta":          {Args: "json_patch|merge_patch", Min: 1, Max: 1, Set: directive.Value(&o.Delta, directive.Text)},
	}
}

func (o *Options) setStream(args []string) error {
	if o.Stream = args; len(args) == 0 {
		o.Stream = []string{string(SSE), string(NDJSON)}
	}
	return nil
}

// Validate judges o, wherever it was written.
func (o *Options) Validate() error {
	for i, format := range o.Stream {
		switch {
		case format == "":
			return errors.New(`stream "": expected sse or ndjson`)
		case slices.Contains(o.Stream[:i], format):
			return fmt.Errorf("stream %q: given twice; expected each of sse and ndjson at most once", format)
		}
		if err := directive.OneOf("stream", format, string(SSE), string(NDJSON)); err != nil {
			return err
		}
	}
	return cmp.Or(
		directive.AboveZero("heartbeat", o.Heartbeat),
		directive.AboveZero("stream_timeout", o.StreamTimeout),
		directive.OneOf("delta", o.Delta, "json_patch", "merge_patch"),
		o.alone(),
	)
}

// alone rejects what means nothing without stream.
func (o *Options) alone() error {
	var name, read string
	switch {
	case len(o.Stream) > 0:
		return nil
	case o.Heartbeat != nil:
		name, read = "heartbeat", directive.Print(*o.Heartbeat)
	case o.StreamTimeout != nil:
		name, read = "stream_timeout", directive.Print(*o.StreamTimeout)
	case o.Delta != "":
		name, read = "delta", o.Delta
	default:
		return nil
	}
	return fmt.Errorf("%s %q without stream: expected stream too, since it is about streams", name, read)
}

// Kind is that of the patches by which a change is told; empty if by none.
func (o *Options) Kind() delta.Kind { return delta.Kind(o.Delta) }
