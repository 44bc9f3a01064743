# Caddy with long_poll, built from this checkout (needs BuildKit, which is
# Docker's default builder):
#
#	docker build -f xcaddy.Dockerfile -t caddy-long-poll .
#	docker run -p 8080:8080 -v "$PWD/conf:/etc/caddy:ro" caddy-long-poll
#
# where ./conf/Caddyfile is yours.

FROM caddy:2.11.9-builder AS builder

COPY . /src

# The builder image lets xcaddy give the binary cap_net_bind_service, as it has in
# the official image.
RUN --mount=type=cache,target=/go/pkg/mod \
	--mount=type=cache,target=/root/.cache/go-build \
	xcaddy build v2.11.9 \
		--with github.com/caddy-longpoll/caddy-longpoll@v0.0.0=/src \
		--output /usr/bin/caddy \
	&& caddy list-modules | grep -x http.handlers.long_poll

FROM caddy:2.11.9

COPY --from=builder /usr/bin/caddy /usr/bin/caddy

# What Caddy writes is below these two. New named volumes take over the owner.
RUN mkdir -p /data/caddy /config/caddy \
	&& chown -R 1000:1000 /data /config

# A number, so that Kubernetes can see that it is not root.
USER 1000:1000

# The admin endpoint, at its default address. Not "localhost", which can be ::1.
# A Caddyfile that moves it or says `admin off` needs another check, or
# `docker run --no-healthcheck`.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
	CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:2019/config/"]
