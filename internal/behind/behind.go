// Package behind says what stands behind a handler and looks at the client, as far as its
// site's configuration tells. It reads Caddy's configuration while that is provisioned,
// and touches nothing of it.
package behind

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Looks is what the handlers and matchers behind a handler look at of a client, and
// a check does not carry by itself (contract 7.4).
type Looks struct {
	// Address is what looks at the client's address, as the configuration calls it
	// ("remote_ip", "ip_hash", "{client_ip}"): each once, in the order of the requests'
	// way. A module that is not of Caddy's standard distribution is among them, since
	// nobody knows what it looks at, and so is "invoke".
	Address []string

	// Fields are the request fields that are named behind, in their canonical form:
	// each once, in the order of the requests' way. Those that are compared anyway
	// are among them.
	Fields []string

	// Local says that something looks at the address that a request has come to: the
	// placeholders of that, FastCGI (SERVER_ADDR), and who may look at anything.
	Local bool

	// Answer says that something looks at the fields of the answer while that is being
	// made: by the placeholder of these, or as a template, which may read anything.
	Answer bool

	// Again says that another handler of this module stands behind.
	Again bool
}

// At says what stands behind self, a pointer to a handler that is being provisioned in
// ctx. It has to be asked before self fills in its defaults: where a route has two
// handlers of one name, they are told apart by their configuration.
//
// Behind are the handlers after self in its own route, and the matchers and handlers
// of the routes after it, in its own list and in those around it. Not behind are
// routes of a group of which one was passed on the way to self, and all that comes
// after a terminal route or after a handler that always answers: other sites are
// behind no handler. Routes for errors are not either, unless those of a subroute
// that is behind itself: what self returns is an error of the client's own request.
//
// What can not be located or seen counts as looking at the address: a module of
// somebody else that has routes of its own and self in one of them, a module that is
// not registered or whose configuration does not decode, the routes after an invoke
// that leads to self, a place that no list of the server leads to ("server"). Where
// ctx has no server, as outside of Caddy's HTTP app, nothing is behind.
func At(ctx caddy.Context, self any) Looks {
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil {
		return Looks{}
	}
	l := &looker{
		named:  server.NamedRoutes,
		passed: make(map[string]bool),
		seen:   make(map[any]bool),
	}
	around := ctx.Modules()
	for i, module := range slices.Backward(around) {
		if _, ok := module.(*caddyhttp.App); ok {
			around = around[i+1:]
			break
		}
	}
	if len(around) == 0 {
		l.address("server")
		return l.looks
	}
	if last := around[len(around)-1]; any(last) != self {
		l.address(last.CaddyModule().ID.Name()) // which has made self, in no list of routes
	}
	for i := len(around) - 1; i > 0; i-- {
		if l.within(around[i-1], around[i]) {
			return l.looks
		}
	}
	l.server(server, around[0])
	return l.looks
}

// within looks at what is behind child in the module that is around it, and reports
// whether nothing else is.
func (l *looker) within(module, child caddy.Module) (ended bool) {
	at, found := locate(lists(reflect.ValueOf(module)), child)
	if !found || foreign(module) {
		l.address(module.CaddyModule().ID.Name())
	}
	return found && l.behind(at)
}

// server looks at what is behind child, which stands in a list of the server itself.
// Caddy provisions the routes of a server first, then those for errors, and at last
// those that have names, in no order.
func (l *looker) server(server *caddyhttp.Server, child caddy.Module) {
	own := []caddyhttp.RouteList{server.Routes}
	if server.Errors != nil {
		own = append(own, server.Errors.Routes)
	}
	if at, found := locate(own, child); found {
		l.behind(at)
		return
	}
	found := false
	for _, name := range slices.Sorted(maps.Keys(server.NamedRoutes)) {
		at, ok := locate([]caddyhttp.RouteList{{*server.NamedRoutes[name]}}, child)
		if !ok {
			continue
		}
		found = true
		if passed := maps.Clone(l.passed); !l.behind(at) {
			l.address("invoke") // which may stand anywhere
			l.passed = passed
		}
	}
	if !found {
		l.address("server")
	}
}

// place is where a handler stands.
type place struct {
	routes  caddyhttp.RouteList
	route   int // in routes
	handler int // in the route
}

// behind looks at what is behind the place in its list, and reports whether nothing
// after the list is.
func (l *looker) behind(at place) (ended bool) {
	route := &at.routes[at.route]
	if route.Group != "" {
		l.passed[route.Group] = true
	}
	if l.handlers(route.HandlersRaw[at.handler+1:]) || route.Terminal {
		return true
	}
	return l.routes(at.routes[at.route+1:])
}

// locate finds the handler that is being provisioned in the lists, of which Caddy
// provisions one after the other. It clears the configuration of what it has loaded:
// the handler's route is the first that still has one.
func locate(lists []caddyhttp.RouteList, handler caddy.Module) (place, bool) {
	for _, routes := range lists {
		for i, route := range routes {
			if len(route.HandlersRaw) == 0 {
				continue
			}
			j := position(route.HandlersRaw, handler)
			return place{routes, i, j}, j >= 0
		}
	}
	return place{}, false
}

// position is where the handler stands among those of a route, or less than 0. Of
// several that it may be it is the first, behind which the most stands.
func position(raws []json.RawMessage, handler caddy.Module) int {
	name := handler.CaddyModule().ID.Name()
	var may []int
	for i, raw := range raws {
		if n, _, err := inline("handler", raw); err == nil && n == name {
			may = append(may, i)
		}
	}
	switch len(may) {
	case 0:
		return -1
	case 1:
		return may[0]
	}
	config, err := json.Marshal(handler)
	if err != nil {
		return may[0]
	}
	for _, i := range may {
		if partOf(decode(config), decode(raws[i])) {
			return i
		}
	}
	return may[0]
}

// partOf reports whether a configuration is what is left of another, after Caddy has
// loaded and cleared some of its modules.
func partOf(part, whole any) bool {
	switch part := part.(type) {
	case map[string]any:
		whole, _ := whole.(map[string]any)
		for name, member := range part {
			if !partOf(member, whole[name]) {
				return false
			}
		}
		return true
	case []any:
		whole, _ := whole.([]any)
		if len(part) == 0 {
			return true
		}
		return slices.EqualFunc(part, whole, partOf)
	case nil:
		return true
	}
	return part == whole || reflect.ValueOf(part).IsZero()
}

// decode is the value of a JSON text, or nil if it is none.
func decode(raw []byte) (value any) {
	if json.Unmarshal(raw, &value) != nil {
		return nil
	}
	return value
}

// lists are the lists of routes that are the module's own, in the order of its
// fields. Those of modules that it has loaded are not.
func lists(v reflect.Value) []caddyhttp.RouteList {
	if v.Type() == reflect.TypeFor[caddyhttp.RouteList]() {
		return []caddyhttp.RouteList{v.Interface().(caddyhttp.RouteList)}
	}
	var found []caddyhttp.RouteList
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			found = lists(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			found = append(found, lists(v.Index(i))...)
		}
	case reflect.Struct:
		if !open(v.Type()) {
			break
		}
		for i := range v.NumField() {
			if visible(v.Type().Field(i)) {
				found = append(found, lists(v.Field(i))...)
			}
		}
	}
	return found
}
