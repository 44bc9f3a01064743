package contract_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(new(boardLink)) }

// board is where the sites of one test meet, with all that can happen to a real one: it
// can be away, forget everything, and lose messages.
type board struct {
	mu        sync.Mutex // protects what follows
	down      bool
	kept      map[string]keptText
	tokens    map[string]uint64
	following map[string]map[*follow]struct{}
	calls     int
	loses     func() bool                 // the next message to one of them
	spoils    bool                        // what is posted
	repeats   func() (late time.Duration) // how late the next message comes once more; 0 if it does not
	notes     bool                        // what is posted and said is noted in said
	said      []note
}

// note is what was said of a name.
type note struct{ name, message string }

type keptText struct {
	text  string
	until time.Time
}

type follow struct {
	link  *boardLink
	heard func([]byte)
	ready func(time.Duration)
}

// boards are those of running tests, by name.
var boards sync.Map

// newBoard makes the board of a test.
func newBoard(name string) *board {
	b := &board{kept: make(map[string]keptText), tokens: make(map[string]uint64), following: make(map[string]map[*follow]struct{}), loses: func() bool { return false }, repeats: func() time.Duration { return 0 }}
	boards.Store(name, b)
	return b
}

// boardLink is the guest module: one site's way to the board.
type boardLink struct {
	Board string `json:"board"`

	*board
	mu     sync.Mutex    // protects paused
	paused chan struct{} // closed when it goes on; nil if it does
}

func (*boardLink) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.long_poll.clusters.board", New: func() caddy.Module { return new(boardLink) }}
}

func (l *boardLink) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&l.Board) {
		return d.ArgErr()
	}
	return nil
}

func (l *boardLink) Provision(ctx caddy.Context) error {
	b, ok := boards.Load(l.Board)
	if !ok {
		return fmt.Errorf("there is no board %q", l.Board)
	}
	l.board = b.(*board)
	if s, ok := ctx.Value(siteKey).(*site); ok {
		s.link = l
	}
	return nil
}

// pause has nothing that this site says or hears arrive until the function is called.
func (l *boardLink) pause() (resume func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	gate := make(chan struct{})
	l.paused = gate
	return sync.OnceFunc(func() {
		l.mu.Lock()
		l.paused = nil
		l.mu.Unlock()
		close(gate)
	})
}

// wait waits while the site is paused: a process that is stopped notices no deadline.
func (l *boardLink) wait() {
	for {
		l.mu.Lock()
		gate := l.paused
		l.mu.Unlock()
		if gate == nil {
			return
		}
		<-gate
	}
}

var errAway = errors.New("the board is away")

// do makes a step of the board.
func (l *boardLink) do(ctx context.Context, step func(b *board)) error {
	l.wait()
	time.Sleep(time.Millisecond) // there and back
	l.wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	b := l.board
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down {
		return errAway
	}
	b.calls++
	step(b)
	return nil
}

// get is what is kept; empty if nothing is.
func (b *board) get(key string) string {
	k := b.kept[key]
	if !time.Now().Before(k.until) {
		return ""
	}
	return k.text
}

func (b *board) set(key, text string, keep time.Duration) {
	b.kept[key] = keptText{text, time.Now().Add(keep)}
}

// say passes a message on, each in its own time.
func (b *board) say(name string, message []byte) {
	if b.notes {
		b.said = append(b.said, note{name, string(message)})
	}
	for f := range b.following[name] {
		if b.loses() {
			continue
		}
		go func() {
			time.Sleep(time.Millisecond)
			f.link.wait()
			f.heard(message)
			if late := b.repeats(); late > 0 {
				time.Sleep(late)
				f.link.wait()
				f.heard(message)
			}
		}()
	}
}

func (l *boardLink) Name(key [32]byte, personal bool) (string, bool) {
	return hex.EncodeToString(key[:4]), !personal
}

