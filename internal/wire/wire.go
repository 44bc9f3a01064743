// Package wire writes and reads what Caddys tell each other: numbers, texts and lists of
// them, one after the other. What is read is not trusted: nothing that it says of a
// length takes more memory than what has come, and no end of it is read beyond. Standard
// library only.
package wire

import (
	"encoding/binary"
	"errors"
	"math"
)

// ErrMalformed is of what ends too early, says more than it has, or goes on after its end.
var ErrMalformed = errors.New("malformed message")

// AppendNumber appends a number.
func AppendNumber(b []byte, n uint64) []byte { return binary.AppendUvarint(b, n) }

// AppendText appends a text and its length.
func AppendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// AppendTexts appends a list.
func AppendTexts(b []byte, texts []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(texts)))
	for _, text := range texts {
		b = AppendText(b, text)
	}
	return b
}

// Reader reads what was appended, in the same order. After a mistake all that it reads is
// zero, and End says so.
type Reader struct {
	rest   []byte
	failed bool
}

// NewReader reads b.
func NewReader(b []byte) *Reader { return &Reader{rest: b} }

// Fail has End report a mistake.
func (r *Reader) Fail() { r.rest, r.failed = nil, true }

// Failed reports whether a mistake was read.
func (r *Reader) Failed() bool { return r.failed }

// Number reads a number.
func (r *Reader) Number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.Fail()
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

// Int reads a number of at most limit.
func (r *Reader) Int(limit int) int {
	n := r.Number()
	if n > uint64(min(limit, math.MaxInt32)) {
		r.Fail()
		return 0
	}
	return int(n)
}

// Bytes reads as many bytes; they are part of what is read.
func (r *Reader) Bytes(n int) []byte {
	if n > len(r.rest) {
		r.Fail()
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// Text reads a text as bytes, which are part of what is read.
func (r *Reader) Text() []byte { return r.Bytes(r.Int(len(r.rest))) }

// String reads a text.
func (r *Reader) String() string { return string(r.Text()) }

// Texts reads a list of texts; nil if it is empty.
func (r *Reader) Texts() []string {
	n := r.Int(len(r.rest)) // each of them takes a byte at least
	var texts []string
	for range n {
		texts = append(texts, r.String())
		if r.failed {
			return nil
		}
	}
	return texts
}

// Rest reads all that is left.
func (r *Reader) Rest() []byte {
	b := r.rest
	r.rest = nil
	return b
}

// End reports whether all was read, and nothing else.
func (r *Reader) End() error {
	if r.failed || len(r.rest) > 0 {
		return ErrMalformed
	}
	return nil
}
