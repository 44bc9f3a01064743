package ops

import "github.com/caddy-longpoll/caddy-longpoll/internal/share"

// Of the resources of one name and what tells them apart.
const (
	maxCompared = 200 // of them are compared
	maxDiffers  = 8   // names are shown
	otherwise   = "what is no field and no parameter"
)

// differences are the names of what the checks of resources that share a method, a host
// and a path do not have in common: request fields, ?parameters and what else a check
// carries. A value is never among them. Nil is nothing known yet.
func differences(of []*listed) []string {
	var traits [][]share.Trait
	for _, l := range of {
		if ts := l.traits(); ts != nil {
			traits = append(traits, ts)
		}
	}
	names := share.Differ(traits)
	switch {
	case len(names) > maxDiffers:
		return append(names[:maxDiffers:maxDiffers], "…")
	case len(names) == 0 && len(traits) > 1:
		return []string{otherwise} // a body, a user, a var, a key
	}
	return names
}

// traits are those of the checks of a resource; nil before the first.
func (l *listed) traits() []share.Trait {
	switch {
	case l.snap.Failed():
		return l.snap.Fault.Traits
	case l.snap.Known():
		return l.snap.State.Traits
	}
	return nil
}
