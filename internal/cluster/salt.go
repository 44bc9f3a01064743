package cluster

import (
	"crypto/sha256"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// salted is s as it is handed on: the digest of what it depends on is one of the whole request
// too, of which half is in no name on the board, so that nobody finds out by trying what a
// field or a placeholder was (contract 14.5).
func (m *Member) salted(s *state.State) *state.State {
	if s.Variation == nil {
		return s
	}
	c := s.Again(s.Ended)
	c.Varied = m.salty(s.Varied)
	return c
}

// unsalt gives s, which was handed on, the digest that is known here. Where that is another
// one, s is nobody's here.
func (m *Member) unsalt(s *state.State) {
	if s.Variation == nil {
		return
	}
	if own := m.poller.Varied(s); m.salty(own) == s.Varied {
		s.Varied = own
	}
}

func (m *Member) salty(digest lot.Key) lot.Key {
	return sha256.Sum256(append(append([]byte("varied\x00"), m.salt[:]...), digest[:]...))
}

// tells reports whether s depends on what it can not be handed on by: once it is published,
// its resource may have another name, or none.
func (m *Member) tells(s *state.State) bool {
	if !s.Variation.Wants() {
		return false
	}
	key, _, told, shared := m.poller.CommonKey()
	if shared {
		_, shared = m.set.board.Name(m.set.key(key), told)
	}
	return !shared
}
