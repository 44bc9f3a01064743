# Caddy with long_poll, built from this checkout (needs BuildKit, which is
# Docker's default builder):
#
#	docker build -t caddy-long-poll .
#	docker run -p 8080:8080 -v "$PWD/conf:/etc/caddy:ro" caddy-long-poll
#
# where ./conf/Caddyfile is yours. It runs without any capability, as user 1000, and with
# a root file system that is read-only: what Caddy writes is in /data and /config.

FROM caddy:2.11.9-builder AS builder

COPY . /src

# The builder image has xcaddy give the binary cap_net_bind_service, as it has in the
# official image. Where that is dropped, as under Kubernetes' restricted profile, such a
# binary can not even start. Ports below 1024 need it no more where the sysctl
# net.ipv4.ip_unprivileged_port_start is 0, as Docker has it in containers.
RUN --mount=type=cache,target=/go/pkg/mod \
	--mount=type=cache,target=/root/.cache/go-build \
	XCADDY_SETCAP=0 xcaddy build v2.11.9 \
		--with github.com/caddy-longpoll/caddy-longpoll@v0.0.0=/src \
		--output /usr/bin/caddy \
	&& test -z "$(getcap /usr/bin/caddy)" \
	&& caddy list-modules | grep -x http.handlers.long_poll

FROM caddy:2.11.9

COPY --from=builder /usr/bin/caddy /usr/bin/caddy

# What Caddy writes is below these two. New named volumes take over the owner.
RUN mkdir -p /data/caddy /config/caddy \
	&& chown -R 1000:1000 /data /config
VOLUME ["/data", "/config"]

# A number, so that Kubernetes can see that it is not root.
USER 1000:1000

# The admin endpoint, at its default address. Not "localhost", which can be ::1.
# A Caddyfile that moves it or says `admin off` needs another check, or
# `docker run --no-healthcheck`.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
	CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:2019/config/"]
