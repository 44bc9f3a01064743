package lot

// Reserve keeps a place for a request of that client that may be parked, while it is
// still being read, or says which bound forbids it: what stalls then counts like what
// is parked. [Waiter.Park] takes the place, or Unreserve gives it up.
func (l *Lot[S]) Reserve(client string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.fullLocked(client); err != nil {
		return err
	}
	l.reserved++
	l.countLocked(client, 1)
	return nil
}

// Unreserve gives up a place that Reserve has kept.
func (l *Lot[S]) Unreserve(client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved--
	l.countLocked(client, -1)
}

// park counts a request in, whose place may be reserved, or says which bound forbids
// it.
func (l *Lot[S]) park(r *Resource[S], client string, reserved bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.draining:
		return ErrDrained
	case !r.listed:
		return ErrResources
	case l.overweightLocked():
		return ErrMemory
	}
	if reserved {
		l.reserved--
		l.parked.Add(1)
		return nil
	}
	if err := l.fullLocked(client); err != nil {
		return err
	}
	l.parked.Add(1)
	l.countLocked(client, 1)
	return nil
}

// unpark counts a request out.
func (l *Lot[S]) unpark(client string) {
	l.parked.Add(-1)
	if l.limits.PerClient == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.countLocked(client, -1)
}

// unparkReserved counts a request out, and keeps its place.
func (l *Lot[S]) unparkReserved() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.parked.Add(-1)
	l.reserved++
}

// fullLocked says which bound forbids one more of that client.
func (l *Lot[S]) fullLocked(client string) error {
	switch {
	case l.limits.Parked > 0 && l.Parked()+l.reserved >= l.limits.Parked:
		return ErrParked
	case l.limits.PerClient > 0 && l.clients[client] >= l.limits.PerClient:
		return ErrClient
	}
	return nil
}

// CountsClients reports whether it matters whose a parked request is.
func (l *Lot[S]) CountsClients() bool { return l.limits.PerClient > 0 }

// countLocked counts by client, where that is bounded.
func (l *Lot[S]) countLocked(client string, n int) {
	if l.limits.PerClient == 0 {
		return
	}
	if l.clients[client] += n; l.clients[client] <= 0 {
		delete(l.clients, client)
	}
}
