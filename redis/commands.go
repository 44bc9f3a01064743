package redis

import (
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// commands is the client, for who sends commands of his own. After the end of the link it
// is one that is closed, and that nobody has to close.
func (l *link) commands() goredis.UniversalClient {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.client != nil:
	case l.closed:
		return closedClient()
	default:
		l.open()
	}
	return l.client
}

var closedClient = sync.OnceValue(func() goredis.UniversalClient {
	client := goredis.NewClient(&goredis.Options{})
	_ = client.Close() // it has no connection
	return client
})

// stumble notes that a command has failed. Where the server is away a line notices too, but
// maybe later: it is one outage.
func (l *link) stumble(err error) {
	l.mu.Lock()
	first := !l.warned
	l.warned, l.stumbled = true, time.Now()
	logger := l.logger()
	l.mu.Unlock()
	if first {
		l.warn(logger, err)
	}
	l.reload()
}

// calm is after how long without a failure the next one is another outage.
const calm = 10 * time.Second

// steady is the opposite of stumble. Where a line has noticed the outage too, mend says that
// it is over.
func (l *link) steady() {
	l.mu.Lock()
	over := l.warned && len(l.lost) == 0 && time.Since(l.stumbled) >= calm
	l.warned = l.warned && !over
	logger := l.logger()
	l.mu.Unlock()
	if over {
		logger.Info("redis is back", zap.Strings("address", l.server.addrs))
	}
}