func (l *boardLink) Follow(name string, heard func([]byte), ready func(time.Duration)) (stop func()) {
	f := &follow{l, heard, ready}
	b := l.board
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.following[name] == nil {
		b.following[name] = make(map[*follow]struct{})
	}
	b.following[name][f] = struct{}{}
	if !b.down {
		time.AfterFunc(time.Millisecond, func() { l.wait(); ready(0) })
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.following[name], f)
	}
}

func (l *boardLink) Claim(ctx context.Context, name, who string, known uint64, ttl time.Duration) (mine bool, token uint64, left time.Duration, state, fault []byte, err error) {
	err = l.do(ctx, func(b *board) {
		lease := b.get("lease:" + name)
		switch {
		case lease == "":
			if token = max(b.tokens[name], known) + 1; token > 1<<50 {
				token = 1
			}
			b.tokens[name], mine, left = token, true, ttl
			b.set("lease:"+name, fmt.Sprintf("%d:%s", token, who), ttl)
		default:
			var holder string
			fmt.Sscanf(strings.Replace(lease, ":", " ", 1), "%d %s", &token, &holder)
			mine = holder == who
			left = time.Until(b.kept["lease:"+name].until)
		}
		state, fault = []byte(b.get("state:"+name)), []byte(b.get("fault:"+name))
	})
	return mine, token, left, state, fault, err
}

func (l *boardLink) Renew(ctx context.Context, name, who string, token uint64, ttl time.Duration) (mine bool, err error) {
	err = l.do(ctx, func(b *board) {
		lease := b.get("lease:" + name)
		if lease != "" {
			b.set("lease:"+name, lease, ttl)
		}
		mine = lease == fmt.Sprintf("%d:%s", token, who)
	})
	return mine, err
}

func (l *boardLink) Post(ctx context.Context, name, who string, token uint64, state, fault []byte, keep time.Duration, message []byte) (mine bool, err error) {
	err = l.do(ctx, func(b *board) {
		if mine = b.get("lease:"+name) == fmt.Sprintf("%d:%s", token, who); !mine {
			return
		}
		if b.spoils {
			message = message[:len(message)-5]
			state, fault = state[:max(len(state)-5, 0)], fault[:max(len(fault)-5, 0)]
		}
		if state != nil {
			b.set("state:"+name, string(state), keep)
			delete(b.kept, "fault:"+name)
		}
		if fault != nil {
			b.set("fault:"+name, string(fault), keep)
		}
		b.say(name, message)
	})
	return mine, err
}

func (l *boardLink) Keep(ctx context.Context, name string, keep time.Duration) (there bool, err error) {
	err = l.do(ctx, func(b *board) {
		if text := b.get("state:" + name); text != "" {
			there = true
			b.set("state:"+name, text, keep)
		}
	})
	return there, err
}

func (l *boardLink) Fetch(ctx context.Context, name string) (state, fault []byte, err error) {
	err = l.do(ctx, func(b *board) { state, fault = []byte(b.get("state:"+name)), []byte(b.get("fault:"+name)) })
	return state, fault, err
}

func (l *boardLink) Tell(ctx context.Context, name string, message []byte) error {
	return l.do(ctx, func(b *board) { b.say(name, message) })
}

func (l *boardLink) Yield(ctx context.Context, name, who string, token uint64, message []byte) error {
	return l.do(ctx, func(b *board) {
		if b.get("lease:"+name) == fmt.Sprintf("%d:%s", token, who) {
			delete(b.kept, "lease:"+name)
			b.say(name, message)
		}
	})
}

func (l *boardLink) Up() bool {
	l.board.mu.Lock()
	defer l.board.mu.Unlock()
	return !l.board.down
}

// away has the board be away.
func (b *board) away() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = true
}

// back has it be there again, having forgotten everything if so.
func (b *board) back(empty bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = false
	if empty {
		clear(b.kept)
		clear(b.tokens)
	}
	for _, fs := range b.following {
		for f := range fs {
			go func() { f.link.wait(); f.ready(time.Second) }()
		}
	}
}

// count is how many calls have reached the board.
func (b *board) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}
