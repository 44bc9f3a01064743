#!/usr/bin/env python3
"""A legacy backend: orders in SQLite, answered at once. It knows nothing of waiting, of
versions or of long_poll, and needs Python 3.7 or newer and nothing else.

    python3 backend.py 127.0.0.1:9000 [orders.db]

    curl localhost:9000/api/orders
    curl localhost:9000/api/orders/42
    curl localhost:9000/api/orders/42 -X PUT -d '{"status": "shipped"}'

Where the environment has REDIS (host:port), it publishes after each commit what has
changed, for `wake redis`. That is the one thing in it which is for long_poll.
"""

import json
import os
import re
import socket
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

database = sqlite3.connect(sys.argv[2] if len(sys.argv) > 2 else ":memory:", check_same_thread=False)
lock = threading.Lock()  # protects database
with database:
    database.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, status TEXT NOT NULL)")
    database.execute("INSERT OR IGNORE INTO orders VALUES (42, 'packing')")


class Orders(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/api/orders":
            with lock:
                rows = database.execute("SELECT id, status FROM orders ORDER BY id").fetchall()
            return self.answer(200, [{"order": order, "status": status} for order, status in rows])
        order = self.order()
        if order is None:
            return self.answer(404, {"error": "no such path"})
        with lock:
            row = database.execute("SELECT status FROM orders WHERE id = ?", (order,)).fetchone()
        if row is None:
            return self.answer(404, {"error": "no such order"})
        self.answer(200, {"order": order, "status": row[0]})

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        order = self.order()
        if order is None:
            return self.answer(404, {"error": "no such path"})
        try:
            status = str(json.loads(body)["status"])
        except (ValueError, KeyError, TypeError):
            return self.answer(400, {"error": 'expected {"status": "..."}'})
        with lock, database:  # commits at its end
            database.execute("INSERT OR REPLACE INTO orders VALUES (?, ?)", (order, status))
        publish(f"/api/orders/{order}", "/api/orders")
        self.answer(200, {"order": order, "status": status})

    def order(self):
        """The number of the order in the path; None if there is none."""
        found = re.fullmatch(r"/api/orders/([0-9]{1,18})", self.path)
        return int(found[1]) if found else None

    def answer(self, status, value):
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def publish(*paths):
    """Says what has changed. Who can not be told finds out at the next interval."""
    if not os.environ.get("REDIS"):
        return
    host, port = os.environ["REDIS"].rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=1) as redis:
            for path in paths:
                words = [b"PUBLISH", b"long_poll:" + path.encode(), b""]
                redis.sendall(b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
                redis.recv(64)  # how many have heard it
    except OSError as error:
        print(f"telling redis: {error}", file=sys.stderr)


host, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9000").rsplit(":", 1)
server = ThreadingHTTPServer((host, int(port)), Orders)
server.daemon_threads = True
print(f"orders at http://{host}:{server.server_port}/api/orders", flush=True)
try:
    server.serve_forever()
except KeyboardInterrupt:
    pass
