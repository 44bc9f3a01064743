package cluster

import (
	"testing"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// contract 14.6: releases that can not understand each other do not share. One that waited for
// what the other one says would miss all changes.
func TestKeyOfAnotherFormat(t *testing.T) {
	s, key := New(nil, Config{}), lot.Key{1}
	if s.key(key) != s.keyIn(format, key) {
		t.Error("the key of a resource is not that of this format")
	}
	if s.key(key) == s.keyIn(format+1, key) {
		t.Error("a resource has the same key in a release with another format of messages")
	}
}
