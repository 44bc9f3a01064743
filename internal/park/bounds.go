package park

import (
	"cmp"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// Bounds is how much clients can have us keep (contract 7.9).
type Bounds struct {
	// How many requests may be parked at once. Default: 0, no bound.
	MaxParked int `json:"max_parked,omitempty"`

	// How many of one client address may be parked at once. Default: 0, no bound.
	MaxParkedPerClient int `json:"max_parked_per_client,omitempty"`

	// How many resources may be known at once. Default: 10000.
	MaxResources *int `json:"max_resources,omitempty"`

	// The size in bytes up to which an answer is looked at and a request's body is read;
	// larger ones are passed through. Default: 1 MiB.
	MaxBody *int64 `json:"max_body,omitempty"`

	// How many bytes of answers may be kept at once, decoded text included: what
	// nobody waits for makes room first. Default: 256 MiB.
	MaxMemory *int64 `json:"max_memory,omitempty"`

	// How long a resource is remembered after its last waiter left. Default: 30s.
	Linger *caddy.Duration `json:"linger,omitempty"`
}

// Fill fills in the defaults.
func (b *Bounds) Fill() {
	directive.OrDefault(&b.MaxResources, 10000)
	directive.OrDefault(&b.MaxBody, 1<<20)
	directive.OrDefault(&b.MaxMemory, 256<<20)
	directive.OrDefault(&b.Linger, caddy.Duration(30*time.Second))
}

// Limits are the bounds as the lot knows them, once the defaults are filled in.
func (b *Bounds) Limits() lot.Limits {
	return lot.Limits{
		Parked: b.MaxParked, PerClient: b.MaxParkedPerClient,
		Resources: *b.MaxResources, Memory: *b.MaxMemory, Linger: time.Duration(*b.Linger),
	}
}

// Subdirectives are those that b is written by.
func (b *Bounds) Subdirectives() directive.Block {
	return directive.Block{
		"max_parked":            {Args: "<n>", Min: 1, Max: 1, Set: directive.Value(&b.MaxParked, directive.Number)},
		"max_parked_per_client": {Args: "<n>", Min: 1, Max: 1, Set: directive.Value(&b.MaxParkedPerClient, directive.Number)},
		"max_resources":         {Args: "<n>", Min: 1, Max: 1, Set: directive.Pointer(&b.MaxResources, directive.Number)},
		"max_body":              {Args: "<size>", Min: 1, Max: 1, Set: directive.Pointer(&b.MaxBody, directive.Size)},
		"max_memory":            {Args: "<size>", Min: 1, Max: 1, Set: directive.Pointer(&b.MaxMemory, directive.Size)},
		"linger":                {Args: "<duration>", Min: 1, Max: 1, Set: directive.Pointer(&b.Linger, directive.Duration)},
	}
}

// Validate judges b, wherever it was written.
func (b *Bounds) Validate() error {
	return cmp.Or(
		directive.AboveZero("max_resources", b.MaxResources),
		directive.AboveZero("max_body", b.MaxBody),
		directive.AboveZero("max_memory", b.MaxMemory),
		directive.NotNegative("max_parked", &b.MaxParked),
		directive.NotNegative("max_parked_per_client", &b.MaxParkedPerClient),
		directive.NotNegative("linger", b.Linger),
	)
}
