"""`vera serve planner`: plans for other machines. Needs no ROS here."""

from __future__ import annotations

import asyncio
import logging
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
