// A module of its own, that needs none: who imports the client does not get Caddy's
// dependencies with it, and who builds Caddy does not get the client.
module github.com/caddy-longpoll/caddy-longpoll/clients/go

go 1.23
