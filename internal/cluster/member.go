package cluster

import (
	"cmp"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Poller is the poller of a resource, as its member sees it. It is called on the poller's
// own goroutine.
type Poller interface {
	// CommonKey is the key of the resource, the same in all Caddys. personal is true of
	// requests with credentials, and told of a key that is made of any; shared is false
	// where nobody else is to be told.
	CommonKey() (key lot.Key, personal, told, shared bool)

	// Adopt publishes what was handed on; nil is what is known already, read once more. It
	// reports false where that can not be done.
	Adopt(now *state.State, h Hand) bool

	// Varied is the digest of what the requests of this resource have of what s depends on:
	// see [state.State].
	Varied(s *state.State) lot.Key
}

// Hand is how a state was handed on.
type Hand struct {
	Proof lot.Proof
	Ends  bool          // it ends the check that has begun here
	Next  time.Duration // until the next check, wherever
	Pause time.Duration // the same, before jitter
	Due   time.Time     // when the poller is called, if nothing is heard before
}

// role is what a member is to its resource.
type role int

const (
	apart   role = iota // each checks for itself: the board can not be reached, or not yet, or nobody else is to know
	follows             // somebody else has the lease
	holds               // it has
)

// Member is a resource on the board, as one Caddy sees it. Turn, Begins, Read and Drop are
// its poller's.
type Member struct {
	set      *Set
	resource *Resource
	poller   Poller
	id       uint64
	arrived  chan struct{} // something is in the inbox

	// only the poller's
	salt    [32]byte  // what the name is made of
	proved  uint64    // what was published last is proven to be as new as this
	retry   time.Time // not before is the board tried again
	pauses  int       // tries in vain
	failing bool      // the last check that was made here has failed

	mu       sync.Mutex // protects what follows; taken after all other locks
	name     string     // on the board; empty where there is none
	personal bool
	stop     func() // ends listening
	left     bool
	ending   *time.Timer // leaves; nil while there is a poller
	role     role
	token    uint64 // of the lease
	term     uint64 // tells this member's last lease from all others, whatever the board has forgotten
	seq      uint64 // of the last report of it; a term begins with any
	state    stateID
	said     said          // what that says
	fault    stateID       // the last fault that was published, as the report of it
	marks    []lot.Proof   // of which it is not known yet whether who holds the lease has heard, and the last of which it is
	covered  uint64        // the number of the last of which it is known
	noted    time.Time     // when the last of them was told of
	gap      time.Duration // after which the next is told of, as long as that is not known of the last
	noting   bool          // it is going to be
	remark   bool          // though nobody has begun to wait since the last one
	ready    bool          // no message is missed
	awaiting bool          // until none is
	rejoin   bool          // messages may have been missed
	pause    time.Duration // the latest; changed by the poller only

	// of who follows
	holder uint64 // 0 if it has not been heard yet
	by     string
	wakes  uint64
	spoke  time.Time // when it was heard last
	doubts bool      // whether it is still there: see doubt
	mute   bool      // it has said nothing after a wake-up
	inbox  *report   // the latest that says something of the state
	busy   *report   // the latest that says that a check takes its time
	free   bool      // the lease was given up
	due    time.Time // when the next check is due then

	// of who holds
	heard    map[uint64]heardOf // the last tickets
	begun    []heard            // the same, when the check began
	checking bool
	delayed  bool // it has not begun yet
	delays   int  // how often keepOn was called since
	acking   bool
	wanted   bool      // a check was asked for when there was no poller
	faulted  bool      // there is a fault on the board
	until    time.Time // the lease lasts
	kept     time.Time // the state is kept
	keeper   *time.Timer
}

// heardOf is the last ticket of a member, and when it came.
type heardOf struct {
	ticket uint64
	at     time.Time
}

func newMember(s *Set, r *Resource, p Poller) *Member {
	return &Member{set: s, resource: r, poller: p, id: rand.Uint64() | 1, arrived: make(chan struct{}, 1), pause: s.Interval, gap: noteGap, rejoin: true}
}

// who is the member on the board.
func (m *Member) who() string { return strconv.FormatUint(m.id, 16) }

// Times, as parts of the pause between two checks: who holds the lease renews it at the
// begin of each check, and is missed after one and a half pauses at the latest, so that it
// is replaced within two.
const (
	minLease = 500 * time.Millisecond // a busy machine must not lose it

	askPatience = 300 * time.Millisecond // for a sign that a check was asked for
	wakeTime    = time.Second            // for a sign that who checks has heard a wake-up too
	ackDelay    = 100 * time.Millisecond // for a check that has been asked for, before it is said that it takes its time
	noteDelay   = 5 * time.Millisecond   // for those who come together
	noteGap     = 25 * time.Millisecond  // for those who come after them
	maxGap      = time.Second            // the same, where checks are rare
	readyTime   = 500 * time.Millisecond // for the board to be listened to

	minRetry = 2 * time.Second
	maxRetry = 10 * time.Second

	holdBack = 50 * time.Millisecond // for others to take a lease over, who may reach a backend that fails here

	endTime = 250 * time.Millisecond // for a poller that has ended to be needed again

	aloneTime = time.Minute // for what is not handed on, before it is tried again
	minKeep   = time.Minute // for a state on the board
)

func leaseTime(pause time.Duration) time.Duration { return max(pause*7/4, minLease) }
func slackTime(pause time.Duration) time.Duration {
	return max(pause*6/10, minLease/4) + rand.N(max(pause/20, time.Millisecond))
}
func keepTime(pause time.Duration) time.Duration { return max(5*pause, minKeep) }

// deaf reports whether who holds the lease is woken by all that wakes here. It is given
// some time to say something then.
func (m *Member) deaf() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.role != follows || m.holder == 0 || m.wakes != m.set.Wakes || m.mute {
		return false
	}
	now := time.Now()
	if !m.doubts && now.Sub(m.spoke) > askPatience { // else it may have said it already
		m.doubts = true
		time.AfterFunc(wakeTime, func() { m.doubt(now) })
	}
	return true
}

