package directive

import (
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Guest reads a subdirective that loads a module of a namespace, which is its first argument.
// The dispenser stands at the subdirective's name, whose JSON tells the module by key. Its
// error names those that there are.
func Guest(d *caddyfile.Dispenser, namespace, key string) (raw json.RawMessage, name string, err error) {
	subdirective := d.Val()
	var known []string
	for _, module := range caddy.GetModules(namespace) {
		known = append(known, module.ID.Name())
	}
	if !d.NextArg() {
		return nil, "", d.Errf(`parsing %s "": missing argument; expected %[1]s %s`, subdirective, list(known))
	}
	name = d.Val()
	if _, err := caddy.GetModule(namespace + "." + name); err != nil {
		return nil, name, d.Errf("parsing %s %q: unknown module; expected %[1]s %[3]s", subdirective, name, list(known))
	}
	module, err := caddyfile.UnmarshalModule(d, namespace+"."+name)
	if err != nil {
		return nil, name, fmt.Errorf("parsing %s %q: %w", subdirective, name, err)
	}
	return caddyconfig.JSONModuleObject(module, key, name, nil), name, nil
}
