package ops

import "sync/atomic"

// Shadow is what all handlers that shadow have counted since the process began.
var Shadow struct {
	Polls  atomic.Int64 // whose answer was looked at
	Parked atomic.Int64 // of these, those that would have been parked
	Checks atomic.Int64 // that would have been made while they were
	Unseen atomic.Int64 // polls whose answer could not be looked at
}
