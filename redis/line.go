package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// A line is one connection, which is made again whenever it is lost.
//
// go-redis would make it again by itself, and subscribe again. But it tells
// nobody that messages may have been missed, and it does not notice when the
// other end is gone without a word.
type line struct {
	link   *link
	to     node
	ctx    context.Context
	cancel context.CancelFunc
	kick   chan struct{} // tells hold that there is something in touched
	denied chan struct{} // tells hold that there is something to ask for again
	heard  atomic.Int64  // when something has come in last, in nanoseconds since line's begin
	begun  time.Time

	// All of it is protected by link.mu, and forgotten with the connection.
	sent    map[name]bool     // what the server was asked for, and if it said yes; nil without a connection
	touched map[name]struct{} // what may have to be subscribed to, or let go
	alone   map[name]struct{} // what is asked for in a command of its own
}

func newLine(l *link, to node) *line {
	ln := &line{link: l, to: to, kick: make(chan struct{}, 1), denied: make(chan struct{}, 1), begun: time.Now()}
	ln.ctx, ln.cancel = context.WithCancel(l.ctx)
	return ln
}

// touch has a name looked at: it is subscribed to if somebody listens, and let
// go if nobody does. link.mu is held.
func (ln *line) touch(n name) {
	if ln.sent != nil { // else connected will find it
		ln.touched[n] = struct{}{}
		poke(ln.kick)
	}
}

// run makes the connection until the line is cancelled.
func (ln *line) run() {
	p := ln.link.pace
	pause := p.pauseMin
	for {
		began := time.Now()
		err := ln.hold()
		if ln.ctx.Err() != nil {
			return
		}
		ln.link.fail(ln, err)
		if time.Since(began) > p.pauseMax {
			pause = p.pauseMin // it was no quick failure that would repeat quickly
		}
		select {
		case <-ln.ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)):
			pause = min(2*pause, p.pauseMax)
		}
	}
}

// hold connects, and keeps the connection for as long as it lives. It writes;
// another goroutine reads.
func (ln *line) hold() error {
	ctx, cancel := context.WithCancel(ln.ctx)
	defer cancel()
	p := ln.link.pace

	// Before connecting: if they hand over in between, following reconnects once
	// too often, and not never.
	master, err := ln.link.master(ctx)
	if err != nil {
		return err
	}
	conn := ln.to.Subscribe(ctx) // to nothing, so it does not connect yet
	if err := conn.Ping(ctx); err != nil {
		_ = conn.Close()
		return err
	}
	// A server that wants a password says so now. One that forbids this user to
	// ping is alive all the same.
	if _, err := conn.ReceiveTimeout(ctx, p.pong); err != nil && !goredis.IsPermissionError(err) {
		_ = conn.Close()
		return err
	}

	ln.connected(ln.link.mend(ln))
	lost := make(chan struct{})
	var readErr error // is set when lost is closed
	go func() {
		defer close(lost)
		readErr = ln.read(ctx, conn)
	}()
	defer func() {
		cancel() // a dial of go-redis' own
		_ = conn.Close()
		<-lost
		ln.disconnected()
	}()

	return ln.keep(ctx, conn, master, lost, &readErr)
}

// keep writes what there is to write, until the connection is lost or not wanted any more.
// master is that of the sentinels, if there are any; readErr is set when lost is closed.
func (ln *line) keep(ctx context.Context, conn *goredis.PubSub, master string, lost <-chan struct{}, readErr *error) error {
	p := ln.link.pace
	deposed := make(chan struct{})
	if master != "" {
		go ln.follow(ctx, master, deposed)
	}
	ping := time.NewTicker(p.ping)
	defer ping.Stop()
	pause := p.pauseMax
	var retry <-chan time.Time // nil unless something was refused
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-lost:
			return *readErr
		case <-deposed:
			return errors.New("sentinels have another master")
		case <-ln.kick:
			err = ln.flush(ctx, conn)
		case <-ping.C:
			if time.Since(ln.begun)-time.Duration(ln.heard.Load()) > p.ping/2 { // else what came in says as much
				err = conn.Ping(ctx)
			}
		case <-ln.denied:
			if retry == nil {
				retry = time.After(pause)
				pause = min(2*pause, p.retryMax)
			}
		case <-retry:
			retry = nil
			ln.askAgain(true)
		}
		if err != nil {
			return err
		}
	}
}

// follow closes deposed when the sentinels have another master. The old one, if
// it lives, stays connected and silent for ten seconds or more, until a sentinel
// makes it a replica; go-redis does not close subscriptions at a fail-over.
func (ln *line) follow(ctx context.Context, master string, deposed chan<- struct{}) {
	tick := time.NewTicker(ln.link.pace.ping)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if now, err := ln.link.master(ctx); err == nil && now != master {
				close(deposed)
				return
			}
		}
	}
}

