"""A web server on loopback that serves feeds as tests tell it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RSS = """<?xml version="1.0" encoding="utf-8"?>
<rss version="2.0"><channel><title>News</title>{items}</channel></rss>"""
ATOM = """<?xml version="1.0" encoding="utf-8"?>
<feed xmlns="http://www.w3.org/2005/Atom"><title>News</title><id>news</id>{items}</feed>"""


def item(title: str, stamp: str | None = None, guid: str | None = None) -> str:
    """One entry of RSS."""
    date = f"<pubDate>{stamp}</pubDate>" if stamp else ""
    return f"<item><title>{title}</title>{date}{f'<guid>{guid}</guid>' if guid else ''}</item>"


def entry(title: str, published: str | None = None, updated: str | None = None) -> str:
    """One entry of Atom."""
    stamps = {"published": published, "updated": updated}
    dates = "".join(f"<{name}>{stamp}</{name}>" for name, stamp in stamps.items() if stamp)
    return f"<entry><id>urn:{title}</id><title>{title}</title>{dates}</entry>"


def rss(*items: str) -> bytes:
    return RSS.format(items="".join(items)).encode()


def atom(*entries: str) -> bytes:
    return ATOM.format(items="".join(entries)).encode()


@dataclass
class FeedServer:
    """What is served.

    Attributes:
        pages: Body of each path, or the statuses that it is answered with, one taken off the front by each request.
        redirects: Where a path leads.
        short: Bytes that each answer lacks of the length that it tells.
        asked: Path and user agent of each request.
    """

    pages: dict[str, bytes | list[int | bytes]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    short: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def feed_server() -> Iterator[FeedServer]:
    """Serve until the end of the block."""
    served = FeedServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            served.asked.append((self.path, self.headers["User-Agent"]))
            if path in served.redirects:
                self.send_response(302)
                self.send_header("Location", served.redirects[path])
                self.end_headers()
                return
            page: Any = served.pages.get(path, [404])
            if isinstance(page, list):
                page = page.pop(0) if len(page) > 1 else page[0]
            status, body = (page, b"no") if isinstance(page, int) else (200, page)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) + served.short))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
