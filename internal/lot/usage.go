package lot

// Limits are the bounds of the lot.
func (l *Lot[S]) Limits() Limits { return l.limits }

// Used is how much of each bound is used, in the terms of [Limits]: PerClient is what the
// client has that has most. Of resources and memory it is what can make no room, since
// somebody waits for it.
func (l *Lot[S]) Used() Limits {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := Limits{
		Parked: l.Parked() + l.reserved, Resources: len(l.resources) - l.idle.Len(),
		Memory: l.Memory(), Linger: l.limits.Linger,
	}
	for e := l.idle.Front(); e != nil; e = e.Next() {
		u.Memory -= e.Value.(*Resource[S]).weight
	}
	for _, n := range l.clients {
		u.PerClient = max(u.PerClient, n)
	}
	return u
}
