package lot

// Memory is how many bytes are kept of the states of all resources, by what they weigh.
func (l *Lot[S]) Memory() int64 { return l.memory.Load() }

// Weigh says how many bytes are kept for the resource now, those of its State and of
// its Fault: before they are published, so that who is woken by them and parks finds the
// bound as it is then, and again whenever more is kept, such as what has been decoded
// on demand. The last word counts, until the resource is forgotten.
//
// Where the sum exceeds [Limits.Memory], resources without members make room.
func (r *Resource[S]) Weigh(bytes int64) {
	l := r.lot
	l.mu.Lock()
	defer l.unlock()
	if r.forgotten {
		return
	}
	l.memory.Add(bytes - r.weight)
	r.weight = bytes
	if r.idle != nil && l.limits.Memory > 0 && bytes > l.limits.Memory {
		l.forgetLocked(r) // the others need not go before it goes too
	}
	l.lightenLocked()
}

// overweightLocked reports whether the sum exceeds the bound. Where it does there is
// no idle resource: lightenLocked is called whenever one becomes idle or heavier.
func (l *Lot[S]) overweightLocked() bool {
	return l.limits.Memory > 0 && l.Memory() > l.limits.Memory
}

// lightenLocked forgets those who have been idle longest, until the sum is within the
// bound or nobody is idle.
func (l *Lot[S]) lightenLocked() {
	for l.overweightLocked() && l.evictLocked() {
	}
}
