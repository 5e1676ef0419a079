"""The cockpit's web server: our page, a socket of its own, and viser's scene, on one port.

viser brings its own server, which lets everybody in. So this module stands before it: viser asks
`websockets` to serve, and gets our door instead, through which nothing passes unjudged
(`guard.Guard`). What listens, and where, is ours, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import http
import io
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import viser
import websockets.asyncio.server
from viser import _messages
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from vera_bringup.cockpit.actions import LONGEST, Action, ActionError, read_action
from vera_bringup.cockpit.guard import Guard

TRIES = 20  # ports after the wanted one, before any free port
CLIENTS = 16  # browsers at once
MOST_WAITING = 400  # messages for a slow browser, beyond which the oldest are dropped
SEND_BUFFER = 128 * 1024  # bytes in the kernel: what lies there is old when it arrives
PAGE = {'/': 'index.html', '/cockpit.js': 'cockpit.js', '/cockpit.css': 'cockpit.css'}
LIVE, SCENE = '/live', '/viser'
TYPES = {'.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css'}
POLICY = (
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'self'"
)
# viser's client wants to be the focused page before it connects, and brings panels that the
# cockpit does not use; it stands in a frame of ours.
SCENE_HEAD = (
    '<script>document.hasFocus=()=>true</script>'
    '<style>html,body,#root{background:#0f131b!important}'
    '[data-floating-window],.mantine-Paper-root,.mantine-Notifications-root'
    '{display:none!important}</style>'
)

Say = Callable[[dict[str, Any]], None]


class PortError(OSError):
    """The cockpit cannot listen where it was told to; the message says why."""

    def __str__(self) -> str:
        return str(self.args[0])


def listen(host: str, port: int) -> socket.socket:
    """A bound socket: on `port`, the next free one, or any free one; 0 means any.

    Raises:
        PortError: not an address of this machine, or a port that is not ours to take.
    """
    for wanted in [*range(port, min(port + TRIES, 65536)), 0] if port else [0]:
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        try:
            sock.bind((host, wanted))
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRINUSE:
                continue
            why = error.strerror or str(error)
            raise PortError(f'cannot listen on {host} port {wanted}: {why}') from error
        return sock
    raise PortError(f'no port is free on {host}')


class Browser:
    """One open page.

    Attributes:
        watching: whether somebody looks at it; a hidden tab gets no pictures.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[str, str | bytes] = {}
        self._something = asyncio.Event()
        self.watching = True

    def say(self, message: dict[str, Any]) -> None:
        """An answer to this page alone; from any thread."""
        text = json.dumps(message)
        self._loop.call_soon_threadsafe(self.put, f'answer {id(message)}', text)

    def put(self, key: str, message: str | bytes) -> None:
        """In the server's thread: a newer message of the same key takes the place of an older."""
        self._waiting[key] = message
        if len(self._waiting) > MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._something.set()

    async def send(self, connection: ServerConnection) -> None:
        """Send what waits, as fast as the connection takes it; the state first."""
        while True:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                key = 'status' if 'status' in self._waiting else next(iter(self._waiting))
                await connection.send(self._waiting.pop(key))