// doubt has the check that a wake-up was for be asked for, where who holds the lease has said
// nothing since: it may have died, and nobody takes its place before the lease is over.
func (m *Member) doubt(since time.Time) {
	m.mu.Lock()
	m.doubts = false
	mute := m.role == follows && !m.left && m.spoke.Before(since)
	m.mute = m.mute || mute
	m.mu.Unlock()
	if mute {
		m.resource.Wake()
	}
}

// By says which Caddy checks, as operators call it; empty if each does. here reports
// whether it is this one.
func (m *Member) By() (by string, here bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch m.role {
	case holds:
		return caddyName, true
	case follows:
		return cmp.Or(m.by, "another"), false
	}
	return "", false
}

// roleNow is the role.
func (m *Member) roleNow() role {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.role
}

// becomeLocked changes the role.
func (m *Member) becomeLocked(r role) {
	if (m.role == holds) != (r == holds) {
		if r == holds {
			m.set.leases.Add(1)
		} else {
			m.set.leases.Add(-1)
			m.stopKeepingLocked()
		}
	}
	m.role = r
}

// Ended is called when the poller ends: those who were told of a change have left together,
// and as a rule they are back in a moment. Else the lease is handed on.
func (m *Member) Ended() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ending = time.AfterFunc(endTime, m.leave)
}

// stay has p be the poller from now on. It reports false where the member has left.
func (m *Member) stay(p Poller) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ending == nil || m.left || !m.ending.Stop() {
		return false
	}
	m.ending, m.poller = nil, p
	return true
}

// leave hands the lease on, and takes no more part.
func (m *Member) leave() {
	m.set.forget(m)
	m.mu.Lock()
	again := m.left
	m.left = true
	m.mu.Unlock()
	if !again {
		m.forsake()
	}
}

// forsake hands the lease on, and goes off the board.
func (m *Member) forsake() {
	_, woken, _ := m.resource.Needs()
	due := m.resource.Due()
	m.mu.Lock()
	name, token, stop, held := m.name, m.token, m.stop, m.role == holds
	gone := m.reportLocked(bye)
	if !woken && !m.wanted {
		gone.next = time.Until(due)
	}
	m.becomeLocked(apart)
	m.name, m.stop, m.token, m.seq, m.state, m.fault, m.marks = "", nil, 0, 0, stateID{}, stateID{}, nil
	m.said = said{}
	m.inbox, m.busy, m.free, m.ready, m.rejoin, m.holder, m.covered, m.wanted = nil, nil, false, false, false, 0, 0, false
	m.mu.Unlock()
	if held {
		ctx, cancel := call()
		defer cancel()
		_ = m.set.board.Yield(ctx, name, m.who(), token, gone.append(nil)) // else it runs out
	}
	if stop != nil {
		stop()
	}
}

// lose is called when the board can not be reached: each checks for itself, and it is
// tried again after a while, or when it is heard again.
func (m *Member) lose() {
	m.mu.Lock()
	m.becomeLocked(apart)
	m.mu.Unlock()
	m.retry = time.Now().Add(min(minRetry<<min(m.pauses, 4), maxRetry))
	m.pauses++
}

// reportLocked makes a report of who holds the lease, or a message of who follows.
func (m *Member) reportLocked(k kind) *report {
	r := &report{kind: k, name: m.name, from: m.id, token: m.token, state: m.state}
	if k.ofHolder() {
		m.seq++
		r.from, r.seq, r.by = m.term, m.seq, caddyName
		if m.set.WakersUp() {
			r.wakes = m.set.Wakes
		}
	}
	return r
}
