package redis

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

// links outlives a reload, in which the old config's wakers and the new one's
// hold the same link for a moment.
var links = caddy.NewUsagePool()

// link hears one server, or one cluster, on behalf of all who listen to it. It
// says what is to be heard by whom; the lines do it.
type link struct {
	server server
	pace   *pace
	ctx    context.Context
	cancel context.CancelFunc
	kick   chan struct{} // tells place that there is something in unplaced

	// mu protects the following, and what the lines say it does. It is never
	// held across a call to Redis or to a listener.
	mu            sync.Mutex
	loggers       []*zap.Logger           // of those who share it; the latest logs
	client        goredis.UniversalClient // nil until somebody listens
	subscriptions map[name]*subscription
	unplaced      map[name]struct{} // which wait for place to find their line
	lines         map[node]*line
	lost          map[any]struct{} // the lines, or the link itself, that can not reach their server
	since         time.Time        // when the first of them was lost
	warned        bool             // the outage was logged
	stumbled      time.Time        // when a command has failed last
	refused       bool             // the server refused something, and it was logged
	quiet         chan struct{}    // closed when nobody listens any more; nil until that is waited for
	closed        bool             // there is to be no client any more
}

// pace is how long things take; tests are less patient.
type pace struct {
	ping     time.Duration // between two signs of life
	pong     time.Duration // for an answer, before the connection is taken for dead
	dial     time.Duration // for each step of making a connection
	pauseMin time.Duration // before the first attempt to connect again
	pauseMax time.Duration
	retryMax time.Duration // before something that was refused is asked for again
	spread   time.Duration // over which the checks after an outage are spread
	goodbye  time.Duration // for who listens, to say what there is to say at the end
}

// A half-open connection is noticed within one and a half times ping, and pong. Redis answers a ping
// within milliseconds unless a slow command blocks it, and so is all said at the end.
var defaultPace = pace{
	ping:     3 * time.Second,
	pong:     3 * time.Second,
	dial:     3 * time.Second,
	pauseMin: 100 * time.Millisecond,
	pauseMax: 3 * time.Second,
	retryMax: time.Minute,
	spread:   time.Second,
	goodbye:  500 * time.Millisecond,
}

// join returns the link to a server. leave gives it back.
func join(s server, p *pace, logger *zap.Logger) *link {
	v, _, _ := links.LoadOrNew(s.key(), func() (caddy.Destructor, error) {
		l := &link{
			server:        s,
			pace:          p,
			kick:          make(chan struct{}, 1),
			subscriptions: make(map[name]*subscription),
			unplaced:      make(map[name]struct{}),
			lines:         make(map[node]*line),
			lost:          make(map[any]struct{}),
		}
		l.ctx, l.cancel = context.WithCancel(context.Background())
		return l, nil
	})
	l := v.(*link)
	l.mu.Lock()
	l.loggers = append(l.loggers, logger)
	l.mu.Unlock()
	return l
}

// logger is that of the latest config: an older one may write to a log that is
// closed. l.mu is held.
func (l *link) logger() *zap.Logger {
	if len(l.loggers) == 0 {
		return zap.NewNop()
	}
	return l.loggers[len(l.loggers)-1]
}

// listen makes sure that who hears n, and is told when that begins.
func (l *link) listen(n name, who listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client == nil && !l.closed {
		l.open()
	}
	s, ok := l.subscriptions[n]
	if !ok {
		s = &subscription{listeners: make(map[listener]struct{})}
		l.subscriptions[n] = s
		if !l.closed && (n.key() == "" || !l.server.cluster()) {
			s.line = l.line(l.client)
		}
	}
	s.listeners[who] = struct{}{}
	switch {
	case l.closed: // there is nothing to hear
	case s.line == nil:
		l.unplaced[n] = struct{}{}
		poke(l.kick)
	case s.line.sent[n]:
		// Acknowledged before who listened. Not on the goroutine of the caller,
		// who may hold locks.
		go who.acknowledged(0)
	default:
		s.line.touch(n)
	}
}

// ignore is the opposite of listen.
func (l *link) ignore(n name, who listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.subscriptions[n]
	delete(s.listeners, who)
	if len(s.listeners) > 0 {
		return
	}
	defer l.hushLocked()
	if s.line != nil {
		if _, sent := s.line.sent[n]; sent {
			s.line.touch(n)
			return
		}
	}
	delete(l.subscriptions, n)
}

// open makes the client, which does not connect by itself. l.mu is held.
func (l *link) open() {
	logOnce.Do(func() { goredis.SetLogger(clientLogger{}) })
	l.client = goredis.NewUniversalClient(l.server.options(l.pace.dial))
	if cluster, ok := l.client.(*goredis.ClusterClient); ok {
		go l.place(cluster)
	}
}

