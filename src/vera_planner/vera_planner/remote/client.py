"""A planner on another machine: what it imagines comes over a websocket.

Its reference takes the place of a checkpoint's: a URL, or a YAML file with the fields of
`RemoteOptions`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import ssl
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import yaml
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from vera_core.canvas import slots
from vera_core.contract import Contract
from vera_core.seams import Image, Plan
from vera_planner.goal import PlanRefusedError
from vera_planner.remote import protocol
from vera_planner.remote.protocol import ProtocolError

ADAPTERS = ('vera', 'openpi')
TOKEN_VARIABLE = 'VERA_PLANNER_TOKEN'
CONNECT_S = 3.0  # tried for so long, with pauses that grow
FIRST_PAUSE_S = 0.1
# How `openpi` servers call what we send and expect, unless `keys` says otherwise: VERA's authors.
KEYS = {
    'context': 'context_rgb',
    'prompt': 'prompt',
    'session': 'session_id',
    'frames': 'frames',
}


class RemoteError(ValueError):
    """The remote planner cannot be used, or did not answer; the message says why."""


@dataclass(frozen=True)
class RemoteOptions:
    """Where the server is, and how to talk to it.

    Attributes:
        url: ws://host:port, or wss:// behind a proxy that does TLS.
        token_file: file whose first line is the token; the environment variable
            VERA_PLANNER_TOKEN if empty, else none.
        timeout: seconds for a plan, the connection included.
        adapter: 'vera' for our server, 'openpi' for others that speak the protocol.
        keys: of the openpi adapter, ours -> theirs: `context` (the canvases, uint8 [T, H, w, 3]
            without the black padding; '' sends none), `prompt`, `session`, `frames` (of the
            answer; a/b is b in the map a), or the name of a camera (its newest view, uint8
            [H, width of its slot, 3]).
    """

    url: str
    token_file: str = ''
    timeout: float = 10.0
    adapter: str = 'vera'
    keys: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError naming the field that cannot be."""
        parts = urlsplit(self.url) if isinstance(self.url, str) else None
        if parts is None or parts.scheme not in ('ws', 'wss') or not parts.hostname:
            raise ValueError(
                f'the remote planner is at {self.url!r}; expected ws://host:port or wss://host'
            )
        number = isinstance(self.timeout, (int, float)) and not isinstance(self.timeout, bool)
        if not number or not math.isfinite(self.timeout) or self.timeout <= 0:
            raise ValueError(f'remote planner: timeout is {self.timeout!r}; seconds > 0 are needed')
        if self.adapter not in ADAPTERS:
            raise ValueError(
                f'remote planner: adapter is {self.adapter!r}; known: {", ".join(ADAPTERS)}'
            )
        if not isinstance(self.keys, dict) or not all(
            isinstance(text, str) for pair in self.keys.items() for text in pair
        ):
            raise ValueError('remote planner: keys must map texts to texts')
        if self.keys and self.adapter != 'openpi':
            raise ValueError('remote planner: keys are for the adapter openpi')

    @property
    def token(self) -> str:
        """The token, or empty; raises ValueError for a file that holds none."""
        if not self.token_file:
            return os.environ.get(TOKEN_VARIABLE, '')
        return read_token(self.token_file)


def read_token(path: str | Path) -> str:
    """The token in a file: its first line; raises ValueError if there is none."""
    try:
        lines = Path(path).expanduser().read_text().split('\n')
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'token file {path}: cannot be read: {error}') from error
    token = lines[0].strip()
    if not token or not token.isascii() or not token.isprintable() or ' ' in token:
        raise ValueError(f'token file {path}: its first line must be the token, ASCII, no spaces')
    return token


