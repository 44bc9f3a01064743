#!/usr/bin/env python3
"""Publishes to Redis what PostgreSQL notifies on the channel long_poll: see trigger.sql.

    pip install psycopg2 redis
    python3 publish.py "host=127.0.0.1 dbname=shop keepalives_idle=30" redis://127.0.0.1:6379

It carries paths and no data, so one is enough, and two do no harm. What is told while it
or Redis is away is found at the next interval.
"""

import select
import sys
import time

import psycopg2
import redis

server = redis.Redis.from_url(sys.argv[2], socket_timeout=1, socket_connect_timeout=1)


def listen():
    """Passes on what is notified, until the connection breaks."""
    connection = psycopg2.connect(sys.argv[1])
    connection.autocommit = True
    connection.cursor().execute("LISTEN long_poll")
    print("listening", flush=True)
    while True:
        select.select([connection], [], [])
        connection.poll()
        while connection.notifies:
            path = connection.notifies.pop(0).payload
            try:
                server.publish(f"long_poll:{path}", "")
            except redis.RedisError as error:
                print(f"telling redis: {error}", file=sys.stderr, flush=True)


while True:
    try:
        listen()
    except psycopg2.Error as error:
        print(f"listening: {error}", file=sys.stderr, flush=True)
    time.sleep(1)
