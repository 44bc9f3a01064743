package cluster

import (
	"encoding/json"
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

// contract 14.5: what tells wakers apart is in messages that anybody may read who can read
// Redis, and no password can be found out from it by trying.
func TestWakesOf(t *testing.T) {
	of := func(guest string) uint64 { return WakesOf([]json.RawMessage{json.RawMessage(guest)}) }
	want := of(`{"waker": "redis", "address": ["a:1"], "channel": ["c"]}`)
	for _, same := range []string{
		`{"channel": ["c"], "address": ["a:1"], "waker": "redis"}`,
		`{"waker": "redis", "address": ["a:1"], "channel": ["c"], "password": "123456"}`,
		`{"waker": "redis", "address": ["a:1"], "channel": ["c"], "username": "u", "password": "qwerty"}`,
	} {
		if of(same) != want {
			t.Errorf("%s is told from what has no password", same)
		}
	}
	for _, other := range []string{
		`{"waker": "redis", "address": ["b:1"], "channel": ["c"]}`,
		`{"waker": "redis", "address": ["a:1"], "channel": ["d"]}`,
		`{"waker": "other", "address": ["a:1"], "channel": ["c"]}`,
	} {
		if of(other) == want {
			t.Errorf("%s is not told from what wakes by something else", other)
		}
	}
	for _, url := range []string{"redis://:qwerty@a:1?master_name=m", "redis://u:qwerty@a:1?master_name=m&sentinel_password=654321"} {
		if of(`{"waker": "redis", "url": "redis://u:123456@a:1?master_name=m"}`) != of(`{"waker": "redis", "url": "`+url+`"}`) {
			t.Errorf("%s is told apart by its passwords", url)
		}
	}
	if of(`{"waker": "redis", "url": "redis://a:1?master_name=m"}`) == of(`{"waker": "redis", "url": "redis://a:1?master_name=n"}`) {
		t.Error("urls are not told apart by their masters")
	}
	if of(`{"waker": "redis", "url": "redis://:123456@a:1/2"}`) == of(`{"waker": "redis", "url": "redis://:123456@a:1/3"}`) {
		t.Error("urls are not told apart by their databases")
	}
	if WakesOf(nil) == 0 || WakesOf(nil) != of(`{"waker": "writes", "paths": ["/a"]}`) {
		t.Error("writes, of which all are told, are told from nothing")
	}
}
