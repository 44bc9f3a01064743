package cluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Config is what a Set has to know of its handler.
type Config struct {
	Digest       [32]byte // of what makes an answer: who differs in it does not share
	Interval     time.Duration
	MaxPause     time.Duration // the longest between two checks that the configuration has
	CheckTimeout time.Duration
	MaxBody      int64 // bytes

	// Wakes tells apart by what handlers are woken, and WakersUp reports whether all of
	// that can be heard now.
	Wakes    uint64
	WakersUp func() bool

	// Wake wakes the resources of a path, of all that begin so where it is deep, on a host
	// or, where that is empty, on all.
	Wake func(host, path string, deep bool)
}

// Resource is one that Caddys share.
type Resource = lot.Resource[*state.Reading]

// Set is the members of one handler, and its place on the board.
type Set struct {
	Config
	board  Board
	id     uint64 // of the handler, in messages to all
	leases atomic.Int64

	mu      sync.Mutex // protects what follows
	members map[*Resource]*Member
	stop    func() // ends listening to what is said to all; nil before
	closed  bool

	writes writes
}

// New makes the set of a handler, which has nothing on the board yet.
func New(board Board, c Config) *Set {
	return &Set{Config: c, board: board, id: rand.Uint64(), members: make(map[*Resource]*Member)}
}

// callTime bounds a call of the board: it answers within milliseconds or is taken for
// away.
const callTime = 500 * time.Millisecond

func call() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callTime)
}

// caddyName is this process as operators call it.
var caddyName = func() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%.100s:%d", host, os.Getpid())
}()

// Join makes the member of a resource that has a poller now, until that ends. A set that
// was closed has none.
func (s *Set) Join(r *Resource, p Poller) *Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	if s.stop == nil {
		s.stop = s.board.Follow("", s.heard, func(time.Duration) {})
	}
	if m := s.members[r]; m != nil && m.stay(p) {
		return m
	}
	m := newMember(s, r, p)
	s.members[r] = m
	return m
}

// Of is the member of a resource; nil if it has none.
func (s *Set) Of(r *Resource) *Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members[r]
}

// Deaf reports whether a wake-up of a resource here is of no use: who checks it has heard
// the same.
func (s *Set) Deaf(r *Resource) bool {
	m := s.Of(r)
	return m != nil && m.deaf()
}

// By says which Caddy checks a resource: see Member.By.
func (s *Set) By(r *Resource) (by string, here bool) {
	if m := s.Of(r); m != nil {
		return m.By()
	}
	return "", false
}

// Leases is how many resources are checked here on behalf of all Caddys.
func (s *Set) Leases() int { return int(s.leases.Load()) }

// forget undoes Join.
func (s *Set) forget(m *Member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.members[m.resource] == m {
		delete(s.members, m.resource)
	}
}

// Leave hands all leases on, and has the set take no more part. It does not wait.
func (s *Set) Leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for _, m := range s.members {
		go m.leave()
	}
	if s.stop != nil {
		s.stop()
	}
}

// heard is told what is said to all.
func (s *Set) heard(message []byte) {
	if m, err := parse(message, ""); err == nil && m.kind == written && m.from != s.id {
		go s.Wake(m.host, m.path, m.deep)
	}
}

// key adds the configuration to the key of a resource, and the format of messages: nothing
// could be heard of a release that has another one, and who followed it would wait for nothing.
func (s *Set) key(key lot.Key) [32]byte { return s.keyIn(format, key) }

func (s *Set) keyIn(format byte, key lot.Key) [32]byte {
	return sha256.Sum256(append(append(key[:], s.Digest[:]...), format))
}