// master returns the address of the master that the sentinels name, if it can be
// reached. It is empty without sentinels.
func (l *link) master(ctx context.Context) (string, error) {
	if l.server.master == "" {
		return "", nil
	}
	l.mu.Lock()
	client := l.client.(*goredis.Client)
	l.mu.Unlock()
	// This dialer asks them first. go-redis lets nobody else do so.
	conn, err := client.Options().Dialer(ctx, "tcp", "")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.RemoteAddr().String(), nil
}

// line returns the line to a node, which may have to be started. l.mu is held.
func (l *link) line(to node) *line {
	ln, ok := l.lines[to]
	if !ok {
		ln = newLine(l, to)
		l.lines[to] = ln
		go ln.run()
	}
	return ln
}

// place finds out which node of a cluster is to be asked for a name, again and
// again, since slots move.
func (l *link) place(cluster *goredis.ClusterClient) {
	tick := time.NewTicker(l.pace.ping)
	defer tick.Stop()
	for {
		all := false
		select {
		case <-l.ctx.Done():
			return
		case <-l.kick:
		case <-tick.C:
			all = true
		}

		for _, n := range l.namesToPlace(all) {
			owner, err := cluster.MasterForKey(l.ctx, n.key())
			if l.ctx.Err() != nil {
				return
			}
			if err != nil {
				l.fail(l, err)
				break // the tick tries again
			}
			l.mend(l)
			l.move(n, owner)
		}
		if all {
			l.closeIdle()
		}
	}
}

func (l *link) namesToPlace(all bool) []name {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []name
	if all {
		for n := range l.subscriptions {
			if n.key() != "" {
				names = append(names, n)
			}
		}
	} else {
		names = slices.Collect(maps.Keys(l.unplaced))
	}
	clear(l.unplaced)
	return names
}

// move gives a name to the line of its owner.
func (l *link) move(n name, owner node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.subscriptions[n]
	if !ok {
		return
	}
	if to := l.line(owner); s.line != to {
		if s.line != nil {
			s.missed = true
			s.line.touch(n) // to let go
		}
		s.line = to
		to.touch(n)
	}
}

// closeIdle ends the lines to those nodes of a cluster that own nothing that is
// listened to.
func (l *link) closeIdle() {
	l.mu.Lock()
	busy := make(map[*line]bool)
	for _, s := range l.subscriptions {
		busy[s.line] = true
	}
	var idle []*line
	for to, ln := range l.lines {
		if to != l.client && !busy[ln] {
			ln.cancel()
			delete(l.lines, to)
			idle = append(idle, ln)
		}
	}
	l.mu.Unlock()
	for _, ln := range idle {
		l.mend(ln)
	}
}

// fail notes that a line, or the link itself, can not reach its server. An outage
// is logged once, however many notice it and however often.
func (l *link) fail(who any, err error) {
	l.mu.Lock()
	if ln, ok := who.(*line); ok && l.lines[ln.to] != ln {
		l.mu.Unlock()
		return // closeIdle was faster
	}
	first := len(l.lost) == 0 && !l.warned
	if len(l.lost) == 0 {
		l.since = time.Now()
	}
	l.lost[who], l.warned = struct{}{}, true
	logger := l.logger()
	l.mu.Unlock()

	if first {
		l.warn(logger, err)
	}
	l.reload()
}

func (l *link) warn(logger *zap.Logger, err error) {
	logger.Warn("lost redis; resources are checked at their interval only",
		zap.Strings("address", l.server.addrs), zap.Error(err))
}

// reload has a cluster asked, in the background, which node owns what.
func (l *link) reload() {
	l.mu.Lock()
	cluster, ok := l.client.(*goredis.ClusterClient)
	l.mu.Unlock()
	if ok {
		cluster.ReloadState(l.ctx)
	}
}

// mend is the opposite of fail.
func (l *link) mend(who any) (wasLost bool) {
	l.mu.Lock()
	_, wasLost = l.lost[who]
	delete(l.lost, who)
	last := wasLost && len(l.lost) == 0
	l.warned = l.warned && len(l.lost) > 0
	outage, logger := time.Since(l.since), l.logger()
	l.mu.Unlock()

	if last {
		logger.Info("redis is back; every watched resource is checked",
			zap.Strings("address", l.server.addrs), zap.Duration("outage", outage))
	}
	return wasLost
}

func (l *link) up() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lost) == 0
}

// poke wakes the goroutine that reads from c, if it is not awake already.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

var logOnce sync.Once

// clientLogger takes what go-redis has to say, which is for all links together.
// A line says itself what an operator has to know.
type clientLogger struct{}

func (clientLogger) Printf(_ context.Context, format string, v ...any) {
	logger := caddy.Log().Named("http.long_poll.wakers.redis")
	if c := logger.Check(zap.DebugLevel, "go-redis"); c != nil {
		c.Write(zap.String("says", fmt.Sprintf(format, v...)))
	}
}
