package redis

import (
	"context"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// name is what is subscribed to, and by which command.
type name struct {
	command command
	channel string
}

// command is the command by which a name is subscribed to, in lower case.
type command string

const (
	subscribe  command = "subscribe"
	psubscribe command = "psubscribe"
	ssubscribe command = "ssubscribe"
)

// keyspacePrefix begins the channels of keyspace notifications, before the database.
const keyspacePrefix = "__keyspace@"

// key returns the key whose owner is the only node of a cluster that tells of
// it. It is empty if all nodes do.
func (n name) key() string {
	if n.command == ssubscribe {
		return n.channel
	}
	if n.command == subscribe && strings.HasPrefix(n.channel, keyspacePrefix) {
		_, key, _ := strings.Cut(n.channel, "__:")
		return key
	}
	return ""
}

// subscription is who wants to hear a name.
type subscription struct {
	listeners map[listener]struct{}
	line      *line // nil until the owner of its key is known
	missed    bool  // there was nobody to hear it for a while
}

func (s *subscription) appendTo(who []listener) []listener {
	for w := range s.listeners {
		who = append(who, w)
	}
	return who
}

// listener is who is told of what comes on a name: one resource, or all of a pattern.
type listener interface {
	// heard is told of each message. It does not block.
	heard(channel, payload string)

	// acknowledged is told that no message is missed from now on. It has to have
	// a look, at a random time within the given one. It does not block.
	acknowledged(within time.Duration)
}

// node is where a line connects to: a client of one server, or of a cluster of
// which any node will do.
type node interface {
	Subscribe(ctx context.Context, channels ...string) *goredis.PubSub
}
