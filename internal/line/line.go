// Package line finds out what the line between the clients and Caddy does to silent
// connections, from nothing but the ages at which parked requests end. It knows neither
// HTTP nor Caddy.
//
// # What is counted
//
// Of each request that was parked its age at the end, in buckets of half a second, and
// whether its client left. How many reached an age follows from that: all that ended
// there or later. The counts are kept in rounds, one after the other in time: a round
// lasts [roundLasts] at least and until [roundLeft] have left in it. The last [rounds] of
// them are judged, and no older ones.
//
// # What is a cut
//
// The second that begins at an age of [leastAge] or more is one where something cuts, if
//
//  1. there are [fewestRounds] rounds to judge;
//  2. somebody left at that age in at least half of them, and what follows holds without
//     the two in which most did: clients that all leave at one instant (a deployment, a
//     switch that restarts) are one round, and not again and again of the same age;
//  3. of those who reached it a share of [leastShare] or more left in it; in the beginning
//     whoever is still parked counts among those who did, since it is who leaves soon that
//     is seen first;
//  4. that is [timesNeighbours] times as many as in the seconds before and after it, two to
//     five seconds away (each side for itself, less its largest): people who leave a page,
//     however often, leave at all ages;
//  5. and no chance: more than 5 + 5√λ left, where λ is how many would have, had they
//     left as in those neighbouring seconds;
//  6. more than one client left: (3), (4) and (5) hold without the two eighths of all
//     addresses (by a hash that nobody knows) of which most left, so that nobody who has an
//     address and a network of IPv6 (its first 48 bits) can bring about a cut. Where not more than
//     [fewAddresses] addresses are seen at all, they are those of hops and say nothing of
//     clients: then a share of [leastShareOfFew] has to leave, and more of them at once than
//     one client, which asks again when it was cut, could have done.
//
// Who asked for a wait and leaves no sooner than a little before its end has a time-out of
// its own, and does not count as one that left. A client with a time-out that it says
// nothing of is cut by it as surely as by a hop: where these are many, that is a cut.
// A hop that forgets a connection and tells neither end can not be seen from here.
//
// The age that is told is that of the half second in which the cut begins.
//
// # What follows
//
// A cut stands until so many requests have outlived its age, over twice the time that they
// are held, that it would have shown, and it has not: less than a quarter of the share. With [Line.Hold], for `hold auto`, requests
// are kept a tenth below the cut; after [tryAfter] one in [tryOneIn] is held for as long as
// was configured, until enough of those have outlived the cut, or have not.
package line

import (
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	bucket    = 500 * time.Millisecond
	early     = 100 * time.Millisecond // by so much a bucket begins sooner than its age: clocks and ways differ
	mostAge   = 10 * time.Minute       // beyond it nothing is counted by age
	leastAge  = 2 * time.Second        // who leaves sooner has reloaded a page, or was never there
	addresses = 8                      // parts that the addresses of those who left are counted in

	rounds       = 12
	roundLasts   = 3 * time.Second
	roundLeft    = 4
	fewestRounds = 5

	leastShare      = 0.02
	leastShareOfFew = 0.25
	timesNeighbours = 3
	fewAddresses    = 8
	severalAtOnce   = 1.5 // on the average: one client after the other is at most one at once

	// below is by how much `hold auto` keeps below a cut.
	below = 0.1

	// Tries of `hold auto`.
	tryAfter = time.Hour
	tryOneIn = 100
)

// Cut is an age at which something cuts silent connections. Its zero value is none.
type Cut struct {
	Age   time.Duration
	Share float64   // of those who reached the age, the part that left then: 0 to 1
	Since time.Time // when it was found
}

// Line is what is known of the line of one handler.
type Line struct {
	most time.Duration // hold, as configured
	auto bool

	// Chance, which tests take out.
	hash func(address string) uint64
	intN func(n int) int

	now atomic.Pointer[round] // the present one; nil until the first request has ended

	// Addresses that requests come from, a bit for each sixty-fourth of all: those of the
	// time that a request may last, and of such a time before.
	seen, seenBefore atomic.Uint64
	looked           atomic.Uint64       // how many requests were looked at
	cut              atomic.Pointer[Cut] // nil: none is known

	// Since the cut was found, or judged again.
	outlived atomic.Int64
	again    atomic.Int64 // with auto: from when on some try, in nanoseconds since 1970
	due      atomic.Int64 // from when on enough have been seen, if they are enough

	mu    sync.Mutex // protects what follows, and what a round says of those who left
	began time.Time  // when the first request ended
	swept time.Time  // when seen became seenBefore
	past  []*round   // those that are over, the oldest first; at most rounds of them
	hit   int64      // how many left at the age of the cut since it was found, or judged again
}

