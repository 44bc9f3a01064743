"""A client of long_poll in one file, with the standard library only: made to be copied.

It needs Python 3.7 or newer.
"""

import email.utils
import http.client
import json
import logging
import random
import threading
import time
import urllib.error
import urllib.request


def watch(url, *, wait=25, headers=(), read=json.load, on_error=logging.getLogger("long_poll").warning, stop=None):
    """Yields what is at url, again each time that it has changed, and once more when an error is over.

    wait: for how many seconds the server may hold a request.
    headers: more request fields, a mapping or pairs, read anew for each request.
    read: makes the value of a 2xx answer, which is a file with headers; a ValueError is an error of the answer.
    on_error: is told each failure, an OSError, ValueError, RecursionError (JSON that is too deep) or
        HTTPException; what it raises ends the loop.
    stop: a threading.Event that ends it, after the request that is under way.
    """
    stop = stop or threading.Event()
    etag, value, known, failures, hasty = None, None, False, 0, False
    while not stop.is_set():
        asked, sent, after, pause, news = time.monotonic(), etag, 0, 0, False
        request = urllib.request.Request(url, headers=dict(headers))
        # The first one after an error waits for a second only: to learn soon that it is over.
        request.add_header("Prefer", "wait=%d" % (min(wait, 1) if failures else wait))
        if sent:
            request.add_header("If-None-Match", sent)
        try:
            # More patience than wait: a connection that died silently never answers.
            answered, fields, body = _exchange(request, wait + 35, read)
            early = time.monotonic() - asked < 1
            after = _retry_after(fields)
            if answered:
                value, known, etag = body, True, fields["ETag"]
                news = not etag or etag != sent
            # Nobody has waited for this answer, or for two in a row: a site without long_poll, a reload.
            if answered and not (etag and news) or early and (hasty or not news):
                pause = 1
            news = news or known and failures > 0
            failures, hasty = 0, early
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            after = _retry_after(getattr(error, "headers", None))
            pause = min(2 ** min(failures, 5), 30)
            failures += 1
            on_error(error)
        if news:
            yield value
        if pause:
            # A part of it by chance, so that not all come back at once.
            stop.wait(max(pause, after) + pause * random.random())


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Takes no credentials along to another place."""

    def redirect_request(self, req, *args):
        to = super().redirect_request(req, *args)
        if to and (to.type, to.host) != (req.type, req.host):
            for name in ("Authorization", "Cookie"):
                to.remove_header(name)
        return to


_opener = urllib.request.build_opener(_Redirects)


def _exchange(request, patience, read):
    """Whether there is a value, the answer's fields, and the value; raises what is neither 2xx nor 304."""
    try:
        with _opener.open(request, timeout=patience) as answer:
            return True, answer.headers, read(answer)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 304:
            raise
        return False, error.headers, None


def _retry_after(fields):
    """For how many seconds, an hour at most, an answer says to stay away.

    It is a number or a date (RFC 9110, 10.2.3), which is one by the server's clock.
    """
    said = (fields["Retry-After"] or "").strip() if fields else ""
    try:
        if said.isdigit():
            return min(int(said), 3600)
        until = email.utils.parsedate_to_datetime(said).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0
    try:
        now = email.utils.parsedate_to_datetime(fields["Date"]).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError, AttributeError):
        now = time.time()  # it says none, or none that is one
    return min(max(until - now, 0), 3600)
