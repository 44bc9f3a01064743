// Command caddy is Caddy with its standard modules and long_poll: what
// `xcaddy build --with github.com/caddy-longpoll/caddy-longpoll` generates.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-longpoll/caddy-longpoll"
)

func main() {
	caddycmd.Main()
}