// round is what was counted in some time.
type round struct {
	began time.Time
	ended []atomic.Uint32 // requests that ended, by age

	// Protected by mu of the line.
	over time.Time
	left []departures // by age
	all  int          // how many left
}

// departures are those who left at one age, by parts of the addresses.
type departures [addresses]uint32

func (d *departures) sum() (n uint32) {
	for _, of := range d {
		n += of
	}
	return n
}

// New is a line of which nothing is known. most is for how long a request is held at
// most; with auto, Hold keeps below what cuts.
func New(most time.Duration, auto bool) *Line {
	seed := maphash.MakeSeed()
	return &Line{
		most: most, auto: auto,
		hash: func(address string) uint64 { return maphash.String(seed, address) },
		intN: rand.IntN,
	}
}

func (l *Line) newRound(now time.Time) *round {
	n := bucketOf(min(l.most, mostAge)) + int(5*time.Second/bucket) // and what is answered late
	return &round{began: now, ended: make([]atomic.Uint32, n), left: make([]departures, n)}
}

// bucketOf is the bucket of an age.
func bucketOf(age time.Duration) int { return int(max(0, age+early) / bucket) }

// present is the round that a request belongs to which ends now.
func (l *Line) present(now time.Time) *round {
	if r := l.now.Load(); r != nil {
		return r
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now.Load() == nil {
		l.began, l.swept = now, now
		l.now.Store(l.newRound(now))
	}
	return l.now.Load()
}

// end counts an age in r.
func (r *round) end(age time.Duration) (in int) {
	in = min(bucketOf(age), len(r.ended)-1)
	r.ended[in].Add(1)
	return in
}

// Client is whoever has made a request.
type Client interface {
	Client() string // its address
}

// Of how many requests the address is looked at: of the first so many, and of one in so
// many of the others.
const (
	firstSeen = 1024
	seenOneIn = 16
)

// See notes where a request comes from that may be parked.
func (l *Line) See(c Client) {
	if n := l.looked.Add(1); n <= firstSeen || n%seenOneIn == 0 {
		if bit := uint64(1) << (l.hash(origin(c)) >> 58); l.seen.Load()&bit == 0 {
			l.seen.Or(bit)
		}
	}
}

// origin is what tells a client from others: its address, of IPv6 the first 48 bits, since
// a client can have all addresses and networks in those (RFC 6177).
func origin(c Client) string {
	address := c.Client()
	if !strings.Contains(address, ":") {
		return address
	}
	ip, err := netip.ParseAddr(address)
	if err != nil || ip.Is4In6() {
		return address
	}
	all := ip.As16()
	return string(all[:6])
}

// sweep forgets addresses that requests came from long ago. The caller holds mu.
func (l *Line) sweep(now time.Time) {
	if now.Sub(l.swept) >= max(l.most, time.Minute)*5/4 {
		l.swept = now
		l.looked.Store(0)
		l.seenBefore.Store(l.seen.Swap(0))
	}
}

// Finding is what has been found, or, if it is mended, found to be no more.
type Finding struct {
	Cut
	Mended bool
}

// Ended counts a request that was parked and has ended at some age, other than by a
// client that left. It returns what has been found, nil for nothing.
func (l *Line) Ended(now time.Time, age time.Duration) *Finding {
	l.present(now).end(age)
	if cut := l.cut.Load(); cut != nil && age >= cut.Age+2*bucket && l.tries(now) {
		if float64(l.outlived.Add(1)) >= cut.enough()*(1-cut.Share/4) && now.UnixNano() >= l.due.Load() {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.judgeCut(now, cut)
		}
	}
	return nil
}

// Left counts a request that was parked and whose client left at some age. asked is the
// wait that it had asked for, 0 if none; parked is how many are parked now. It returns what
// has been found, nil for nothing.
func (l *Line) Left(now time.Time, age, asked time.Duration, c Client, parked int) *Finding {
	in := l.present(now).end(age)
	if asked > 0 && age >= asked-max(asked/10, 2*bucket) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.now.Load() // which may be a later one by now
	r.left[in][l.hash(origin(c))%addresses]++
	r.all++
	switch cut := l.cut.Load(); {
	case cut == nil || !l.tries(now) || age < cut.Age-bucket || l.auto && age <= hold(cut):
	default:
		if age < cut.Age+2*bucket {
			l.hit++
		} else { // it was cut by something else
			l.outlived.Add(1)
		}
		if mended := l.judgeCut(now, cut); mended != nil {
			return mended
		}
	}
	if now.Sub(r.began) < roundLasts || r.all < roundLeft {
		return nil
	}
	r.over = now
	if l.past = append(l.past, r); len(l.past) > rounds {
		l.past = append(l.past[:0], l.past[1:]...)
	}
	l.now.Store(l.newRound(now))
	l.sweep(now)
	return l.judge(now, parked)
}

// judge looks for a cut that is not known yet: for the lowest one, and for one below the
// one that is known. The caller holds mu.
func (l *Line) judge(now time.Time, parked int) *Finding {
	if now.Sub(l.began) >= 2*l.most {
		parked = 0
	}
	few := bits.OnesCount64(l.seen.Load()|l.seenBefore.Load()) <= fewAddresses
	old := l.cut.Load()
	cut := judge(l.past, few, parked)
	if cut == nil || old != nil && cut.Age >= old.Age {
		return nil
	}
	cut.Since = now
	l.set(now, cut)
	return &Finding{Cut: *cut}
}

// set makes a cut the one that is known; nil is none. The caller holds mu.
func (l *Line) set(now time.Time, cut *Cut) {
	l.begin(now)
	l.past = nil // what was seen so far has had its consequence
	l.now.Store(l.newRound(now))
	l.cut.Store(cut)
}

// begin has what follows judged afresh. The caller holds mu.
func (l *Line) begin(now time.Time) {
	l.hit = 0
	l.outlived.Store(0)
	again := now
	if l.auto {
		again = now.Add(tryAfter)
	}
	l.again.Store(again.UnixNano())
	// Clients that were cut together come back together: all phases have to be seen.
	l.due.Store(again.Add(max(2*l.most, time.Minute)).UnixNano())
}

// enough is how many requests have to reach the age of a cut until it is judged again.
func (c *Cut) enough() float64 { return min(15/c.Share, 15/leastShare) }

// judgeCut looks whether a cut still stands, once enough requests have reached its age
// again. The caller holds mu.
func (l *Line) judgeCut(now time.Time, cut *Cut) *Finding {
	all := float64(l.outlived.Load() + l.hit)
	switch {
	case l.cut.Load() != cut || all < cut.enough() || now.UnixNano() < l.due.Load():
		return nil
	case float64(l.hit) < cut.Share/4*all:
		l.set(now, nil)
		return &Finding{*cut, true}
	}
	l.begin(now)
	return nil
}

// Cut is the cut that is known; its zero value is none.
func (l *Line) Cut() Cut {
	if cut := l.cut.Load(); cut != nil {
		return *cut
	}
	return Cut{}
}

// Auto reports whether hold is kept below what cuts.
func (l *Line) Auto() bool { return l.auto }

// tries reports whether some requests are held for as long as was configured although a
// cut is known: without auto, all are.
func (l *Line) tries(now time.Time) bool { return now.UnixNano() >= l.again.Load() }

// Hold is for how long a request may be held that comes now.
func (l *Line) Hold(now time.Time) time.Duration {
	cut := l.cut.Load()
	if !l.auto || cut == nil || l.tries(now) && l.intN(tryOneIn) == 0 {
		return l.most
	}
	return min(hold(cut), l.most)
}

// Kept is for how long a request is held as a rule.
func (l *Line) Kept() time.Duration {
	if cut := l.cut.Load(); l.auto && cut != nil {
		return min(hold(cut), l.most)
	}
	return l.most
}

// hold is a tenth below a cut.
func hold(cut *Cut) time.Duration {
	return time.Duration((1 - below) * float64(cut.Age)).Round(10 * time.Millisecond)
}