class Web:
    """Serves until `close`, in threads of its own.

    Args:
        host: to listen on.
        port: the first one to try; 0 for any.
        token: see `guard.Guard`.
        welcome: makes what a page that opens is told first: (key, message) in order.
        act: does what a page asks for; its third argument answers that page. Called in the
            server's thread, which it must not keep.

    Attributes:
        viser: server of the scene.
        port: that was found.

    Raises:
        PortError: see `listen`.
        TokenError: see `guard.Guard`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        token: str,
        welcome: Callable[[], list[tuple[str, str | bytes]]],
        act: Callable[[Action, Say], None],
    ) -> None:
        self._welcome, self._act = welcome, act
        self._socket = listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._browsers: set[Browser] = set()
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[str, bytes]] = {}
        self._taken: list[Callable[[ServerConnection], Any]] = []
        try:
            self._guard = Guard(host, self.port, token)
            logging.getLogger('websockets.server').setLevel(logging.CRITICAL)
            # It prints its address, which is not the one to go to.
            with (
                _door(self._answer, self._handle, self._socket, self._taken),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                self.viser = viser.ViserServer(host=host, port=self.port, verbose=False)
        except BaseException:
            self._socket.close()
            raise
        if not self._taken:
            self.viser.stop()
            raise RuntimeError(f'viser {viser.__version__} does not serve through websockets.serve')
        # Sharing would open a tunnel to a server of the makers of viser.
        self.viser._websock_server.unregister_handler(_messages.ShareUrlRequest)
        self.viser.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)

    @property
    def watched(self) -> bool:
        """Whether somebody looks at a page now."""
        with self._lock:
            return any(browser.watching for browser in self._browsers)

    @property
    def browsers(self) -> int:
        """Pages that are open."""
        with self._lock:
            return len(self._browsers)

    def post(self, key: str, message: str | bytes) -> None:
        """Tell all pages; from any thread. Pictures (bytes) go only to those that are looked at."""
        with self._lock:
            browsers = [b for b in self._browsers if b.watching or isinstance(message, str)]
        loop = self.viser.get_event_loop()
        for browser in browsers:
            with contextlib.suppress(RuntimeError):  # the loop is being closed
                loop.call_soon_threadsafe(browser.put, key, message)

    def close(self) -> None:
        """End all connections and give the port back."""
        with contextlib.redirect_stdout(io.StringIO()):
            self.viser.stop()
        self._socket.close()

    # In the server's thread --------------------------------------------------------------------

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """To the head of a request: a page, a refusal, or None: go on as a websocket."""
        upgrade = (request.headers.get('Upgrade') or '').lower() == 'websocket'
        answer = self._guard.judge(_first(request.headers), request.path)
        path = urlsplit(request.path).path
        if answer.status == 303 and not upgrade:
            home = {'Set-Cookie': answer.cookie, 'Location': '/'}
            return _response(303, 'text/plain', b'', **home)
        if answer.status not in (200, 303):
            return _response(answer.status, 'text/plain', f'{answer.reason}\n'.encode())
        if upgrade:
            return None if path in (LIVE, SCENE) else _response(404, 'text/plain', b'not here\n')
        return self._page(path, 'gzip' in (request.headers.get('Accept-Encoding') or ''))

    def _page(self, path: str, zipped: bool) -> Response:
        if path not in self._cache:
            made = _file(path)
            if made is None:
                return _response(404, 'text/plain', b'not here\n')
            self._cache[path] = made[0], gzip.compress(made[1])
        kind, data = self._cache[path]
        more = {} if path == f'{SCENE}/' else {'Content-Security-Policy': POLICY}
        if zipped:
            more['Content-Encoding'] = 'gzip'
        return _response(200, kind, data if zipped else gzip.decompress(data), **more)

    async def _handle(self, connection: ServerConnection) -> None:
        """A websocket that the guard has let in."""
        assert connection.request is not None
        if urlsplit(connection.request.path).path == LIVE:
            await self._live(connection)
        else:
            await self._taken[0](connection)

    async def _live(self, connection: ServerConnection) -> None:
        browser = Browser(asyncio.get_running_loop())
        self._greet(browser)
        with self._lock:
            full = len(self._browsers) >= CLIENTS
            if not full:
                self._browsers.add(browser)
        if full:
            await connection.close(1013, f'{CLIENTS} pages are open already; close one')
            return
        sender = asyncio.create_task(browser.send(connection))
        try:
            async for message in connection:
                self._hear(browser, message)
        except ConnectionClosed:
            pass
        finally:
            with self._lock:
                self._browsers.discard(browser)
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await sender

    def _greet(self, browser: Browser) -> None:
        for key, message in self._welcome():
            browser.put(key, message)

    def _hear(self, browser: Browser, message: str | bytes) -> None:
        try:
            action = read_action(message[: LONGEST + 1])
        except ActionError as error:
            browser.say({'type': 'answer', 'action': '', 'good': False, 'message': str(error)})
            return
        if action.name == 'watch':
            if action.on and not browser.watching:
                self._greet(browser)  # it has missed pictures
            browser.watching = action.on
        else:
            self._act(action, browser.say)


@contextlib.contextmanager
def _door(
    answer: Callable[[ServerConnection, Request], Response | None],
    handle: Callable[[ServerConnection], Any],
    sock: socket.socket,
    taken: list[Callable[[ServerConnection], Any]],
) -> Iterator[None]:
    """While open, who asks `websockets` to serve gets `answer`, `handle` and `sock` served.

    What would have been served is put into `taken`.
    """
    serve = websockets.asyncio.server.serve

    def guarded(handler: Callable[[ServerConnection], Any], *_: Any, **options: Any) -> Any:
        taken.append(handler)
        options['process_request'] = answer
        return serve(handle, sock=sock, **options)

    websockets.asyncio.server.serve = guarded  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        websockets.asyncio.server.serve = serve  # type: ignore[misc]


def _first(headers: Headers) -> dict[str, str]:
    """The headers that are judged; a name that comes twice counts as a bad one."""
    found = {}
    for name in ('Host', 'Origin', 'Cookie'):
        values = headers.get_all(name)
        if values:
            found[name] = values[0] if len(values) == 1 else '; '.join(values)
    return found


def _file(path: str) -> tuple[str, bytes] | None:
    """(type, content) of what is served at a path, or None."""
    if path == '/healthz':
        return 'text/plain', b'ok\n'
    if path == f'{SCENE}/':
        page = Path(viser.__file__).parent / 'client' / 'build' / 'index.html'
        text = page.read_text(encoding='utf-8').replace('<head>', f'<head>{SCENE_HEAD}', 1)
        return TYPES['.html'], text.encode()
    if path not in PAGE:
        return None
    name = PAGE[path]
    data = (files('vera_bringup') / 'cockpit' / 'page' / name).read_bytes()
    return TYPES[name[name.index('.') :]], data


def _response(status: int, kind: str, body: bytes, **more: str) -> Response:
    headers = Headers(
        {
            'Content-Type': f'{kind}; charset=utf-8',
            'Content-Length': str(len(body)),
            'Cache-Control': 'no-store',
            'X-Content-Type-Options': 'nosniff',
            'X-Frame-Options': 'SAMEORIGIN',
            'Referrer-Policy': 'no-referrer',
            'Connection': 'close',
            **more,
        }
    )
    return Response(status, http.HTTPStatus(status).phrase, headers, body)


__all__ = ['Browser', 'PortError', 'Web', 'listen']
