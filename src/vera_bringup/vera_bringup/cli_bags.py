"""The commands of `vera` about recordings and data sets; `add_to` puts them into its table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from vera_bringup.node_table import DESCRIPTIONS, GraphOptions

# Typer reads these at run time under every supported Python, so no `X | None` here.
Domain = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option('--domain', help='ROS domain 0..232; default ROS_DOMAIN_ID or 0', metavar='N'),
]
Namespace = Annotated[str, typer.Option(help=DESCRIPTIONS['namespace'])]
Runs = Annotated[Path, typer.Option(help='folder for logs and recordings')]
Json = Annotated[bool, typer.Option('--json', help='numbers as JSON on the last line')]
Jpeg = Annotated[int, typer.Option(help='images as JPEG of this quality; 0: as they are', max=100)]
Bag = Annotated[Path, typer.Argument(help='folder of a bag (runs/<stamp>/bag), or an .mcap file')]


def record(
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help='folder of the recording, a new one; default runs/<stamp>/bag'),
    ] = None,
    duration: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help='seconds; default: until Ctrl-C', min=0.1),
    ] = None,
    topics: Annotated[str, typer.Option(help='regular expression; default: all')] = '',
    exclude: Annotated[str, typer.Option(help='regular expression of topics left out')] = '',
    jpeg: Jpeg = 0,
    compression: Annotated[str, typer.Option(help='of chunks: lz4, zstd or none')] = 'lz4',
    embodiment: Annotated[
        str, typer.Option(help="whose cameras the disk budget counts; default: the graph's")
    ] = '',
    as_json: Json = False,
    domain: Domain = None,
    namespace: Namespace = 'vera',
    runs: Runs = Path('runs'),
) -> None:
    """Record a running graph: all topics, parameters, contract and goals, as an MCAP bag.

    It opens with `ros2 bag`, Foxglove and `rosbags`. Lost messages are counted and told.
    """
    from vera_bringup.commands.record import RecordOptions, run

    options = RecordOptions(duration, topics, exclude, jpeg, compression, embodiment)
    run(out, options, as_json, domain, namespace, runs)


def repair(bag: Annotated[Path, typer.Argument(help='folder of the recording')]) -> None:
    """Finish the recording of a recorder that was killed: all but its last half second."""
    from vera_bringup.commands.record import repair as run

    run(bag)


def replay(
    bag: Bag,
    rate: Annotated[float, typer.Option(help='2: twice as fast', min=0.01)] = 1.0,
    topics: Annotated[str, typer.Option(help='regular expression; default: all')] = '',
    exclude: Annotated[str, typer.Option(help='regular expression of topics left out')] = '',
    start: Annotated[float, typer.Option(help='[s] from the beginning of the bag', min=0)] = 0.0,
    end: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help='[s] from the beginning of the bag', min=0),
    ] = None,
    loop: Annotated[bool, typer.Option('--loop', help='again and again, until Ctrl-C')] = False,
    clock: Annotated[
        bool, typer.Option('--clock', help='publish /clock for nodes with use_sim_time')
    ] = False,
    check: Annotated[
        bool, typer.Option('--check', help='no ROS: make all chunks again and compare them')
    ] = False,
    into: Annotated[
        str,
        typer.Option(help='start these as recorded and feed them: translator; planner,translator'),
    ] = '',
    embodiment: Annotated[
        str, typer.Option(help="contract of --check and --into; default: the recording's")
    ] = '',
    checkpoint: Annotated[
        str, typer.Option(help="translator of --check and --into; default: the recording's")
    ] = '',
    as_json: Json = False,
    domain: Domain = None,
    namespace: Annotated[str, typer.Option(help="default: the recording's")] = '',
    runs: Runs = Path('runs'),
) -> None:
    """Send a recording again, with its own stamps; or check that it gives the same chunks.

    Reads what `vera record` and `ros2 bag record` wrote, MCAP or sqlite3. JPEG images are sent as
    images.
    """
    from vera_bringup.commands import replay as command
    from vera_bringup.replaying import ReplayOptions

    options = ReplayOptions(rate, topics, exclude, start, end, 0 if loop else 1)
    target = command.Target(domain, namespace, embodiment, checkpoint)
    if check:
        command.check(bag, target, as_json)
    elif into:
        command.into(bag, tuple(into.split(',')), options, target, runs, as_json)
    else:
        command.run(bag, options, target, clock)


def export_lerobot(
    bags: Annotated[list[Path], typer.Argument(help='folders of bags')],
    out: Annotated[Path, typer.Option(help='folder of the data set, a new one')],
    fps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="frames per second; default: the first camera's rate", min=1),
    ] = None,
    task: Annotated[str, typer.Option(help='words for recordings without goals, or instead')] = '',
    codec: Annotated[str, typer.Option(help='of the videos: h264 or av1')] = 'h264',
    only_succeeded: Annotated[
        bool, typer.Option('--only-succeeded', help='leave out goals that were not reached')
    ] = False,
    embodiment: Annotated[str, typer.Option(help="contract; default: the recording's")] = '',
    namespace: Annotated[str, typer.Option(help="default: the recording's")] = '',
) -> None:
    """Recordings as a LeRobot data set (version 3), an episode for each goal."""
    from vera_bringup.commands.data_sets import export
    from vera_bringup.lerobot_export import ExportOptions

    export(
        bags, out, ExportOptions(fps, task, codec, only_succeeded, embodiment, namespace)
    )


def import_lerobot(
    source: Annotated[Path, typer.Argument(help='folder of the data set')],
    embodiment: Annotated[str, typer.Argument(help='whose: a name or a contract file')],
    out: Annotated[Path, typer.Option(help='folder of the episode files, e.g. data/mine/train')],
    camera: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help='CAMERA=FEATURE; default observation.images.CAMERA'),
    ] = None,
    joint: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help='JOINT=NAME in observation.state; default the same, or JOINT.pos'),
    ] = None,
    licence: Annotated[str, typer.Option(help='of the data; kept in the files')] = '',
) -> None:
    """A LeRobot data set (version 3) as episode files that `vera train idm` reads."""
    from vera_bringup.commands.data_sets import import_data_set

    import_data_set(source, embodiment, out, camera or [], joint or [], licence)


def bench_record(
    embodiment: Annotated[str, typer.Option(help='whose graph is at work beside')] = 'finger',
    planner: Annotated[str, typer.Option(help=DESCRIPTIONS['planner'])] = '',
    seconds: Annotated[float, typer.Option(help='duration', min=1)] = 60.0,
    cameras: Annotated[int, typer.Option(help='stand-in cameras 640x480 at 30 Hz', min=1)] = 3,
    jpeg: Jpeg = 0,
    keep: Annotated[bool, typer.Option('--keep', help='keep the recording')] = False,
    as_json: Json = False,
    domain: Domain = None,
    namespace: Namespace = 'vera',
    runs: Runs = Path('runs'),
) -> None:
    """Record a simulated graph at work and cameras beside it; count what is missing."""
    from vera_bringup.commands.bench_record import run

    options = GraphOptions(namespace, planner)
    run(embodiment, options, seconds, cameras, jpeg, keep, as_json, domain, runs)


def _exports() -> None:
    """Recordings for other tools."""


def _imports() -> None:
    """Other people's data."""


def add_to(app: typer.Typer, bench: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command()(record)
    app.command()(replay)
    app.command()(repair)
    bench.command('record')(bench_record)
    exports = typer.Typer(help='Recordings for other tools.', no_args_is_help=True)
    imports = typer.Typer(help="Other people's data.", no_args_is_help=True)
    exports.command('lerobot')(export_lerobot)
    imports.command('lerobot')(import_lerobot)
    # With only one command below it, typer would take the name of that one away.
    exports.callback()(_exports)
    imports.callback()(_imports)
    app.add_typer(exports, name='export')
    app.add_typer(imports, name='import')


__all__ = ['add_to']
