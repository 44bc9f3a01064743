package delta

import (
	"slices"
	"strconv"
	"strings"
)

// merged is what RFC 7396, section 2 makes of a document and a patch, word by word. It
// changes the document.
func merged(target, patch any) any {
	members, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	object, ok := target.(map[string]any)
	if !ok {
		object = make(map[string]any)
	}
	for name, value := range members {
		if value == nil {
			delete(object, name)
		} else {
			object[name] = merged(object[name], value)
		}
	}
	return object
}

// patched is what RFC 6902 makes of a document and those operations that are made here:
// add, remove and replace. It changes the document.
func patched(doc, patch any) (any, bool) {
	operations, ok := patch.([]any)
	if !ok {
		return nil, false
	}
	for _, o := range operations {
		operation, _ := o.(map[string]any)
		op, _ := operation["op"].(string)
		path, ok := operation["path"].(string)
		if !ok || !strings.HasPrefix(path, "/") {
			return nil, false // a whole document is never shorter than itself
		}
		value, given := operation["value"]
		if given != (op != "remove") {
			return nil, false
		}
		if doc, ok = walk(doc, path[1:], op, value); !ok {
			return nil, false
		}
	}
	return doc, true
}

var unescape = strings.NewReplacer("~1", "/", "~0", "~")

// walk does one operation at a path below v, and is what has become of v.
func walk(v any, path, op string, value any) (any, bool) {
	name, rest, more := strings.Cut(path, "/")
	switch v := v.(type) {
	case map[string]any:
		name = unescape.Replace(name)
		old, ok := v[name]
		switch {
		case more:
			if ok {
				v[name], ok = walk(old, rest, op, value)
			}
			return v, ok
		case op == "add":
			v[name] = value
			return v, true
		case op == "replace":
			v[name] = value
			return v, ok
		default:
			delete(v, name)
			return v, ok && op == "remove"
		}
	case []any:
		if name == "-" && op == "add" && !more {
			return append(v, value), true
		}
		i, err := strconv.ParseUint(name, 10, 31)
		if err != nil || strconv.FormatUint(i, 10) != name {
			return v, false
		}
		at, there := int(i), int(i) < len(v)
		switch {
		case op == "add" && !more:
			if at > len(v) {
				return v, false
			}
			return slices.Insert(v, at, value), true
		case !there:
			return v, false
		case more:
			v[at], there = walk(v[at], rest, op, value)
			return v, there
		case op == "replace":
			v[at] = value
			return v, true
		default:
			return slices.Delete(v, at, at+1), op == "remove"
		}
	default:
		return v, false
	}
}
