"""Which arm answers at an address: the first exchange of the Franka Control Interface.

A client opens TCP port 1337 and sends, little-endian, a header (command u32, 0 for Connect; its
number u32; size of the message u32) and its own version u16 and UDP port u16. The arm answers with
the same header, a status u16 (0 welcome, 1 the version does not fit) and its version u16. The
client of another version is sent away with that answer: so asking disturbs nobody, and moves
nothing. Versions: compatibility table of libfranka, docs/compatibility_matrix.rst.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from vera_controller.registry import RobotError

PORT = 1337
HEADER = struct.Struct('<III')
REQUEST = struct.Struct('<HH')
ANSWER = struct.Struct('<HH')
MESSAGE = HEADER.size + ANSWER.size
# An answer is 16 or 20 bytes; whatever says that it is longer is no arm.
LONGEST = 64
CONNECT = 0
# Of the oldest libfranka: every arm of today answers that it does not fit, and which one does.
ASKING_VERSION = 1
TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Generation:
    """What a version of the arm's server means.

    Attributes:
        arm: FER (Franka Emika Robot, the Panda) or FR3 (Franka Research 3).
        system: version of the arm's own software.
        libfranka: that speaks with it.
    """

    arm: str
    system: str
    libfranka: str


GENERATIONS = {
    3: Generation('FER', '>= 3.0.0', '0.7.1'),
    4: Generation('FER', '>= 4.0.0', '0.8.0'),
    5: Generation('FER', '>= 4.2.1', '0.9.2'),
    6: Generation('FR3', '>= 5.2.0', '0.13.2'),
    7: Generation('FR3', '>= 5.5.0', '0.13.6'),
    8: Generation('FR3', '>= 5.7.0', '0.14.2'),
    9: Generation('FR3', '>= 5.7.2', '0.17.0'),
    10: Generation('FR3', '>= 5.9.0', '0.21.2'),
}
# Server version -> robot of this package, and the wheel on PyPI that speaks with it.
ADAPTERS = {5: 'panda_fer', 10: 'panda_franky'}
WHEELS = {'panda_fer': 'panda-python==1.1.1', 'panda_franky': 'franky-control==2.0.0'}


@dataclass(frozen=True)
class Answer:
    """What an arm said: its server version, and whether it would have taken the connection."""

    version: int
    welcome: bool


def ask(address: str, port: int = PORT, timeout: float = TIMEOUT_S) -> Answer:
    """The version of the arm's server.

    Args:
        address: IP address or host name.
        port: TCP port of the interface.
        timeout: seconds to wait for the connection and for the answer.

    Raises:
        RobotError: nothing answers, or something else than an arm; with the cure.
    """
    if not address:
        raise RobotError('no address of the arm: write robot.address in the contract, or robot_ip')
    try:
        with (
            socket.create_connection((address, port), timeout) as connection,
            # Where an arm that takes the connection sends its states, until it is closed.
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as states,
        ):
            states.bind(('', 0))
            message = REQUEST.pack(ASKING_VERSION, states.getsockname()[1])
            connection.sendall(HEADER.pack(CONNECT, 1, HEADER.size + len(message)) + message)
            data = _receive(connection, HEADER.size)
            if len(data) == HEADER.size:
                # To its end, which leaves the arm a connection that was closed, not broken.
                told = HEADER.unpack(data)[2]
                data += _receive(connection, min(max(told, MESSAGE), LONGEST) - HEADER.size)
    except ConnectionRefusedError:
        raise RobotError(
            f'{address} refuses port {port}: activate FCI in Desk (https://{address}), '
            'and end other programs that are connected to the arm'
        ) from None
    except TimeoutError:
        raise RobotError(
            f'{address} does not answer on port {port} within {timeout:g} s: is the arm on, the '
            'cable in the port of its control box, and this computer in the same network?'
        ) from None
    except (OSError, UnicodeError) as error:
        raise RobotError(f'{address} cannot be reached: {error}; check address and cable') from None
    command, _, size = HEADER.unpack_from(data) if len(data) >= HEADER.size else (None, 0, 0)
    if command != CONNECT or len(data) < MESSAGE or size < MESSAGE:
        raise RobotError(
            f'{address}:{port} is no Franka arm: it answered {data[:16].hex() or "nothing"}'
        )
    status, version = ANSWER.unpack_from(data, HEADER.size)
    return Answer(int(version), status == 0)


def _receive(connection: socket.socket, n: int) -> bytes:
    data = b''
    while len(data) < n:
        part = connection.recv(n - len(data))
        if not part:
            break
        data += part
    return data


def advice(version: int) -> str:
    """Which robot to use with a server of this version, and how to install it; one sentence."""
    generation = GENERATIONS.get(version)
    if generation is None:
        known = f'{min(GENERATIONS)} to {max(GENERATIONS)}'
        return (
            f'server version {version} is unknown here (known: {known}); a newer VERA-ROS may help'
        )
    what = f'{generation.arm} with server version {version} (system {generation.system})'
    adapter = ADAPTERS.get(version)
    if adapter:
        return f'{what}: use robot {adapter} (pip install {WHEELS[adapter]})'
    adapter = 'panda_fer' if generation.arm == 'FER' else 'panda_franky'
    library = 'panda-python' if generation.arm == 'FER' else 'franky-control'
    return (
        f'{what}: use robot {adapter} with a wheel of {library} built for libfranka '
        f'{generation.libfranka} (release pages of its project), or update the arm'
    )


__all__ = [
    'ADAPTERS',
    'GENERATIONS',
    'PORT',
    'WHEELS',
    'Answer',
    'Generation',
    'advice',
    'ask',
]
