"""A small threaded HTTP/1.1 server: cheap per request, and able to misbehave on purpose.

`http.server` parses headers with the email package and writes each answer in pieces; that costs
more than the agent that is to be measured against this.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from eic_sandbox.simulator.faults import Hangup, Wait

MAX_HEAD = 65536


@dataclass(frozen=True)
class Request:
    """One request as it arrived; header names in lower case, `arrived` on the monotonic clock."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    client: str = ""
    arrived: float = field(default_factory=time.monotonic)


Handler: TypeAlias = Callable[[Request, Wait], Generator[bytes, None, None]]
"""Yields the answer in the pieces in which it is sent; raises Hangup to close the connection."""


class Server:
    """Listens from its construction on, until `close`; each connection has a thread of its own."""

    def __init__(self, handler: Handler, host: str = "127.0.0.1", port: int = 0) -> None:
        self._handler = handler
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self.connections_accepted = 0
        self._acceptor = threading.Thread(target=self._accept, name="simulator", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Stop listening, cut every connection, and wait for the threads."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        self.cut_connections()
        while self._connections:
            with self._lock:
                threads = list(self._connections.values())
            for thread in threads:
                thread.join()

    def cut_connections(self) -> None:
        """Break every open connection, as a restart of the service would."""
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, address = self._listener.accept()
            except OSError:
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(
                target=self._serve, args=(connection, address[0]), daemon=True
            )
            with self._lock:
                self._connections[connection] = thread
                self.connections_accepted += 1
            thread.start()

    def _serve(self, connection: socket.socket, client: str) -> None:
        try:
            # Whatever ends a connection (the client, a fault, close) ends only this connection.
            with connection, contextlib.suppress(OSError, Hangup):
                for request in _requests(connection, client):
                    with contextlib.closing(self._handler(request, self.wait)) as pieces:
                        for piece in pieces:
                            connection.sendall(piece)
                    if request.headers.get("connection", "").lower() == "close":
                        return
        finally:
            with self._lock:
                del self._connections[connection]

    def wait(self, seconds: float) -> None:
        """Sleep; raises Hangup at once when the server is being closed."""
        if self._stopping.wait(seconds):
            raise Hangup


def _requests(connection: socket.socket, client: str) -> Iterator[Request]:
    """Yield the requests of a connection until the client ends it or sends what is no HTTP."""
    pending = b""
    while True:
        while (end := pending.find(b"\r\n\r\n")) < 0:
            piece = connection.recv(65536)
            if not piece or len(pending) > MAX_HEAD:
                return
            pending += piece
        request_line, *header_lines = pending[:end].decode("latin-1").split("\r\n")
        words = request_line.split(" ")
        if len(words) != 3:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            return
        headers = {}
        for line in header_lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("expect", "").lower() == "100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(headers.get("content-length", "0"))
        body = pending[end + 4 :]
        while len(body) < length:
            piece = connection.recv(65536)
            if not piece:
                return
            body += piece
        yield Request(words[0], words[1], headers, body[:length], client)
        pending = body[length:]
