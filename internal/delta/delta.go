// Package delta makes patches from one JSON state of a resource to the next, so that a
// client that has the former need not be sent the whole of the latter. A patch is an
// optimisation: where it is not shorter than the state, does not say it exactly, or
// would take long to make, there is none, and the state itself is sent.
//
// Exactly is by value, as the backend spelled it: strings by their characters, numbers
// by their digits (1.0 is not 1, and 12345678901234567890 keeps each of them), members
// of objects in any order. Each patch is read again and applied, by the word of its RFC,
// before anybody gets it: what the libraries make is taken from them only if it is right.
//
// It starts no goroutine, and knows neither who is told nor how.
package delta

import (
	"bytes"
	"encoding/json"
	"runtime"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/wI2L/jsondiff"
)

// Kind is how a patch is written.
type Kind string

// The kinds.
const (
	JSONPatch  Kind = "json_patch"  // RFC 6902
	MergePatch Kind = "merge_patch" // RFC 7396
)

// Bounds of what is compared. The libraries can not be stopped, so what they are given is
// bounded such that the worst of it takes some tens of milliseconds of one core
// (BenchmarkWorst).
const (
	maxSize       = 256 << 10 // bytes of a state
	maxDepth      = 64        // levels of nesting
	maxValues     = 20_000    // objects, arrays, scalars, and names of members
	maxOperations = 1_000     // of a JSON Patch, whose clients may copy an array for each
	maxWork       = 2_000_000 // comparisons of two scalars, about
	maxPaths      = 4 << 20   // bytes of all paths in a state: each can be that of an operation
)

// making bounds how many patches are made at once, and so the memory that takes.
var making = make(chan struct{}, runtime.GOMAXPROCS(0))

// Make is the patch of a kind that makes to of from. It is ok where it is shorter than to,
// says it exactly and is made in time: where both are JSON of up to 256 KiB, 64 levels
// and 20,000 values and names, without members given twice, and, for a merge patch,
// objects that differ in no null. Arrays are compared by position where looking for
// what was inserted and removed would take too long: from about a thousand numbers or a
// hundred objects of ten members on.
func Make(kind Kind, from, to []byte) (patch []byte, ok bool) {
	if len(from) > maxSize || len(to) > maxSize {
		return nil, false
	}
	making <- struct{}{}
	defer func() { <-making }()
	a, ok := read(from)
	if !ok {
		return nil, false
	}
	b, ok := read(to)
	if !ok {
		return nil, false
	}
	switch kind {
	case JSONPatch:
		return jsonPatch(a, b, len(to))
	case MergePatch:
		return mergePatch(a, b, from, to)
	default:
		return nil, false
	}
}

// jsonPatch is shorter than limit, or not ok.
func jsonPatch(a, b *document, limit int) ([]byte, bool) {
	if a.depth == 0 || b.depth == 0 {
		return nil, false // nothing is shorter than a scalar, or an empty object
	}
	// Each level compares all that is below it, before it looks which of it differs.
	if max(a.depth, b.depth)*min(a.weight, b.weight) > maxWork {
		return nil, false
	}
	var options []jsondiff.Option
	if longest(a, b) {
		options = []jsondiff.Option{jsondiff.LCS()}
	}
	// Of the other options, Factorize takes all numbers that are json.Number for the same one,
	// and Rationalize searches the whole document for each element of an array.
	operations, err := jsondiff.CompareWithoutMarshal(a.value, b.value, options...)
	if err != nil || len(operations) > maxOperations || len(operations)*len(`{"op":"add","path":"/"}`) > limit {
		return nil, false
	}
	// Its own encoding escapes more than JSON has to, and writes no operations as null.
	list := make([]map[string]any, len(operations))
	for i, o := range operations {
		list[i] = map[string]any{"op": o.Type, "path": o.Path}
		if o.Type != jsondiff.OperationRemove {
			list[i]["value"] = o.Value
		}
	}
	patch, ok := encode(list, limit)
	if !ok {
		return nil, false
	}
	p, ok := read(patch)
	if !ok {
		return nil, false
	}
	if result, ok := patched(a.value, p.value); !ok || !equal(result, b.value) {
		return nil, false
	}
	return patch, true
}

// longest reports whether the longest common subsequences of arrays may be looked for:
// each element of one is compared with each of the other. Arrays of the same depth
// only are compared, each with one other at most.
func longest(a, b *document) bool {
	var work int64 // more than 32 bits hold
	for depth := range maxDepth {
		work += min(int64(a.longest[depth])*int64(b.weight), int64(b.longest[depth])*int64(a.weight))
	}
	return work <= maxWork
}

// mergePatch is shorter than to, or not ok.
func mergePatch(a, b *document, from, to []byte) ([]byte, bool) {
	// What is no object is replaced by the whole of itself, and of two arrays the
	// library makes something else.
	for _, d := range []*document{a, b} {
		if _, object := d.value.(map[string]any); !object {
			return nil, false
		}
	}
	made, err := jsonpatch.CreateMergePatch(from, to)
	if err != nil {
		return nil, false
	}
	p, ok := read(made)
	if !ok || nulls(p.value, false) {
		return nil, false
	}
	patch, ok := encode(p.value, len(to)) // the library escapes more than it has to
	if !ok || !equal(merged(a.value, p.value), b.value) {
		return nil, false
	}
	return patch, true
}

// nulls reports whether an array of a merge patch has an object with a null in it. That
// is a value by the RFC, but some of the libraries that apply patches take the member away.
func nulls(v any, inArray bool) bool {
	switch v := v.(type) {
	case map[string]any:
		for _, member := range v {
			if member == nil && inArray || nulls(member, inArray) {
				return true
			}
		}
	case []any:
		for _, element := range v {
			if nulls(element, true) {
				return true
			}
		}
	}
	return false
}

// encode writes a patch that is shorter than limit.
func encode(v any, limit int) ([]byte, bool) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil || b.Len()-1 >= limit {
		return nil, false
	}
	return b.Bytes()[:b.Len()-1], true
}
