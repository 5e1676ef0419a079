"""Serves a planner over websockets, without ROS: openpi's way of talking, frames as the answer.

The server speaks first (a map that says what it serves), then answers each map with a map, or with
a text if that went wrong. Plans are made in a thread of their own, one at a time, so that pings are
answered meanwhile. GET /healthz says OK.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import numpy as np
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import State

from vera_core.canvas import CanvasError, tile
from vera_core.contract import Contract
from vera_core.seams import Image, Plan, VideoPlanner
from vera_planner.goal import PlanRefusedError, PromptError, validate_prompt
from vera_planner.planning import check_plan, knows_pending
from vera_planner.remote import protocol
from vera_planner.remote.protocol import ProtocolError

WAITING = 2  # plans that may wait for the one in progress; the next is told that it is busy
CLIENTS = 16
KEPT = 8  # warm starts of a client: of several plans it may choose one
PING_S, PONG_S = 20.0, 60.0

log = logging.getLogger(__name__)
# It would write a traceback for every port scan.
_quiet = logging.getLogger(f'{__name__}.websockets')
_quiet.setLevel(logging.CRITICAL)


class ServeError(ValueError):
    """The server cannot be started like this; the message says what to change."""


class _RequestError(ValueError):
    """A request that was understood and cannot be fulfilled."""


class _Session:
    """What one connection leaves with the server: warm starts of its last plans, by number."""

    def __init__(self) -> None:
        self.number = 0
        self.warm_starts: dict[int, Any] = {}

    def keep(self, warm_start: Any) -> int | None:
        """Number that a warm start is asked for by; None if there is none."""
        if warm_start is None:
            return None
        self.number += 1
        self.warm_starts[self.number] = warm_start
        self.warm_starts.pop(self.number - KEPT, None)
        return self.number


class PlannerServer:
    """Makes plans for whoever connects.

    Args:
        planner: makes the plans.
        contract: what they must fit, told to clients.
        host: address to listen on.
        port: 0 chooses a free one; see `port` once it runs.
        token: that clients must show (`Authorization: Bearer TOKEN` or `Api-Key TOKEN`); none if
            empty.
        insecure: allow other machines to connect without a token.
        max_message: bytes of a message.
        ping_interval: seconds between pings to a client.

    Raises:
        ServeError: an address that other machines reach, without a token.
    """

    def __init__(
        self,
        planner: VideoPlanner,
        contract: Contract,
        *,
        host: str = '127.0.0.1',
        port: int = protocol.PORT,
        token: str = '',
        insecure: bool = False,
        max_message: int = protocol.MAX_MESSAGE,
        ping_interval: float = PING_S,
    ) -> None:
        check_access(host, token, insecure)
        self.host, self.port = host, port
        self._planner, self._contract = planner, contract
        self._token = token
        self._max_message = max_message
        self._ping_interval = ping_interval
        self._clients: dict[ServerConnection, asyncio.Task[None]] = {}
        self._asked = 0  # plans in progress or waiting
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """What clients are told first."""
        video = self._contract.video
        return {
            'protocol': protocol.PROTOCOL,
            'protocol_version': protocol.VERSION,
            'planner_id': self._planner.planner_id,
            'checkpoint_hash': self._planner.checkpoint_hash,
            'embodiment': self._contract.embodiment,
            **self._contract.visual_fields(),
            'context': video.context,
            'look_ahead': video.look_ahead,
            'max_message': self._max_message,
        }

    # Life ------------------------------------------------------------------------------------

    async def serve(self, ready: Callable[[], None] | None = None, signals: bool = False) -> None:
        """Serve until `stop`.

        Args:
            ready: called once it listens.
            signals: SIGINT and SIGTERM stop it, too.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._turn = asyncio.Lock()
        if signals:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._loop.add_signal_handler(number, self._stopping.set)
        threading.Thread(target=_work, args=(self._jobs,), name='planner', daemon=True).start()
        try:
            await self._listen(ready)
        finally:
            self._jobs.put(None)

    async def _listen(self, ready: Callable[[], None] | None) -> None:
        async with serve(
            self._connected,
            self.host,
            self.port,
            process_request=self._admit,
            origins=[None],  # browsers send one: no page may talk to a server on its localhost
            compression=None,
            max_size=self._max_message,
            max_queue=4,
            ping_interval=self._ping_interval,
            ping_timeout=max(PONG_S, 3 * self._ping_interval),
            close_timeout=2.0,
            logger=_quiet,
        ) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            if ready is not None:
                ready()
            await self._stopping.wait()
            server.close(close_connections=False)  # no new ones
            clients = dict(self._clients)
            await asyncio.gather(*(c.close(CloseCode.GOING_AWAY, 'stopped') for c in clients))
            for task in clients.values():
                task.cancel()  # they may be waiting for a plan

    def start(self) -> None:
        """Serve in a thread, from now until `stop`.

        Raises:
            OSError: the address cannot be listened on.
        """
        ready: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

        def run() -> None:
            try:
                asyncio.run(self.serve(lambda: ready.put(None)))
            except OSError as error:
                ready.put(error)

        self._thread = threading.Thread(target=run, name='planner_server', daemon=True)
        self._thread.start()
        failure = ready.get()
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """End what `start` began; clients are disconnected, a plan in progress is left to end."""
        if self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def __enter__(self) -> PlannerServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Clients ---------------------------------------------------------------------------------

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Before the handshake: /healthz, and who may come in."""
        if request.path == '/healthz':
            return connection.respond(HTTPStatus.OK, 'OK\n')
        if len(self._clients) >= CLIENTS:
            return connection.respond(
                HTTPStatus.SERVICE_UNAVAILABLE, f'{protocol.BUSY}: {CLIENTS} clients are here\n'
            )
        if self._token:
            scheme, _, shown = request.headers.get('Authorization', '').partition(' ')
            known = scheme.lower() in ('bearer', 'api-key')
            if not known or not hmac.compare_digest(_bytes(shown), _bytes(self._token)):
                log.warning('%s: token missing or wrong', _name(connection))
                return connection.respond(HTTPStatus.UNAUTHORIZED, 'token missing or wrong\n')
        return None

    async def _connected(self, connection: ServerConnection) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients[connection] = task
        log.info('%s connected', _name(connection))
        try:
            await self._talk(connection)
        except ConnectionClosed:
            pass
        except Exception:
            log.exception('%s: an error of this server', _name(connection))
            raise
        finally:
            del self._clients[connection]
            log.info('%s gone', _name(connection))

    async def _talk(self, connection: ServerConnection) -> None:
        session = _Session()
        await connection.send(protocol.pack(self.metadata))
        async for message in connection:
            try:
                request = protocol.read_map(message, self._max_message)
            except ProtocolError as error:
                await self._refuse(connection, f'{protocol.BAD_REQUEST}: {error}')
                # What follows what was not understood is not understood either.
                await connection.close(CloseCode.INVALID_DATA, 'message not understood')
                return
            try:
                await connection.send(await self._answer(connection, request, session))
            except _RequestError as error:
                await self._refuse(connection, str(error))

    async def _refuse(self, connection: ServerConnection, text: str) -> None:
        log.warning('%s: %s', _name(connection), text)
        await connection.send(text)

    async def _answer(
        self, connection: ServerConnection, request: dict[str, Any], session: _Session
    ) -> bytes | str:
        endpoint = request.get('endpoint', protocol.INFER)
        if not isinstance(endpoint, str):
            raise _RequestError(f'{protocol.BAD_REQUEST}: endpoint is no text')
        if endpoint == protocol.RESET:
            session.warm_starts.clear()
            return protocol.RESET_DONE
        if endpoint != protocol.INFER:
            raise _RequestError(
                f'{protocol.BAD_REQUEST}: unknown endpoint {endpoint!r:.60}; known: '
                f'{protocol.INFER}, {protocol.RESET}'
            )
        call = self._read_call(request, session)
        if self._asked > WAITING:
            raise _RequestError(
                f'{protocol.BUSY}: a plan is being made and {WAITING} more are waiting; try again'
            )
        came = time.perf_counter()
        self._asked += 1
        try:
            async with self._turn:
                if connection.state is not State.OPEN:
                    return ''  # gone while it waited: no plan is made for it
                began = time.perf_counter()
                plan = await self._in_worker(call)
        finally:
            self._asked -= 1
        return protocol.pack(
            {
                'frames': np.ascontiguousarray(plan.frames),
                'frame_period': plan.frame_period,
                'warm_start': session.keep(plan.warm_start),
                'server_timing': {
                    'infer_ms': 1e3 * (time.perf_counter() - began),
                    'wait_ms': 1e3 * (began - came),
                },
            }
        )

    # Plans -----------------------------------------------------------------------------------

    def _read_call(self, request: dict[str, Any], session: _Session) -> Callable[[], Plan]:
        """The call of the planner that a request means; what is wrong with it raises."""
        try:
            context = self._read_context(request)
            prompt = validate_prompt(request.get('prompt'))
            seed = request.get('seed', 0)
            if isinstance(seed, np.integer):
                seed = int(seed)
            if type(seed) is not int or not 0 <= seed < 2**63:
                raise _RequestError(f'seed is {seed!r:.60}; it is a whole number >= 0')
            warm = request.get('warm_start')
            options: dict[str, Any] = {'seed': seed}
            if type(warm) is int and warm in session.warm_starts:
                options['warm_start'] = session.warm_starts[warm]
            if request.get('pending') is not None:
                pending = self._read_frames('pending', request['pending'])
                if knows_pending(self._planner):
                    options['pending'] = pending
                else:  # the plan is to follow them all the same
                    context = np.concatenate([context, pending])
        except (_RequestError, CanvasError, PromptError) as error:
            raise _RequestError(f'{protocol.BAD_REQUEST}: {error}') from error
        return lambda: self._planner.plan(context, prompt, **options)

    def _read_context(self, request: dict[str, Any]) -> Image:
        for key in ('context', 'context_rgb'):
            if key in request:
                return self._read_frames(key, request[key])
        images = request.get('images')
        if not isinstance(images, dict) or not images:
            raise _RequestError(
                "no context: send 'context', uint8 [T, H, W, 3], or 'images', a map of cameras "
                f'({", ".join(self._contract.camera_names)}) to uint8 [height, width, 3] or '
                '[T, height, width, 3]'
            )
        stacks = {}
        for name, image in images.items():
            if not isinstance(image, np.ndarray) or image.ndim not in (3, 4):
                raise _RequestError(f'image of camera {name!r:.60} is no array of an image')
            stacks[name] = image if image.ndim == 4 else image[None]
        lengths = {len(stack) for stack in stacks.values()}
        if len(lengths) > 1 or 0 in lengths:
            raise _RequestError(f'images of {sorted(lengths)} frames; all need as many, 1 or more')
        return np.stack(
            [
                tile({name: stack[k] for name, stack in stacks.items()}, self._contract)
                for k in range(lengths.pop())
            ]
        )

    def _read_frames(self, name: str, value: Any) -> Image:
        canvas = self._contract.canvas
        size = (canvas.height, canvas.width, 3)
        fits = isinstance(value, np.ndarray) and value.ndim == 4 and value.shape[1:] == size
        if not fits or value.dtype != np.uint8 or len(value) == 0:
            if isinstance(value, np.ndarray):
                given = f'{value.dtype} {list(value.shape)}'
            else:
                given = type(value).__name__
            raise _RequestError(
                f'{name} is {given}; expected uint8 [T >= 1, {", ".join(map(str, size))}], the '
                f'canvas of {self._contract.embodiment!r}'
            )
        frames: Image = value
        return frames

    async def _in_worker(self, call: Callable[[], Plan]) -> Plan:
        """The plan of the planner's own thread.

        A thread for each plan would cost torch a new team of threads each time; an executor's would
        keep the process from ending.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Plan | Exception] = loop.create_future()

        def job() -> None:
            outcome: Plan | Exception
            try:
                outcome = call()
                check_plan(outcome, self._contract)
            except Exception as error:  # whatever it is, the client is told
                outcome = error
            with suppress(RuntimeError):  # the server stopped meanwhile
                loop.call_soon_threadsafe(_settle, done, outcome)

        self._jobs.put(job)
        outcome = await done
        if isinstance(outcome, PlanRefusedError):
            raise _RequestError(f'{protocol.REFUSED}: {outcome}') from outcome
        if isinstance(outcome, Exception):
            log.error('no plan', exc_info=outcome)
            why = ' '.join(str(outcome).split())
            kind = type(outcome).__name__
            raise _RequestError(f'{protocol.FAILED}: {kind}: {why}') from outcome
        return outcome


def _work(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()


def _settle(done: asyncio.Future[Plan | Exception], outcome: Plan | Exception) -> None:
    if not done.done():
        done.set_result(outcome)


def check_access(host: str, token: str, insecure: bool) -> None:
    """Refuse an address that other machines reach, without a token; raises ServeError."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == 'localhost'
    if not (token or insecure or local):
        raise ServeError(
            f'host {host!r} is open to other machines and there is no token: give --token-file, or '
            '--insecure if everybody there may make plans'
        )


def _name(connection: ServerConnection) -> str:
    address = connection.remote_address
    return f'{address[0]}:{address[1]}' if isinstance(address, tuple) else 'a client'


def _bytes(text: str) -> bytes:
    return text.encode('utf-8', 'surrogateescape')
