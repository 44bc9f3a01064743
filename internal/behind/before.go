package behind

import (
	"encoding/json"
	"reflect"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Before says what stands in front of self, a pointer to a handler that is being
// provisioned in ctx, and lets no request through to it, as the configuration calls it
// ("static_response", "terminal route"). It is empty where there is nothing, and in doubt.
//
// What lets nothing through is a handler that always answers, in a route without
// matchers or with those of self's own route, and a route that ends all others: a
// terminal one, or one of self's group. Like [At] it has to be asked before self fills in
// its defaults.
func Before(ctx caddy.Context, self any) string {
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil {
		return ""
	}
	around := ctx.Modules()
	for i, module := range slices.Backward(around) {
		if _, ok := module.(*caddyhttp.App); ok {
			around = around[i+1:]
			break
		}
	}
	if len(around) == 0 || any(around[len(around)-1]) != self {
		return ""
	}
	own := []caddyhttp.RouteList{server.Routes}
	if server.Errors != nil {
		own = append(own, server.Errors.Routes)
	}
	for i, child := range around {
		if i > 0 {
			own = lists(reflect.ValueOf(around[i-1]))
		}
		at, found := locate(own, child)
		if !found {
			return "" // in a named route, or in a module that nobody knows
		}
		if by := at.hiddenBy(); by != "" {
			return by
		}
	}
	return ""
}

// hiddenBy is what of the list lets nothing through to the place.
func (at place) hiddenBy() string {
	here := &at.routes[at.route]
	for i := range at.routes[:at.route] {
		route := &at.routes[i]
		all := len(route.MatcherSetsRaw)+len(route.MatcherSets) == 0
		switch {
		case all && route.Group != "" && route.Group == here.Group:
			return "route of the same group"
		case route.Group != "" || !all && (!sameMatchers(route, here) || changes(at.routes[i+1:at.route])):
			continue
		}
		if name := answering(route); name != "" {
			return name
		}
		if route.Terminal {
			return "terminal route"
		}
	}
	return answeringRaw(here.HandlersRaw[:at.handler])
}

// sameMatchers reports whether two routes of one list are for the same requests.
func sameMatchers(a, b *caddyhttp.Route) bool {
	return reflect.DeepEqual(a.MatcherSetsRaw, b.MatcherSetsRaw) && reflect.DeepEqual(a.MatcherSets, b.MatcherSets)
}

// changes reports whether a request may match after the routes what it did not before: it
// may be rewritten there, or given a field or a var. It does so in doubt.
func changes(routes []caddyhttp.Route) bool {
	keeps := func(id caddy.ModuleID, raw json.RawMessage) bool {
		return id == "http.handlers.encode" || answers(id, raw)
	}
	for i := range routes {
		for _, handler := range routes[i].Handlers {
			module, ok := handler.(caddy.Module)
			if !ok {
				return true
			}
			raw, err := json.Marshal(handler)
			if err != nil || !keeps(module.CaddyModule().ID, raw) {
				return true
			}
		}
		for _, raw := range routes[i].HandlersRaw {
			name, rest, err := inline("handler", raw)
			if err != nil || !keeps(caddy.ModuleID("http.handlers."+name), rest) {
				return true
			}
		}
	}
	return false
}

// answering is the handler of a route that always answers, whether it is loaded or not.
func answering(route *caddyhttp.Route) string {
	for _, handler := range route.Handlers {
		if sub, ok := handler.(*caddyhttp.Subroute); ok {
			if name := answeringIn(sub); name != "" {
				return name
			}
			continue
		}
		if module, ok := handler.(caddy.Module); ok {
			id := module.CaddyModule().ID
			if raw, err := json.Marshal(handler); err == nil && answers(id, raw) {
				return id.Name()
			}
		}
	}
	return answeringRaw(route.HandlersRaw)
}

// answeringRaw is the handler that always answers, of those that are not loaded.
func answeringRaw(raws []json.RawMessage) string {
	for _, raw := range raws {
		name, rest, err := inline("handler", raw)
		switch {
		case err != nil:
		case name == "subroute":
			sub := read[caddyhttp.Subroute](rest)
			if name := answeringIn(&sub); name != "" {
				return name
			}
		case answers(caddy.ModuleID("http.handlers."+name), rest):
			return name
		}
	}
	return ""
}

// answeringIn is the handler of a subroute that always answers, in a route without
// matchers.
func answeringIn(sub *caddyhttp.Subroute) string {
	for i := range sub.Routes {
		route := &sub.Routes[i]
		if len(route.MatcherSetsRaw)+len(route.MatcherSets) > 0 || route.Group != "" {
			continue
		}
		if name := answering(route); name != "" {
			return name
		}
	}
	return ""
}
