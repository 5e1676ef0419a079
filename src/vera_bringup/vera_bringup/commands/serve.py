"""`vera serve planner` and `vera serve discovery`: what other machines use. Needs no ROS here."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

from vera_bringup.exits import CommandError, Exit


def planner(
    embodiment: str,
    name: str,
    checkpoint: str,
    host: str,
    port: int,
    token_file: Path | None,
    insecure: bool,
    **options: Any,
) -> None:
    """Load the planner, then serve it until Ctrl-C or SIGTERM.

    Args:
        embodiment: name or file of its contract.
        name: of the planner; empty: the contract's.
        checkpoint: name or path; empty: the contract's.
        host: address to listen on.
        port: 0 chooses a free one.
        token_file: its first line is the token; None: none.
        insecure: other machines may connect without a token.
        options: `steps` and `threads` of `make_planner`.
    """
    from vera_core.contract import load_contract
    from vera_planner.planning import warm_up
    from vera_planner.registry import PLANNERS, make_planner
    from vera_planner.remote.client import read_token
    from vera_planner.remote.server import PlannerServer, check_access

    # A line for each client and for each refusal.
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(levelname)s %(message)s')
    servable = [known for known in PLANNERS if known not in ('oracle', 'remote')]
    try:
        contract = load_contract(embodiment)
        name = name or contract.defaults.planner
        if name not in servable:
            raise CommandError(f'planner {name!r} cannot be served; known: {", ".join(servable)}')
        token = read_token(token_file) if token_file else ''
        check_access(host, token, insecure)
        print(f'loading {name} for {contract.embodiment} ...', flush=True)
        made = make_planner(name, contract, checkpoint=checkpoint or None, **options)
        server = PlannerServer(
            made, contract, host=host, port=port, token=token, insecure=insecure
        )
        seconds = warm_up(made, contract)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        raise CommandError(str(error)) from error

    def ready() -> None:
        print(
            f'{made.planner_id} {made.checkpoint_hash} for {contract.embodiment}: first plan took '
            f'{seconds:.2f} s\nserving on ws://{host}:{server.port} '
            f'({"with" if token else "without"} a token); health: '
            f'http://{host}:{server.port}/healthz; Ctrl-C ends it',
            flush=True,
        )

    try:
        asyncio.run(server.serve(ready, signals=True))
    except OSError as error:
        raise CommandError(f'cannot listen on {host}:{port}: {error}', Exit.BAD_INPUT) from error
    print('stopped')


def discovery(host: str, port: int, insecure: bool) -> None:
    """Become Fast DDS's discovery server, until Ctrl-C or SIGTERM.

    Args:
        host: address to listen on.
        port: UDP port.
        insecure: other machines may join.

    Raises:
        CommandError: there is no such program, or other machines could reach it unasked.
    """
    from vera_bringup.network import NetworkError, address_of, is_local
    from vera_bringup.resources import prefixes

    try:
        address = address_of(host)
    except NetworkError as error:
        raise CommandError(str(error)) from error
    if not (insecure or is_local(address)):
        raise CommandError(
            f'who reaches {host} can join the graph and command the robot; say --insecure if '
            'everybody on that network may'
        )
    places = os.pathsep.join([*(str(prefix / 'bin') for prefix in prefixes()), os.environ['PATH']])
    program = shutil.which('fast-discovery-server', path=places)
    if program is None:
        raise CommandError('there is no fast-discovery-server; run `make setup`')
    # The wheels' program does not find the wheels' libraries by itself.
    libraries = [str(Path(program).parent.parent / 'lib'),
                 str(Path(sysconfig.get_paths()['purelib']) / 'ros_fastrtps.libs')]  # fmt: skip
    known = os.environ.get('LD_LIBRARY_PATH')
    path = os.pathsep.join([*libraries, *([known] if known else [])])
    print(f'serving at {address}:{port}; on every machine: --discovery-server', flush=True)
    words = [program, '-i', '0', '-l', address, '-p', str(port)]
    os.execve(program, words, {**os.environ, 'LD_LIBRARY_PATH': path})
