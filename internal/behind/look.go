package behind

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// looker looks through configuration. What is not loaded yet is decoded into the type
// of its module, whose struct tags tell where other modules are, as they tell Caddy;
// what is loaded (of what is behind a handler, the matchers) is looked at as it is.
type looker struct {
	looks  Looks
	named  map[string]*caddyhttp.Route
	passed map[string]bool // groups of which a route was passed already
	seen   map[any]bool    // pointers that were followed
}

// address notes that something looks at the client's address.
func (l *looker) address(name string) {
	if !slices.Contains(l.looks.Address, name) {
		l.looks.Address = append(l.looks.Address, name)
	}
}

// field notes that a request field is named. The host is not one: it is compared and
// carried always.
func (l *looker) field(name string) {
	name = http.CanonicalHeaderKey(strings.TrimSpace(name))
	if name != "" && name != "*" && name != "Host" && !slices.Contains(l.looks.Fields, name) {
		l.looks.Fields = append(l.looks.Fields, name)
	}
}

// routes looks at routes, and reports whether nothing after them is reached.
func (l *looker) routes(routes caddyhttp.RouteList) (ended bool) {
	for i := range routes {
		if !l.passed[routes[i].Group] && l.route(&routes[i]) {
			return true
		}
	}
	return false
}

// route looks at a route, and reports whether nothing after it is reached.
func (l *looker) route(route *caddyhttp.Route) (ended bool) {
	if l.seen[route] {
		return false
	}
	l.seen[route] = true
	l.modules(reflect.ValueOf(route.MatcherSetsRaw), "http.matchers", "")
	l.value(reflect.ValueOf(route.MatcherSets))
	l.value(reflect.ValueOf(route.Handlers))
	ended = l.handlers(route.HandlersRaw)
	always := len(route.MatcherSetsRaw)+len(route.MatcherSets) == 0 && route.Group == ""
	return always && (ended || route.Terminal)
}

// handlers looks at the handlers of a route, and reports whether nothing after them is
// reached.
func (l *looker) handlers(raws []json.RawMessage) (ended bool) {
	for _, raw := range raws {
		if l.inline("http.handlers", "handler", raw) {
			return true
		}
	}
	return false
}

// inline looks at a module that is named by one of its members, and reports whether it
// is a handler after which nothing is reached.
func (l *looker) inline(namespace, key string, raw json.RawMessage) (ended bool) {
	if len(raw) == 0 {
		return false
	}
	name, rest, err := inline(key, raw)
	if err != nil {
		l.address(namespace)
		return false
	}
	return l.module(namespace+"."+name, rest)
}

// inline is the name of a module that is among its members, and the others.
func inline(key string, raw json.RawMessage) (name string, rest json.RawMessage, err error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return "", nil, fmt.Errorf("decoding module: %w", err)
	}
	if err := json.Unmarshal(members[key], &name); err != nil {
		return "", nil, fmt.Errorf("decoding name of module: %w", err)
	}
	delete(members, key)
	rest, err = json.Marshal(members)
	return name, rest, err
}

// module looks at a module that is not loaded yet, and reports whether it is a handler
// after which nothing is reached.
func (l *looker) module(id string, raw json.RawMessage) (ended bool) {
	info, err := caddy.GetModule(id)
	if err != nil {
		l.address(caddy.ModuleID(id).Name())
		l.value(reflect.ValueOf(decode(raw)))
		return false
	}
	module := reflect.ValueOf(info.New())
	if module.Kind() != reflect.Pointer {
		module = reflect.New(module.Type())
	}
	if ours(module.Interface()) {
		l.again(info.ID)
		return false
	}
	if len(raw) > 0 && !decodes(raw, module.Interface()) {
		l.address(info.ID.Name())
		l.value(reflect.ValueOf(decode(raw)))
		return false
	}
	return l.config(info.ID, module, raw)
}

// decodes decodes the configuration of a module, and reports whether it can. Some modules
// panic where they can not, as expressions do: that is for Caddy to come upon.
func decodes(raw json.RawMessage, module any) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return json.Unmarshal(raw, module) == nil
}

// modules looks at modules that are not loaded yet: what a field with Caddy's struct
// tag has.
func (l *looker) modules(v reflect.Value, namespace, key string) {
	if raw, ok := v.Interface().(json.RawMessage); ok {
		l.inline(namespace, key, raw)
		return
	}
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			l.modules(v.Index(i), namespace, key)
		}
	case reflect.Map:
		for _, name := range sorted(v) {
			raw, ok := v.MapIndex(name).Interface().(json.RawMessage)
			switch {
			case !ok:
			case key != "":
				l.inline(namespace, key, raw)
			default:
				l.module(namespace+"."+name.String(), raw)
			}
		}
	}
}

// loaded looks at a module that is loaded.
func (l *looker) loaded(module caddy.Module) {
	if ours(module) {
		l.again(module.CaddyModule().ID)
		return
	}
	raw, err := json.Marshal(module)
	if err != nil {
		raw = nil
	}
	l.config(module.CaddyModule().ID, reflect.ValueOf(module), raw)
}

// again notes a module of this project.
func (l *looker) again(id caddy.ModuleID) {
	l.looks.Again = l.looks.Again || id == "http.handlers.long_poll"
}

// value looks at all that a value contains.
func (l *looker) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		l.text(v.String())
	case reflect.Interface:
		l.value(v.Elem())
	case reflect.Pointer:
		if v.IsNil() || l.seen[v.Interface()] {
			return
		}
		l.seen[v.Interface()] = true
		if module, ok := v.Interface().(caddy.Module); ok {
			l.loaded(module)
			return
		}
		l.value(v.Elem())
	case reflect.Slice, reflect.Array:
		switch list := v.Interface().(type) {
		case caddyhttp.RouteList:
			l.routes(list)
			return
		case json.RawMessage:
			l.value(reflect.ValueOf(decode(list)))
			return
		}
		for i := range v.Len() {
			l.value(v.Index(i))
		}
	case reflect.Map:
		for _, key := range sorted(v) {
			l.value(key)
			l.value(v.MapIndex(key))
		}
	case reflect.Struct:
		if open(v.Type()) {
			l.members(v)
		}
	}
}

// members looks at the fields of a struct.
func (l *looker) members(v reflect.Value) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !visible(field) {
			continue
		}
		tag, err := caddy.ParseStructTag(field.Tag.Get("caddy"))
		if namespace := tag["namespace"]; err == nil && namespace != "" {
			l.modules(v.Field(i), namespace, tag["inline_key"])
			continue
		}
		l.value(v.Field(i))
	}
}

// sorted are the keys of a map in an order that is always the same.
func sorted(v reflect.Value) []reflect.Value {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int {
		return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
	})
	return keys
}