// read marks what comes in. It never waits for anybody, so that a burst of
// messages is read as fast as it is sent, and none is dropped by the server.
func (ln *line) read(ctx context.Context, conn *goredis.PubSub) error {
	var who []listener
	for {
		msg, err := conn.ReceiveTimeout(ctx, ln.link.pace.ping*3/2+ln.link.pace.pong)
		ln.heard.Store(int64(time.Since(ln.begun)))
		var refusal goredis.Error
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("no answer to a ping: %w", err)
		case errors.As(err, &refusal):
			ln.refused(err)
			continue
		case err != nil:
			return err
		}
		switch msg := msg.(type) {
		case *goredis.Message:
			who = ln.listeners(who[:0], msg)
			for _, w := range who {
				w.heard(msg.Channel, msg.Payload)
			}
		case *goredis.Subscription:
			var within time.Duration
			who, within = ln.acknowledged(who[:0], msg)
			for _, w := range who {
				w.acknowledged(within)
			}
		}
		clear(who) // holds nobody who has stopped listening
	}
}

// connected begins with everything that is to be heard here. If the line was
// lost before, messages may have been missed.
func (ln *line) connected(wasLost bool) {
	l := ln.link
	l.mu.Lock()
	defer l.mu.Unlock()
	ln.sent = make(map[name]bool)
	ln.touched = make(map[name]struct{})
	ln.alone = make(map[name]struct{})
	for n, s := range l.subscriptions {
		if s.line == ln {
			s.missed = s.missed || wasLost
			ln.touch(n)
		}
	}
}

func (ln *line) disconnected() {
	l := ln.link
	l.mu.Lock()
	defer l.mu.Unlock()
	ln.sent, ln.touched, ln.alone = nil, nil, nil
	for n, s := range l.subscriptions {
		if s.line == ln && len(s.listeners) == 0 {
			delete(l.subscriptions, n) // the server has let go
		}
	}
}

// batchSize keeps a command below some hundred kilobytes, so that no other
// client of the server waits for long.
const batchSize = 256

// commands send what they are named for, and the opposite.
var commands = map[command]struct {
	ask, letGo func(*goredis.PubSub, context.Context, ...string) error
}{
	subscribe:  {(*goredis.PubSub).Subscribe, (*goredis.PubSub).Unsubscribe},
	psubscribe: {(*goredis.PubSub).PSubscribe, (*goredis.PubSub).PUnsubscribe},
	ssubscribe: {(*goredis.PubSub).SSubscribe, (*goredis.PubSub).SUnsubscribe},
}

// flush sends what touched names need, many in one command.
func (ln *line) flush(ctx context.Context, conn *goredis.PubSub) error {
	together, alone, letGo := ln.plan()
	for command, names := range letGo {
		for batch := range slices.Chunk(names, ln.batchSize(command)) {
			if err := commands[command].letGo(conn, ctx, batch...); err != nil {
				return err
			}
		}
	}
	for command, names := range together {
		for batch := range slices.Chunk(names, ln.batchSize(command)) {
			if err := commands[command].ask(conn, ctx, batch...); err != nil {
				return err
			}
		}
	}
	for _, n := range alone {
		if err := commands[n.command].ask(conn, ctx, n.channel); err != nil {
			return err
		}
	}
	return nil
}

// batchSize is 1 where the server refuses channels of different slots.
func (ln *line) batchSize(c command) int {
	if c == ssubscribe && ln.link.server.cluster() {
		return 1
	}
	return batchSize
}

func (ln *line) plan() (together map[command][]string, alone []name, letGo map[command][]string) {
	together, letGo = make(map[command][]string), make(map[command][]string)

	l := ln.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range ln.touched {
		s := l.subscriptions[n]
		mine := s != nil && s.line == ln
		wanted := mine && len(s.listeners) > 0
		_, sent := ln.sent[n]
		_, single := ln.alone[n]
		switch {
		case wanted && !sent && single:
			ln.sent[n] = false
			alone = append(alone, n)
		case wanted && !sent:
			ln.sent[n] = false
			together[n.command] = append(together[n.command], n.channel)
		case !wanted && sent:
			delete(ln.sent, n)
			delete(ln.alone, n)
			letGo[n.command] = append(letGo[n.command], n.channel)
		}
		if mine && !wanted {
			delete(l.subscriptions, n)
		}
	}
	clear(ln.touched)
	return together, alone, letGo
}

// refused is called for an error that the server answers with. It does not say
// to which command.
func (ln *line) refused(err error) {
	poke(ln.denied)
	l := ln.link
	if _, moved := goredis.IsMovedError(err); (moved && l.server.cluster()) || isPassing(err) {
		l.reload() // if another line is better, place will move it there
		return
	}
	// One forbidden channel has its whole batch refused.
	ln.askAgain(false)

	l.mu.Lock()
	first := !l.refused
	l.refused = true
	logger := l.logger()
	l.mu.Unlock()
	if first {
		logger.Warn("redis refuses a subscription; its resources are checked at their interval only",
			zap.Strings("address", l.server.addrs), zap.Error(err))
	}
}

// isPassing reports whether an error is due to a server or a cluster that has just
// started or is electing.
func isPassing(err error) bool {
	return goredis.IsClusterDownError(err) || goredis.IsLoadingError(err) ||
		goredis.IsMasterDownError(err) || goredis.IsTryAgainError(err)
}

// askAgain asks one by one for what was not acknowledged, or only for what was
// in a batch.
func (ln *line) askAgain(all bool) {
	l := ln.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, acknowledged := range ln.sent {
		if _, single := ln.alone[n]; acknowledged || (single && !all) {
			continue
		}
		delete(ln.sent, n)
		ln.alone[n] = struct{}{}
		ln.touch(n)
	}
}
