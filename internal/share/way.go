package share

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// CarriesVar reports whether a variable is compared and carried: all are that a
// handler has set on the way, but for those that name the client, which are carried as
// [Rules.ClientIP] says, and one exchange.
func CarriesVar(name string) bool {
	switch name {
	case "client_ip", "trusted_proxy", "start_time", "uuid", "trace_id", "span_id", "unhandled", "long_poll.seen", "long_poll.passed":
		return false
	}
	return true
}

// addVars adds the variables.
//
//go:noinline
func addVars(text []byte, a *Asker) []byte {
	var names []string
	for name := range a.Vars {
		if CarriesVar(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		text = addVar(addPart(text, name), a.Vars[name], a.ID)
	}
	return append(text, 0)
}

// addVar adds the value of a variable. What is of a kind that can not be compared is
// equal to nothing: id tells the request from all others.
//
//go:noinline
func addVar(text []byte, value any, id uint64) []byte {
	switch value := value.(type) {
	case string:
		return addPart(append(text, 's'), value)
	case nil, bool, int, int32, int64, uint, uint32, uint64, float32, float64, []string:
		return addPart(append(text, 'v'), fmt.Sprintf("%T %#v", value, value))
	}
	return binary.BigEndian.AppendUint64(append(text, '?'), id)
}

//go:noinline
func addGroups(text []byte, groups map[string]struct{}) []byte {
	if len(groups) == 0 {
		return append(text, 0)
	}
	names := make([]string, 0, len(groups))
	for name := range groups {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		text = addPart(text, name)
	}
	return append(text, 1)
}