def read_options(reference: str) -> RemoteOptions:
    """The options that a URL or a YAML file says.

    Args:
        reference: ws:// or wss:// URL, or path of a YAML file; paths in it start at its folder.

    Raises:
        ValueError: no such file, unknown fields, or values that cannot be.
    """
    path = Path(reference).expanduser()
    if '://' in reference or path.suffix not in ('.yaml', '.yml'):
        return RemoteOptions(reference)
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f'remote planner {reference}: cannot be read: {error}') from error
    known = {f.name for f in dataclasses.fields(RemoteOptions)}
    if not isinstance(data, dict) or 'url' not in data:
        raise ValueError(f'remote planner {reference}: needs at least url: ws://host:port')
    unknown = [str(key) for key in data if key not in known]
    if unknown:
        raise ValueError(
            f'remote planner {reference}: unknown field {unknown[0]!r}; known: '
            f'{", ".join(sorted(known))}'
        )
    if data.get('token_file'):
        data['token_file'] = str(path.parent / Path(str(data['token_file'])).expanduser())
    return RemoteOptions(**data)


class RemotePlanner:
    """VideoPlanner that asks a server.

    It connects at once, and again whenever the connection is found broken before a plan. A server
    that goes away during a plan costs that plan.

    Args:
        options: where and how.
        contract: what the server must fit.

    Attributes:
        checkpoint_hash: of the server's planner, as it said at the last connection.
        metadata: what the server said first then.

    Raises:
        RemoteError: no server, a wrong token, or a server of another contract.
    """

    planner_id = 'remote'

    def __init__(self, options: RemoteOptions, contract: Contract) -> None:
        unknown = set(options.keys) - {*KEYS, *contract.camera_names}
        if unknown:
            raise ValueError(
                f'remote planner: unknown key {min(unknown)!r}; known: '
                f'{", ".join([*KEYS, *contract.camera_names])}'
            )
        self._options, self._contract = options, contract
        self._keys = {**KEYS, **options.keys}
        self._token = options.token
        self._lock = threading.Lock()
        self._connection: ClientConnection | None = None
        self.checkpoint_hash = ''
        self.metadata: dict[str, Any] = {}
        self._connect(time.monotonic() + options.timeout)

    def plan(
        self,
        context: Image,
        prompt: str,
        *,
        seed: int = 0,
        warm_start: Any = None,
        pending: Image | None = None,
    ) -> Plan:
        """Ask for the future of `context`, uint8 [T, H, W, 3]; the newest T <= N frames are sent.

        `warm_start` is the number of the plan whose warm start lies with the server, or the session
        of the goal there. The plan follows the frames `pending`, uint8 [P, H, W, 3].

        Raises:
            PlanRefusedError: the server says that there is nothing to do.
            RemoteError: it cannot be reached, went away, took too long or said why it failed.
        """
        openpi = self._options.adapter == 'openpi'
        if openpi and pending is not None:
            context = np.concatenate([context, pending])  # no word of the protocol for them
        context = np.ascontiguousarray(context[-self._contract.video.context :])
        with self._lock:
            deadline = time.monotonic() + self._options.timeout
            if self._connection is None or self._connection.state is not State.OPEN:
                self._connect(deadline)
            if openpi:
                # One session for each goal: its first plan has no warm start.
                session = warm_start or uuid.uuid4().hex
                answer = self._ask(self._openpi_request(context, prompt, session), deadline)
                period = self._contract.video.frame_period
                return Plan(self._openpi_frames(answer), period, warm_start=session)
            request = {
                'endpoint': protocol.INFER,
                'context': context,
                'prompt': prompt,
                'seed': seed,
                'warm_start': warm_start,
            }
            if pending is not None:
                request['pending'] = np.ascontiguousarray(pending)
            answer = self._ask(request, deadline)
        if not isinstance(answer, dict) or 'frames' not in answer:
            raise RemoteError(f'{self._name} answered without frames')
        return Plan(
            frames=answer['frames'],
            frame_period=answer.get('frame_period', math.nan),
            warm_start=answer.get('warm_start'),
        )

    def close(self) -> None:
        """Hang up; safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # Connection ------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f'the planner server at {self._options.url}'

    def _connect(self, deadline: float) -> None:
        self.close()
        give_up = min(deadline, time.monotonic() + CONNECT_S)
        pause, failure = FIRST_PAUSE_S, ''
        while True:
            try:
                connection = self._open(max(0.1, give_up - time.monotonic()))
                break
            except InvalidStatus as error:
                status = error.response.status_code
                if status == 401:
                    raise RemoteError(
                        f'{self._name} wants another token: give token_file, or '
                        f'{TOKEN_VARIABLE} in the environment'
                    ) from error
                failure = f'it answered with HTTP status {status}'
            except ssl.SSLCertVerificationError as error:
                raise RemoteError(
                    f'{self._name} is not trusted: {error}; SSL_CERT_FILE in the environment names '
                    'the certificate of your own authority'
                ) from error
            except (OSError, WebSocketException) as error:
                late = isinstance(error, TimeoutError) and failure  # the first reason says more
                failure = failure if late else str(error) or type(error).__name__
            if time.monotonic() + pause > give_up:
                raise RemoteError(
                    f'{self._name} cannot be reached: {failure}; is `vera serve planner` running '
                    'there?'
                )
            time.sleep(pause)
            pause *= 2
        try:
            first = self._receive(connection, deadline)
            metadata = first if isinstance(first, dict) else {}
            if self._options.adapter == 'vera':
                self._check(metadata)
            else:
                self._check_openpi(metadata)
        except Exception:
            connection.close()
            raise
        self.metadata, self._connection = metadata, connection
        self.checkpoint_hash = str(metadata.get('checkpoint_hash', ''))

    def _open(self, timeout: float) -> ClientConnection:
        # Servers of others may plan in their event loop, and be deaf to pings for that long.
        ping, pong = (5.0, 20.0) if self._options.adapter == 'vera' else (60.0, 600.0)
        opened = connect(
            self._options.url,
            additional_headers={'Authorization': f'Api-Key {self._token}'} if self._token else None,
            compression=None,
            max_size=protocol.MAX_MESSAGE,
            open_timeout=timeout,
            close_timeout=1.0,
            ping_interval=ping,
            ping_timeout=pong,
            proxy=None,
        )
        # The one way in that all versions of websockets have.
        return cast('ClientConnection', opened.__enter__())

    def _ask(self, request: dict[str, Any], deadline: float) -> Any:
        connection = self._connection
        if connection is None:
            raise RemoteError(f'{self._name}: hung up')  # closed by another thread meanwhile
        try:
            message = protocol.pack(request)
        except ProtocolError as error:
            raise RemoteError(f'the request {error}') from error
        with suppress(ConnectionClosed):  # the reason comes with the answer
            connection.send(message)
        return self._receive(connection, deadline)

    def _receive(self, connection: ClientConnection, deadline: float) -> Any:
        """The next message; a text is an error. What cannot be used ends the connection."""
        try:
            message = connection.recv(timeout=max(0.0, deadline - time.monotonic()))
            if isinstance(message, bytes):
                return protocol.unpack(message)
        except TimeoutError as error:
            connection.close()  # its answer would come to the next request
            raise RemoteError(
                f'{self._name} gave no answer within {self._options.timeout:g} s'
            ) from error
        except ConnectionClosed as error:
            raise RemoteError(f'{self._name} went away: {_reason(error)}') from error
        except ProtocolError as error:
            connection.close()
            raise RemoteError(f'{self._name} sent something not understood: {error}') from error
        kind, _, said = message.partition(': ')
        if kind == protocol.REFUSED:
            raise PlanRefusedError(said)
        # Tracebacks, which openpi's server sends, say it in their last line.
        last = message.strip().rpartition('\n')[2]
        raise RemoteError(f'{self._name} says: {last:.500}')

    def _check(self, metadata: dict[str, Any]) -> None:
        """Refuse a server that is none of ours, or works for another contract."""
        if metadata.get('protocol') != protocol.PROTOCOL:
            raise RemoteError(
                f'{self._name} is no vera planner server; if it speaks the protocol of openpi, '
                'set adapter: openpi'
            )
        if metadata.get('protocol_version') != protocol.VERSION:
            raise RemoteError(
                f'{self._name} speaks version {metadata.get("protocol_version")!r} of the '
                f'protocol, this one speaks {protocol.VERSION}'
            )
        ours = {**self._contract.visual_fields(), 'context': self._contract.video.context}
        differences = [
            f'{key}: server {metadata.get(key)}, contract {value}'
            for key, value in ours.items()
            if metadata.get(key) != value
        ]
        ahead, committed = metadata.get('look_ahead'), self._contract.video.committed
        if not isinstance(ahead, int) or ahead < committed:
            differences.append(f'look_ahead: server {ahead}, the contract commits {committed}')
        if differences:
            raise RemoteError(f'{self._name} has another contract: {"; ".join(differences)}')

    # Servers of others -----------------------------------------------------------------------

    def _check_openpi(self, metadata: dict[str, Any]) -> None:
        """Refuse what the metadata of VERA's authors say about frames and we cannot give."""
        contract = self._contract
        widths = [contract.slot_width(camera) for camera in contract.cameras]
        ours = {
            'image_resolution': [contract.canvas.height, widths[0]],
            'view_widths': widths,
            'control_dt': contract.video.frame_period,
        }
        differences = [
            f'{key}: server {metadata[key]}, contract {value}'
            for key, value in ours.items()
            if metadata.get(key) and not _same(metadata[key], value)
        ]
        if differences:
            raise RemoteError(f'{self._name} has another contract: {"; ".join(differences)}')

    @property
    def _used_width(self) -> int:
        return max(columns.stop for columns in slots(self._contract).values())

    def _openpi_request(self, context: Image, prompt: str, session: str) -> dict[str, Any]:
        columns = slots(self._contract)
        request: dict[str, Any] = {
            'endpoint': protocol.INFER,
            self._keys['prompt']: prompt,
            self._keys['session']: session,
        }
        if self._keys['context']:
            request[self._keys['context']] = np.ascontiguousarray(context[:, :, : self._used_width])
            request['view_keys'] = list(columns)
            request['view_widths'] = [part.stop - part.start for part in columns.values()]
            request['dt'] = self._contract.video.frame_period
        for camera, part in columns.items():
            if camera in self._keys:
                request[self._keys[camera]] = np.ascontiguousarray(context[-1][:, part])
        return request

    def _openpi_frames(self, answer: Any) -> Image:
        """The frames of an answer as canvases, uint8 [M, H, W, 3]."""
        found = answer
        for key in self._keys['frames'].split('/'):
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, np.ndarray):
            given = ', '.join(map(str, answer)) if isinstance(answer, dict) else 'one array'
            raise RemoteError(
                f'{self._name} answers with {given}, not with {self._keys["frames"]!r}: it is a '
                'policy that keeps its frames to itself, or names them otherwise (see keys)'
            )
        frames = found[0] if found.ndim == 5 and len(found) == 1 else found
        if frames.ndim == 4 and frames.shape[-1] != 3 and frames.shape[1] == 3:
            frames = np.moveaxis(frames, 1, -1)
        if frames.dtype.kind == 'f' and frames.size:
            if not np.isfinite(frames).all() or frames.min() < -0.01 or frames.max() > 1.01:
                raise RemoteError(f'{self._name} gave frames that are not in 0..1')
            frames = np.rint(frames.clip(0, 1) * 255).astype(np.uint8)
        missing = self._contract.canvas.width - self._used_width
        if missing and frames.ndim == 4 and frames.shape[2] == self._used_width:
            frames = np.pad(frames, ((0, 0), (0, 0), (0, missing), (0, 0)))
        return np.ascontiguousarray(frames)


def _same(theirs: Any, ours: Any) -> bool:
    if isinstance(ours, float):
        return isinstance(theirs, (int, float)) and math.isclose(theirs, ours, rel_tol=1e-6)
    return bool(theirs == ours)


def _reason(error: ConnectionClosed) -> str:
    close = error.rcvd or error.sent
    if close is None:
        return 'the connection broke'
    return f'{close.reason or "no reason given"} ({close.code})'
