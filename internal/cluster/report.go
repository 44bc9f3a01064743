package cluster

import (
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/caddy-longpoll/caddy-longpoll/internal/wire"
)

// kind is what a message is about.
type kind byte

// Messages: of who holds a lease, of who follows, and to all resources.
const (
	beat  kind = iota + 1 // a check has found nothing else
	news                  // it has found something else
	fault                 // it has failed
	busy                  // it takes its time
	alone                 // what it has read is not handed on
	bye                   // the lease is given up

	note // somebody waits since now
	ask  // a check is to begin
	look // the same, because of a wake-up

	written // a path was written to
	last    // none
)

// ofHolder reports whether a message is from who holds a lease.
func (k kind) ofHolder() bool { return k >= beat && k <= bye }

// stateID tells one state of a resource from all others.
type stateID struct{ token, seq uint64 }

// known reports whether there is a state.
func (id stateID) known() bool { return id != stateID{} }

// after reports whether id is a later state than o.
func (id stateID) after(o stateID) bool {
	return id.token > o.token || id.token == o.token && id.seq > o.seq
}

// report is a message. What is kept on the board of a state or a fault is one too.
type report struct {
	kind kind
	name string // of the resource, so that it is taken for no other's
	from uint64 // the member that has sent it

	// of who holds a lease
	token, seq  uint64        // seq counts the reports of a token
	state       stateID       // the state that is now; of a note or an ask the ticket is in seq
	next, pause time.Duration // until the next check
	wakes       uint64        // by what it is woken, see Config
	by          string        // the Caddy, as operators call it
	heard       []heard       // when the check began

	blob []byte // a state or a fault, if it has come along
	path string // that was written to, and
	host string // of which host; empty for all
	deep bool   // all paths that begin so
}

// heard is the last ticket that was heard of a member.
type heard struct{ member, ticket uint64 }

// format is the first byte of all messages, and part of all names of resources: another one
// is another release's.
const format = 1

// maxToken bounds a token (see [Board]): there will never be as many, and a board may count in
// floating point.
const maxToken = 1 << 50

// maxBy bounds the name of a Caddy.
const maxBy = 128

// maxHeard bounds the members that a report names.
const maxHeard = 256

// append appends the message.
func (r *report) append(b []byte) []byte {
	b = wire.AppendText(append(b, format, byte(r.kind)), r.name)
	for _, n := range []uint64{r.from, r.token, r.seq, r.state.token, r.state.seq, milliseconds(r.next), milliseconds(r.pause), r.wakes} {
		b = wire.AppendNumber(b, n)
	}
	b = wire.AppendNumber(wire.AppendText(b, r.by), uint64(len(r.heard)))
	for _, h := range r.heard {
		b = wire.AppendNumber(wire.AppendNumber(b, h.member), h.ticket)
	}
	switch {
	case r.kind == written:
		var deep uint64
		if r.deep {
			deep = 1
		}
		b = wire.AppendNumber(wire.AppendText(wire.AppendText(b, r.host), r.path), deep)
	default:
		b = append(b, r.blob...)
	}
	return b
}

// milliseconds is d, or maxPause where it is longer: who hears of that asks too early once
// a day.
func milliseconds(d time.Duration) uint64 { return uint64(min(max(d, 0), maxPause).Milliseconds()) }

// maxPause bounds what a message can say of a pause.
const maxPause = 24 * time.Hour

// parse reads a message about name. What it says is not trusted.
func parse(b []byte, name string) (*report, error) {
	r := wire.NewReader(b)
	first := r.Bytes(2)
	if len(first) < 2 || first[0] != format || first[1] == 0 || kind(first[1]) >= last {
		return nil, wire.ErrMalformed
	}
	m := &report{kind: kind(first[1]), name: r.String(), from: r.Number(), token: r.Number(), seq: r.Number()}
	m.state = stateID{r.Number(), r.Number()}
	m.next, m.pause = readMilliseconds(r), readMilliseconds(r)
	m.wakes, m.by = r.Number(), r.String()
	for range r.Int(maxHeard) {
		m.heard = append(m.heard, heard{r.Number(), r.Number()})
		if r.Failed() {
			break
		}
	}
	switch m.kind {
	case written:
		m.host, m.path, m.deep = r.String(), r.String(), r.Number() == 1
	case news, fault:
		m.blob = r.Rest()
	}
	if err := r.End(); err != nil || m.name != name || len(m.by) > maxBy || m.token > maxToken || m.state.token > maxToken {
		return nil, wire.ErrMalformed
	}
	return m, nil
}

// parse reads a message about name, and believes nothing of a pause that is much longer than
// those of this configuration: who waits so long without a word asks the board, which knows
// who has the lease, and until when.
func (s *Set) parse(b []byte, name string) (*report, error) {
	r, err := parse(b, name)
	if err != nil {
		return nil, err
	}
	r.pause = min(r.pause, s.longest())
	if r.kind != fault && r.kind != bye { // of which nobody waits longer than he would anyway
		r.next = min(r.next, s.longest())
	}
	return r, nil
}

// longest is the longest pause that is believed. What a backend that fails has asked for may
// be longer: that is what clients are told.
func (s *Set) longest() time.Duration { return 2 * s.MaxPause }

func readMilliseconds(r *wire.Reader) time.Duration {
	return time.Duration(r.Int(int(maxPause.Milliseconds()))) * time.Millisecond
}

// How a state is packed.
const (
	plain byte = iota
	packed
)

// worthPacking is the size from which on a state is packed: below, the frame costs what
// it saves.
const worthPacking = 512

// packer packs: of text at the fastest level a third is left, at 300 MB a second.
var packer, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))

// pack makes a blob of what was appended of a state, smaller if that pays.
func pack(b []byte) []byte {
	if len(b) >= worthPacking {
		if small := packer.EncodeAll(b, []byte{packed}); len(small) < len(b)*9/10 {
			return small
		}
	}
	return append([]byte{plain}, b...)
}

// unpack is the opposite of pack. What is larger than limit is an error.
func unpack(blob []byte, limit int64) ([]byte, error) {
	if len(blob) == 0 {
		return nil, wire.ErrMalformed
	}
	b := blob[1:]
	switch blob[0] {
	case plain:
	case packed:
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(limit)))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		if b, err = d.DecodeAll(b, nil); err != nil {
			return nil, err
		}
	default:
		return nil, wire.ErrMalformed
	}
	if int64(len(b)) > limit {
		return nil, wire.ErrMalformed
	}
	return b, nil
}
