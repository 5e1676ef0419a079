"""The `vera` command: a thin table of commands; the work is imported when a command runs."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from vera_bringup import cli_bags
from vera_bringup.exits import HELP, CommandError, Exit
from vera_bringup.node_table import DESCRIPTIONS, GraphOptions

app = typer.Typer(
    name='vera',
    help='Video-to-embodiment robot action: a goal in words, imagined frames, safe motion.',
    epilog=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={'help_option_names': ['-h', '--help']},
)
train = typer.Typer(help='Train the networks of one embodiment.', no_args_is_help=True)
bench = typer.Typer(help='Measure this machine, and the planner on it.', no_args_is_help=True)
study = typer.Typer(help="The paper's studies, redone.", no_args_is_help=True)
serve = typer.Typer(help='Serve an organ to other machines.', no_args_is_help=True)
models = typer.Typer(
    help='The checkpoints that are shipped or found, with hash, size, training and licence.',
    invoke_without_command=True,
)
calibrate = typer.Typer(help='Find out where the cameras are.', no_args_is_help=True)
app.add_typer(train, name='train')
app.add_typer(bench, name='bench')
app.add_typer(serve, name='serve')
app.add_typer(models, name='models')
app.add_typer(study, name='study')
app.add_typer(calibrate, name='calibrate')

# Typer reads these at run time under every supported Python, so no `X | None` here.
Embodiment = Annotated[str, typer.Argument(help='embodiment: a name (finger) or a contract file')]
Domain = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option('--domain', help='ROS domain 0..232; default ROS_DOMAIN_ID or 0', metavar='N'),
]
Namespace = Annotated[str, typer.Option(help=DESCRIPTIONS['namespace'])]
Runs = Annotated[Path, typer.Option(help='folder for logs and recordings')]
Json = Annotated[bool, typer.Option('--json', help='numbers as JSON on the last line')]
Planner = Annotated[str, typer.Option(help=DESCRIPTIONS['planner'])]
PlannerCheckpoint = Annotated[str, typer.Option(help=DESCRIPTIONS['planner_checkpoint'])]
Translator = Annotated[str, typer.Option(help=DESCRIPTIONS['translator'])]
TranslatorCheckpoint = Annotated[str, typer.Option(help=DESCRIPTIONS['translator_checkpoint'])]
Mode = Annotated[str, typer.Option(help=DESCRIPTIONS['mode'])]
Gate = Annotated[str, typer.Option(help=DESCRIPTIONS['gate'])]
Candidates = Annotated[int, typer.Option(help=DESCRIPTIONS['candidates'], min=1, max=16)]
Replan = Annotated[str, typer.Option(help=DESCRIPTIONS['replan'])]
Follow = Annotated[str, typer.Option(help=DESCRIPTIONS['follow'])]
Horizon = Annotated[float, typer.Option(help=DESCRIPTIONS['horizon'], min=0)]
Pending = Annotated[bool, typer.Option(help=DESCRIPTIONS['pending'])]
Peers = Annotated[
    str, typer.Option('--peers', help='other machines of the graph: HOST,HOST', metavar='HOST,...')
]
Server = Annotated[
    str,
    typer.Option(
        '--discovery-server', help='Fast DDS discovery server of the graph', metavar='HOST:PORT'
    ),
]
Insecure = Annotated[
    bool,
    typer.Option('--insecure', help='everybody on the network of the peers may command the robot'),
]
Only = Annotated[str, typer.Option(help=DESCRIPTIONS['only'])]
Cockpit = Annotated[bool, typer.Option(help=DESCRIPTIONS['use_cockpit'])]
CockpitHost = Annotated[str, typer.Option(help=DESCRIPTIONS['cockpit_host'])]
CockpitPort = Annotated[int, typer.Option(help=DESCRIPTIONS['cockpit_port'], min=0, max=65535)]
Without = Annotated[str, typer.Option(help=DESCRIPTIONS['without'])]
Seed = Annotated[int, typer.Option(help=DESCRIPTIONS['seed'], min=0)]
Timeout = Annotated[float, typer.Option(help='seconds', min=0.1)]
Columns = Annotated[int, typer.Option(help='squares of the board from left to right', min=3)]
Rows = Annotated[int, typer.Option(help='squares of the board from top to bottom', min=3)]
Square = Annotated[float, typer.Option(help='side of a square, mm')]
Marker = Annotated[float, typer.Option(help="side of a marker, mm; 0: 3/4 of the square's")]
Dictionary = Annotated[str, typer.Option(help="of the markers, OpenCV's name")]


def _reach(peers: str, discovery_server: str, insecure: bool = True) -> None:
    """Let this command, and what it starts, meet the nodes of other machines."""
    from vera_bringup.network import NetworkError, reach

    try:
        reach(peers, discovery_server, insecure)
    except NetworkError as error:
        raise CommandError(str(error)) from error


@app.command()
def up(
    embodiment: Embodiment,
    planner: Planner = '',
    planner_checkpoint: PlannerCheckpoint = '',
    translator: Translator = '',
    translator_checkpoint: TranslatorCheckpoint = '',
    mode: Mode = 'stacked',
    seed: Seed = 0,
    lockstep: Annotated[bool, typer.Option('--lockstep', help=DESCRIPTIONS['lockstep'])] = False,
    gate: Gate = 'report',
    candidates: Candidates = 1,
    record: Annotated[bool, typer.Option('--record', help='record all topics (MCAP)')] = False,
    replan: Replan = 'async',
    follow: Follow = 'chunk',
    horizon: Horizon = 0.0,
    pending: Pending = False,
    plan_timeout: Annotated[float, typer.Option(help=DESCRIPTIONS['plan_timeout'], min=0.1)] = 15.0,
    use_fake_hardware: Annotated[bool, typer.Option(help=DESCRIPTIONS['use_fake_hardware'])] = True,
    robot: Annotated[str, typer.Option(help=DESCRIPTIONS['robot'])] = '',
    robot_ip: Annotated[str, typer.Option(help=DESCRIPTIONS['robot_ip'])] = '',
    load_gripper: Annotated[bool, typer.Option(help=DESCRIPTIONS['load_gripper'])] = True,
    tf: Annotated[str, typer.Option(help=DESCRIPTIONS['tf'])] = 'global',
    description: Annotated[str, typer.Option(help=DESCRIPTIONS['description'])] = '',
    use_rviz: Annotated[bool, typer.Option('--use-rviz', help=DESCRIPTIONS['use_rviz'])] = False,
    cockpit: Cockpit = True,
    cockpit_host: CockpitHost = '127.0.0.1',
    cockpit_port: CockpitPort = 8080,
    only: Only = '',
    without: Without = '',
    frame_timeout: Annotated[
        float, typer.Option(help=DESCRIPTIONS['frame_timeout'], min=0)
    ] = 0.0,
    peers: Peers = '',
    discovery_server: Server = '',
    insecure: Insecure = False,
    domain: Domain = None,
    namespace: Namespace = 'vera',
    runs: Runs = Path('runs'),
    log_level: Annotated[str, typer.Option(help='debug, info, warn, error')] = '',
) -> None:
    """Start the whole graph of an embodiment and watch over it until Ctrl-C.

    A node that dies is reported and restarted, at most 3 times a minute. Logs are kept in
    runs/<stamp>/log. `ros2 launch vera_bringup finger.launch.py` starts the same processes.
    For several machines see docs/how-to/several-machines.md.
    """
    from vera_bringup.commands.up import run

    options = GraphOptions(
        namespace, planner, planner_checkpoint, translator, translator_checkpoint, mode, seed,
        lockstep, gate, candidates, replan, follow, horizon, pending, plan_timeout,
        use_fake_hardware=use_fake_hardware,
        robot=robot, robot_ip=robot_ip, load_gripper=load_gripper, tf=tf, description=description,
        use_rviz=use_rviz, use_cockpit=cockpit, cockpit_host=cockpit_host,
        cockpit_port=cockpit_port, only=only, without=without, frame_timeout=frame_timeout,
    )
    _reach(peers, discovery_server, insecure)
    run(embodiment, options, domain, runs, record, log_level)


@app.command()
def goal(
    prompt: Annotated[str, typer.Argument(help="e.g. 'touch the red disc'")],
    wait: Annotated[bool, typer.Option(help='wait until the goal ends')] = True,
    timeout: Timeout = 60.0,
    as_json: Json = False,
    peers: Peers = '',
    discovery_server: Server = '',
    domain: Domain = None,
    namespace: Namespace = 'vera',
) -> None:
    """Give the running robot a goal in words; exit code 0 if it reports success."""
    from vera_bringup.commands.talk import goal as run

    _reach(peers, discovery_server)
    run(prompt, wait, timeout, as_json, domain, namespace)


@app.command()
def stop(
    peers: Peers = '',
    discovery_server: Server = '',
    domain: Domain = None,
    namespace: Namespace = 'vera',
) -> None:
    """Stop the robot now. It holds until `vera reset`."""
    from vera_bringup.commands.talk import trigger

    _reach(peers, discovery_server)
    trigger('stop', domain, namespace)


@app.command()
def reset(
    peers: Peers = '',
    discovery_server: Server = '',
    domain: Domain = None,
    namespace: Namespace = 'vera',
) -> None:
    """Clear a stop, so that the robot takes goals again."""
    from vera_bringup.commands.talk import trigger

    _reach(peers, discovery_server)
    trigger('reset', domain, namespace)


@app.command()
def status(
    as_json: Json = False,
    peers: Peers = '',
    discovery_server: Server = '',
    domain: Domain = None,
    namespace: Namespace = 'vera',
) -> None:
    """What runs, what the controller does, and what became of the goal."""
    from vera_bringup.commands.talk import status as run

    _reach(peers, discovery_server)
    run(as_json, domain, namespace)


@app.command()
def doctor(
    embodiment: Annotated[
        str, typer.Argument(help='embodiment: a name or a contract file; empty: the machine only')
    ] = '',
    robot_ip: Annotated[
        str, typer.Option(help="address of a real arm; empty: the contract's")
    ] = '',
    as_json: Json = False,
    peers: Peers = '',
    discovery_server: Server = '',
    runs: Annotated[Path, typer.Option(help='where recordings are to go')] = Path(),
    domain: Domain = None,
    namespace: Namespace = 'vera',
) -> None:
    """Say what is in the way on this machine, why it matters and what cures it.

    Looks at versions, shared memory, sockets, GPU, cameras, ports, and at the graph if one runs:
    who cannot hear whom, and whether clocks agree. Asks a real arm which one it is, and names the
    robot and the library for it. Moves nothing. Exit code 1 if something is in the way.
    """
    from vera_bringup.commands.doctor import DoctorOptions, run

    if robot_ip and not embodiment:
        raise CommandError('--robot-ip needs the embodiment, too: vera doctor panda --robot-ip ...')
    _reach(peers, discovery_server)
    run(embodiment, DoctorOptions(robot_ip, domain, namespace, runs), as_json)


@app.command()
def demo(
    embodiment: Annotated[str, typer.Argument(help='embodiment, by name')] = 'panda',
    planner: Planner = '',
    planner_checkpoint: PlannerCheckpoint = '',
    translator: Translator = '',
    translator_checkpoint: TranslatorCheckpoint = '',
    gate: Gate = 'report',
    replan: Replan = 'async',
    follow: Follow = 'chunk',
    horizon: Horizon = 0.0,
    pending: Pending = False,
    seed: Seed = 0,
    goals: Annotated[int, typer.Option(help='goals to send', min=1, max=100)] = 5,
    timeout: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="seconds for a goal; the contract's if left out", min=0.1),
    ] = None,
    as_json: Json = False,
    cockpit: Cockpit = True,
    cockpit_host: CockpitHost = '127.0.0.1',
    cockpit_port: CockpitPort = 8080,
    without: Without = '',
    peers: Peers = '',
    discovery_server: Server = '',
    insecure: Insecure = False,
    domain: Domain = None,
    namespace: Namespace = 'vera',
    runs: Runs = Path('runs'),
) -> None:
    """Start the graph, send five goals in words, judge each by the simulator's ground truth.

    Writes runs/<stamp>/: an MCAP recording of all topics, a picture of real beside imagined
    frames, metrics.json. Exit code 0 only if at least four of five goals were really reached.
    """
    from vera_bringup.commands.demo import run

    options = GraphOptions(
        namespace, planner, planner_checkpoint, translator, translator_checkpoint, seed=seed,
        gate=gate, replan=replan, follow=follow, horizon=horizon, pending=pending,
        use_cockpit=cockpit, cockpit_host=cockpit_host, cockpit_port=cockpit_port, without=without,
    )
    _reach(peers, discovery_server, insecure)
    run(embodiment, options, goals, timeout, as_json, domain, runs)


@app.command(name='eval')
def evaluate(
    embodiment: Embodiment,
    planner: Annotated[
        str, typer.Option(help='compact, oracle, random (self-play), or expert (its own actions)')
    ] = '',
    planner_checkpoint: PlannerCheckpoint = '',
    translator: Translator = '',
    translator_checkpoint: TranslatorCheckpoint = '',
    mode: Mode = 'stacked',
    episodes: Annotated[int, typer.Option(help='episodes, uniform starts', min=1)] = 50,
    seed: Seed = 0,
    joints: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help='another number of joints than the contract has', min=1, max=20),
    ] = None,
    held_out: Annotated[
        bool, typer.Option('--held-out', help='phrasings that training never saw')
    ] = False,
    frames: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            '--frames', '--steps', help='frame periods an episode; finger 60, panda 120, pusht 200',
            min=1,
        ),
    ] = None,
    task: Annotated[
        str, typer.Option(help='of the Panda: any, touch, push, press, lift, stack, bowl')
    ] = '',
    colours: Annotated[
        str, typer.Option(help="of the Panda's cubes: training, held_out, all")
    ] = '',
    discs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="on the finger's table; as many as the contract says", min=1, max=4),
    ] = None,
    coverage: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="share of PushT's goal that counts as success: .738, .82 or .95"),
    ] = None,
    loop: Annotated[
        str, typer.Option(help='lockstep: time waits for the planner; or sync, async, servo')
    ] = 'lockstep',
    planner_latency: Annotated[
        float, typer.Option(help='[s] a plan takes, where time does not wait', min=0)
    ] = 0.0,
    pending: Annotated[
        bool, typer.Option('--pending', help='tell the planner the frames still to be executed')
    ] = False,
    judge: Annotated[
        bool, typer.Option(help='compare each dream with what the expert would do')
    ] = True,
    jobs: Annotated[int, typer.Option(help='processes, or actors of --ray', min=1)] = 1,
    ray: Annotated[
        str, typer.Option(help='run on a Ray cluster: its address, auto, or local')
    ] = '',
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help='keep episodes, page and videos here; goes on where it was'),
    ] = None,
    videos: Annotated[int, typer.Option(help='of the worst episodes, in --out', min=0)] = 6,
    gate: Gate = 'off',
    candidates: Candidates = 1,
    ros: Annotated[
        bool, typer.Option('--ros', help='through the node graph, in lock-step')
    ] = False,
    as_json: Json = False,
    domain: Domain = None,
    namespace: Namespace = 'vera',
    runs: Runs = Path('runs'),
) -> None:
    """Success rate with its Wilson interval, and what the episodes were like.

    Without --ros it runs the library alone; with --ros the same episodes go through the nodes,
    with the same actions. See docs/how-to/evaluate.md.
    """
    from vera_bringup.commands.evaluate import run
    from vera_bringup.evaluation import EvaluationOptions

    options = EvaluationOptions(
        planner=planner,
        planner_checkpoint=planner_checkpoint,
        translator=translator,
        translator_checkpoint=translator_checkpoint,
        mode=mode,
        episodes=episodes,
        seed=seed,
        joints=joints,
        held_out=held_out,
        frames=frames,
        jobs=jobs,
        coverage=coverage,
        gate=gate,
        candidates=candidates,
        task=task,
        colours=colours,
        discs=discs,
        loop=loop,
        latency=planner_latency,
        pending=pending,
        judge=judge,
        ray=ray,
    )
    run(embodiment, options, ros, as_json, domain, namespace, runs, out, videos)


@app.command()
def collect(
    embodiment: Embodiment,
    out: Annotated[Path, typer.Option(help='folder of the data set; created')],
    transitions: Annotated[int, typer.Option(help='self-play transitions', min=1)] = 20000,
    live: Annotated[
        bool, typer.Option('--live', help='start the robot, move it through its controller, record')
    ] = False,
    source: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option('--from', help='take them from a recording (`vera up --record`) instead'),
    ] = None,
    max_delta: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help='largest change of a joint in a frame period [rad]; default 0.12'),
    ] = None,
    span: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help='joints stay within +-span [rad] of zero, or live of the home pose'),
    ] = None,
    joints: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help='simulator: another number of joints', min=1, max=20),
    ] = None,
    discs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help='simulator: discs on the table', min=0, max=4),
    ] = None,
    frames: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help='simulator: frames of a scene; default 2, one transition', min=2),
    ] = None,
    analytic: Annotated[
        bool, typer.Option(help="simulator: store the simulator's own flow, too")
    ] = True,
    every: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help='live: seconds between beginnings; default a frame period', min=0.001),
    ] = None,
    licence: Annotated[str, typer.Option(help='live: of the recorded data')] = '',
    yes: Annotated[bool, typer.Option('--yes', help='live: a real robot may move now')] = False,
    seed: Seed = 0,
    domain: Domain = None,
    namespace: Namespace = 'vera',
    runs: Runs = Path('runs'),
) -> None:
    """Collect self-play (image, action, image) as MCAP episodes for the translator's training.

    From the simulator, from the live robot (--live) or from a recording (--from). What is there
    is kept, and an interrupted collection goes on with the same command. At the end it tells which
    part of the actions it has seen.
    """
    from vera_bringup.commands.collect import CollectOptions, run

    options = CollectOptions(
        transitions=transitions,
        seed=seed,
        max_delta=max_delta,
        span=span,
        joints=joints,
        frames=frames,
        discs=discs,
        analytic=analytic,
        every=every,
        licence=licence,
    )
    run(embodiment, out, options, live, source, domain, namespace, runs, yes)


@train.command('idm')
def train_idm(
    embodiment: Embodiment,
    out: Annotated[Path, typer.Option(help='folder for curve and checkpoint')] = Path(
        'runs/train_idm'
    ),
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help='folder of self-play (train/, heldout/); made where it is missing'),
    ] = None,
    joints: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help='another number of joints than the contract has', min=1, max=20),
    ] = None,
    translator: Annotated[
        str, typer.Option(help='jacobian, or a baseline: direct_flow, direct_pair')
    ] = 'jacobian',
    flow: Annotated[
        str, typer.Option(help='dis, dis_lk, farneback, analytic, raft_small:FILE ...')
    ] = 'dis',
    transitions: Annotated[int, typer.Option(help='self-play transitions', min=1)] = 4000,
    steps: Annotated[int, typer.Option(help='optimiser steps', min=1)] = 1200,
    name: Annotated[str, typer.Option(help='of the checkpoint; empty: from the robot')] = '',
    seed: Seed = 0,
    threads: Annotated[int, typer.Option(help='CPU threads', min=1)] = 1,
    device: Annotated[str, typer.Option(help='cpu or cuda')] = 'cpu',
    early_stop: Annotated[
        int,
        typer.Option(help='end after so many evaluations without progress; 0 = never', min=0),
    ] = 0,
    tensorboard: Annotated[
        bool, typer.Option('--tensorboard', help='write event files beside the curve')
    ] = False,
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option('--set', help='any field of the recipe, as rate=5e-4; may be repeated'),
    ] = None,
    resume: Annotated[bool, typer.Option('--resume', help='go on where it stopped')] = False,
    as_json: Json = False,
) -> None:
    """Train a translator from self-play (the Jacobian: Eq. 5); the self-play is made if missing."""
    from vera_bringup.commands.training import idm as run

    run(
        embodiment,
        as_json,
        out=out,
        data=data,
        joints=joints,
        flow=flow,
        transitions=transitions,
        steps=steps,
        name=name or None,
        seed=seed,
        threads=threads,
        resume=resume,
        translator=translator,
        device=device,
        early_stop=early_stop,
        tensorboard=tensorboard,
        settings=settings or [],
    )


@train.command('planner')
def train_planner(
    embodiments: Annotated[
        list[str], typer.Argument(help='one planner for all of these: finger, pusht, panda')
    ],
    out: Annotated[Path, typer.Option(help='folder for curve, state and checkpoint')] = Path(
        'runs/train_planner'
    ),
    data: Annotated[
        Path, typer.Option(help='parent of the folders of clips or tracks; made where missing')
    ] = Path('data'),
    clips: Annotated[
        int, typer.Option(help='clips of each expert to train on; 0: 12000, Panda 3500', min=0)
    ] = 0,
    pictures: Annotated[
        int, typer.Option(help='pieces: pictures for the codec; 0: 6000, Panda 8000', min=0)
    ] = 0,
    network: Annotated[
        str, typer.Option(help='pieces: imagines motions; unet, transformer: imagine pixels')
    ] = 'pieces',
    width: Annotated[int, typer.Option(help='unet, transformer: channels', min=8)] = 96,
    depth: Annotated[
        int, typer.Option(help='unet, transformer: blocks per level or in all', min=1)
    ] = 2,
    layers: Annotated[
        int, typer.Option(help='unet, transformer: layers that move as wholes; 0: none', min=0)
    ] = 0,
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="optimiser steps; the network's usual number if left out", min=1),
    ] = None,
    codec_steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help='pieces: those of the codec, which come before', min=1),
    ] = None,
    rate: Annotated[
        float, typer.Option(help='unet, transformer: highest learning rate', min=1e-7)
    ] = 6e-4,
    drop_history: Annotated[
        float,
        typer.Option(
            help='unet, transformer: share of windows that see the anchor alone', min=0, max=1
        ),
    ] = 0.7,
    shares: Annotated[
        str, typer.Option(help='of the steps for each embodiment, e.g. 1,2; empty: as pieces need')
    ] = '',
    init: Annotated[
        str, typer.Option(help='unet, transformer: checkpoint to begin from; empty: from the seed')
    ] = '',
    name: Annotated[str, typer.Option(help='of the checkpoint; empty: from the robots')] = '',
    seed: Seed = 0,
    threads: Annotated[int, typer.Option(help='CPU threads', min=1)] = 1,
    resume: Annotated[bool, typer.Option('--resume', help='go on where it stopped')] = False,
    as_json: Json = False,
) -> None:
    """Train the compact planner from what the scripted experts' videos show (no actions)."""
    from vera_bringup.commands.training import planner as run

    run(
        embodiments,
        as_json,
        out=out,
        data=data,
        clips=clips,
        pictures=pictures,
        kind=network,
        width=width,
        depth=depth,
        layers=layers,
        steps=steps,
        codec_steps=codec_steps,
        rate=rate,
        drop_history=drop_history,
        shares=shares,
        init=init,
        name=name,
        seed=seed,
        threads=threads,
        resume=resume,
    )


@train.command('video')
def train_video(
    config: Annotated[
        Path, typer.Option(help='recipe, as config/planners/train_tiny.yaml', exists=True)
    ],
    layout: Annotated[str, typer.Option(help='another size than the recipe says')] = '',
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help='another number of optimiser steps', min=1),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help='folder for state, curve, samples and planner; runs/train_<name>'),
    ] = None,
    resume: Annotated[bool, typer.Option('--resume', help='go on where it stopped')] = False,
    precompute: Annotated[
        bool, typer.Option('--precompute', help='only encode windows, into `precomputed`')
    ] = False,
    device: Annotated[str, typer.Option(help='cpu or cuda; cuda where there is one')] = '',
    threads: Annotated[int, typer.Option(help='CPU threads', min=1)] = 1,
    tensorboard: Annotated[
        bool, typer.Option('--tensorboard', help='write event files beside the curve')
    ] = False,
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option('--set', help='any key of the recipe, as optimiser.batch=2; repeatable'),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a planner of the Wan family, of any size, by diffusion forcing.

    On several GPUs: torchrun --nproc_per_node 8 .venv/bin/vera train video --config ...
    See docs/how-to/train-a-planner.md.
    """
    from vera_bringup.commands.train_video import run

    run(
        config, layout, steps, out, resume, precompute, device, threads, tensorboard, as_json,
        settings or [],
    )


@bench.command('transport')
def bench_transport(
    seconds: Annotated[float, typer.Option(help='how long', min=1)] = 30.0,
    cameras: Annotated[int, typer.Option(help='cameras, one process each', min=1, max=8)] = 3,
    rate: Annotated[float, typer.Option(help='Hz', min=1)] = 30.0,
    width: Annotated[int, typer.Option(help='pixels', min=16)] = 640,
    height: Annotated[int, typer.Option(help='pixels', min=16)] = 480,
    compare: Annotated[
        bool, typer.Option('--compare', help="also with Fast DDS's own defaults")
    ] = False,
    as_json: Json = False,
    domain: Domain = None,
) -> None:
    """Camera frames between processes: how many are lost, and how late the others are."""
    from vera_bringup.commands.bench import run

    run(seconds, cameras, rate, width, height, compare, as_json, domain)


@bench.command('control')
def bench_control(
    embodiment: Annotated[str, typer.Argument(help='whose controller')] = 'panda',
    seconds: Annotated[float, typer.Option(help='how long', min=5)] = 30.0,
    planners: Annotated[int, typer.Option(help='planners beside it, at all cores', min=0)] = 1,
    as_json: Json = False,
    domain: Domain = None,
) -> None:
    """How even the set-points are, and how soon a stop works, beside a planner at full load."""
    from vera_bringup.commands.bench_control import run

    run(embodiment, seconds, planners, as_json, domain)


@bench.command('cockpit')
def bench_cockpit(
    embodiment: Annotated[str, typer.Argument(help='whose simulated graph')] = 'finger',
    planner: Planner = '',
    viewer: Annotated[
        str,
        typer.Option(help='who looks: socket (a browser elsewhere), browser (Chromium), none'),
    ] = 'socket',
    seconds: Annotated[float, typer.Option(help='of each phase', min=5)] = 20.0,
    pairs: Annotated[int, typer.Option(help='phases without and with it', min=1)] = 6,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help='file to draw the jitter to'),
    ] = None,
    as_json: Json = False,
    domain: Domain = None,
    namespace: Namespace = 'vera',
    runs: Runs = Path('runs'),
) -> None:
    """Rate and jitter of the set-points of a graph at work, with and without a cockpit beside."""
    from vera_bringup.commands.bench_cockpit import run

    options = GraphOptions(namespace, planner)
    run(embodiment, options, viewer, seconds, pairs, picture, as_json, domain, runs)


@bench.command('translate')
def bench_translate(
    size: Annotated[int, typer.Option(help='side of the canvas, px', min=32)] = 128,
    channels: Annotated[int, typer.Option(help='action channels', min=1)] = 16,
    steps: Annotated[int, typer.Option(help='frame pairs of the chunk', min=1)] = 4,
    repeats: Annotated[int, typer.Option(help='chunks that are timed', min=10)] = 300,
    as_json: Json = False,
) -> None:
    """Time of a chunk's translation without network and flow, with one thread and with two."""
    from vera_bringup.commands.bench_translate import run

    run(size, channels, steps, repeats, as_json)


@bench.command('flow')
def bench_flow(
    flow: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help='estimator, e.g. dis or raft_small:FILE; all that are ready if left out'),
    ] = None,
    joints: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(help='of the finger, 5 and 10 if left out', min=1, max=20),
    ] = None,
    pairs: Annotated[int, typer.Option(help='transitions of each finger', min=2)] = 200,
    max_delta: Annotated[float, typer.Option(help='largest joint change, rad', min=1e-3)] = 0.05,
    seed: Seed = 0,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help='file to draw examples to'),
    ] = None,
    as_json: Json = False,
) -> None:
    """Flow estimators against the simulator's flow: pixels, time, and the error of the actions."""
    from vera_bringup.commands.bench_flow import run

    run(flow or [], joints or [5, 10], pairs, max_delta, seed, picture, as_json)


@bench.command('remote')
def bench_remote(
    embodiment: Annotated[
        str, typer.Argument(help='embodiment: a name or a contract file')
    ] = 'finger',
    checkpoint: PlannerCheckpoint = '',
    repeats: Annotated[int, typer.Option(help='plans of each kind', min=5)] = 100,
    threads: Annotated[int, typer.Option(help='CPU threads of a planner', min=1)] = 1,
    as_json: Json = False,
) -> None:
    """What a plan costs more when a server on this machine makes it, and the wire alone."""
    from vera_bringup.commands.bench_remote import run

    run(embodiment, checkpoint, repeats, threads, as_json)


@bench.command('planner')
def bench_planner(
    size: Annotated[
        str, typer.Option(help='tiny, compact, t2v-1.3b, ti2v-5b, i2v-14b (14b), compact-unet, ...')
    ] = 'tiny',
    random_weights: Annotated[
        bool, typer.Option('--random-weights', help='needs no checkpoint; as fast as trained ones')
    ] = False,
    checkpoint: Annotated[
        str, typer.Option(help='trained weights: a folder, a name or OWNER/NAME@COMMIT')
    ] = '',
    option: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help='way to be faster, e.g. steps-10, taylor; may be repeated; all: each'),
    ] = None,
    repeats: Annotated[int, typer.Option(help='timed plans of each', min=2)] = 10,
    scenes: Annotated[int, typer.Option(help='that plans are compared on', min=1)] = 4,
    steps: Annotated[int, typer.Option(help='of the plan that all are compared with', min=1)] = 40,
    threads: Annotated[int, typer.Option(help='CPU threads; 0: all cores but one', min=0)] = 0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Latency of a plan, stage by stage, and what each way to be faster does to the plan.

    Without a GPU the tiny size is measured in place of the large ones.
    """
    from vera_bringup.commands.bench_planner import run

    run(
        size, random_weights, checkpoint, option or [], repeats, scenes, steps, threads, seed,
        as_json,
    )


@bench.command('loop')
def bench_loop(
    embodiment: Annotated[
        str, typer.Option(help='simulated ones, with commas')
    ] = 'finger,pusht',
    modes: Annotated[
        str,
        typer.Option(help='sync: stop and go; async: plan while moving; servo: follow by sight'),
    ] = 'sync,async,servo',
    planner_latency: Annotated[
        str, typer.Option(help='[s] that a plan takes, with commas')
    ] = '0,0.5,2,5',
    episodes: Annotated[int, typer.Option(help='scenes for each row', min=1)] = 20,
    planner: Planner = '',
    planner_checkpoint: PlannerCheckpoint = '',
    pending: Annotated[
        bool, typer.Option(help='tell the planner the frames still to be executed')
    ] = True,
    horizon: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help='[s] that plans reach; what the latency needs if left out', min=0.1),
    ] = None,
    servo_rate: Annotated[float, typer.Option(help='Hz of the servo loop', min=1, max=20)] = 10.0,
    seed: Seed = 2026,
    jobs: Annotated[int, typer.Option(help='processes', min=1)] = 1,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help='file to draw the rows to'),
    ] = None,
    as_json: Json = False,
) -> None:
    """Success and smoothness with a slow planner: the world goes on while it thinks."""
    from vera_bringup.commands.bench_loop import numbers, run, words
    from vera_bringup.loop_bench import LoopBenchOptions

    options = LoopBenchOptions(
        words(embodiment), words(modes), numbers(planner_latency, '--planner-latency'), episodes,
        seed, planner, planner_checkpoint, pending, horizon, servo_rate, jobs,
    )
    run(options, picture, as_json)


@bench.command('video')
def bench_video(
    embodiment: Embodiment,
    planner: Planner = '',
    planner_checkpoint: PlannerCheckpoint = '',
    translator: Translator = '',
    translator_checkpoint: TranslatorCheckpoint = '',
    clips: Annotated[int, typer.Option(help='scenes that no training saw', min=2)] = 50,
    frames: Annotated[int, typer.Option(help='of each dream', min=1)] = 16,
    seed: Seed = 0,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help='PNG of the curves over the horizon'),
    ] = None,
    as_json: Json = False,
) -> None:
    """Dreams against held-out videos, and against the robot that executes them, frame by frame.

    PSNR; SSIM with torchmetrics, LPIPS with lpips, FVD with cd-fvd, where installed.
    """
    from vera_bringup.commands.bench_video import run

    run(
        embodiment, planner, planner_checkpoint, translator, translator_checkpoint, clips, frames,
        seed, picture, as_json,
    )


@bench.command('words')
def bench_words(
    embodiment: Embodiment,
    scenes: Annotated[int, typer.Option(help='scenes, each asked three ways', min=2)] = 100,
    planner: Planner = '',
    planner_checkpoint: PlannerCheckpoint = '',
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Whether the plan obeys the words: PSNR asked rightly minus wrongly, held-out phrasings."""
    from vera_bringup.commands.words import run

    run(embodiment, scenes, planner, planner_checkpoint, seed, as_json)


@study.command('honesty')
def study_honesty(
    embodiment: Annotated[str, typer.Argument(help='the simulated finger')] = 'finger',
    out: Annotated[Path, typer.Option(help='folder for table and curves')] = Path(
        'runs/study_honesty'
    ),
    translator_checkpoint: TranslatorCheckpoint = '',
    planner: Planner = '',
    count: Annotated[
        int, typer.Option(help='transitions of each kind, and to calibrate with', min=200)
    ] = 500,
    episodes: Annotated[
        int, typer.Option(help='episodes of dreams to calibrate with, and to test with', min=2)
    ] = 30,
    seed: Seed = 0,
    save: Annotated[
        bool, typer.Option('--save', help='keep the calibration beside the checkpoint')
    ] = False,
    as_json: Json = False,
) -> None:
    """Whether the honesty signals tell real motion from teleported discs, another robot, ...

    Exit code 0 only if AUROC is at least 0.95 for teleport, frozen and noise.
    """
    from vera_bringup.commands.study_honesty import run

    run(
        embodiment, out, translator_checkpoint, planner, count, episodes, seed, save, as_json
    )


@study.command('gate')
def study_gate(
    embodiment: Annotated[str, typer.Argument(help='the simulated finger')] = 'finger',
    out: Annotated[Path, typer.Option(help='folder for table and picture')] = Path(
        'runs/study_gate'
    ),
    planner: Planner = '',
    planner_checkpoint: PlannerCheckpoint = '',
    translator_checkpoint: TranslatorCheckpoint = '',
    episodes: Annotated[
        int, typer.Option(help='to test with; half as many to calibrate with', min=2)
    ] = 50,
    seed: Seed = 0,
    save: Annotated[
        bool, typer.Option('--save', help='keep the thresholds beside the contract')
    ] = False,
    as_json: Json = False,
) -> None:
    """Whether the gate stops planted bad plans and lets good ones pass.

    Exit code 0 only if 90% of each kind are stopped at 5% false stops, with three candidates.
    """
    from vera_bringup.commands.study_gate import run

    run(
        embodiment, out, planner, planner_checkpoint, translator_checkpoint, episodes, seed, save,
        as_json,
    )


@study.command('dreams')
def study_dreams(
    embodiment: Annotated[str, typer.Argument(help='finger or pusht')] = 'finger',
    out: Annotated[Path, typer.Option(help='rows, table, picture; goes on where it was')] = Path(
        'runs/study_dreams'
    ),
    starts: Annotated[int, typer.Option(help='of each variant, the same ones for all', min=2)] = 40,
    seed: Seed = 2026,
    variants: Annotated[str, typer.Option(help='names, with commas; all unless given')] = '',
    as_json: Json = False,
) -> None:
    """Whether success in the planner's own long dreams tells success in the simulator."""
    from vera_bringup.commands.study_dreams import run

    run(embodiment, out, starts, seed, variants, as_json)


@study.command('finger')
def study_finger(
    out: Annotated[Path, typer.Option(help='data, trainings, rows, plot')] = Path(
        'runs/study_finger'
    ),
    joints: Annotated[str, typer.Option(help='of the first sweep, such as 2,5,10')] = '',
    sizes: Annotated[str, typer.Option(help='transitions of the second, such as 500,4000')] = '',
    flows: Annotated[str, typer.Option(help='such as analytic,dis')] = '',
    models: Annotated[str, typer.Option(help='jacobian,direct_flow,direct_pair')] = '',
    seeds: Annotated[int, typer.Option(help='how many; 0: as the study says', min=0)] = 0,
    steps: Annotated[int, typer.Option(help='of each training; 0: as it says', min=0)] = 0,
    jobs: Annotated[int, typer.Option(help='trainings at once, one thread each', min=1)] = 2,
    quick: Annotated[bool, typer.Option('--quick', help='10 minutes on 2 cores')] = False,
    as_json: Json = False,
) -> None:
    """Toy finger: error of three translators over joints and over data; goes on where it was."""
    from vera_bringup.commands.study_finger import run

    run(out, joints, sizes, flows, models, seeds, steps, jobs, quick, as_json)


@study.command('ablate')
def study_ablate(
    out: Annotated[Path, typer.Option(help='data, trainings, rows, plot')] = Path(
        'runs/study_finger'
    ),
    joints: Annotated[int, typer.Option(help='of the finger', min=1)] = 5,
    transitions: Annotated[int, typer.Option(help='to train on', min=1)] = 4000,
    seeds: Annotated[int, typer.Option(help='how many', min=1)] = 1,
    steps: Annotated[int, typer.Option(help='of each training', min=1)] = 400,
    jobs: Annotated[int, typer.Option(help='trainings at once, one thread each', min=1)] = 2,
    as_json: Json = False,
) -> None:
    """Toy finger: one choice of the J-IDM's recipe changed at a time; goes on where it was."""
    from vera_bringup.commands.study_ablate import run

    run(out, joints, transitions, seeds, steps, jobs, as_json)


@study.command('pusht')
def study_pusht(
    out: Annotated[Path, typer.Option(help='folder for data, checkpoints, rows, plots')] = Path(
        'runs/study_pusht'
    ),
    models: Annotated[str, typer.Option(help='trained and measured; none: skip')] = (
        'jacobian,direct_flow,direct_pair'
    ),
    seeds: Annotated[int, typer.Option(help='trainings of each model', min=1)] = 3,
    transitions: Annotated[int, typer.Option(help='self-play transitions', min=1)] = 3000,
    steps: Annotated[int, typer.Option(help='optimiser steps of each training', min=1)] = 400,
    episodes: Annotated[int, typer.Option(help='uniform starts in the loop', min=1)] = 100,
    seed: Annotated[int, typer.Option(help='of the first start', min=0)] = 2026,
    loop: Annotated[str, typer.Option(help='loops to close; expert: its own actions')] = (
        'expert,jacobian'
    ),
    checkpoint: Annotated[
        str, typer.Option(help="the jacobian's, by name or path; empty: trained here")
    ] = '',
    execute: Annotated[int, typer.Option(help='actions before the next plan', min=1)] = 3,
    quick: Annotated[
        bool, typer.Option('--quick', help='small data, short trainings, five starts')
    ] = False,
    threads: Annotated[int, typer.Option(help='CPU threads', min=1)] = 1,
    as_json: Json = False,
) -> None:
    """PushT: action error of the translators, and coverage reached with an oracle planner."""
    from vera_bringup.commands.study_pusht import run

    run(
        out, models, seeds, transitions, steps, episodes, seed, loop, checkpoint, execute, quick,
        threads, as_json,
    )


@serve.command('planner')
def serve_planner(
    embodiment: Annotated[
        str, typer.Option(help='whose plans: a name or a contract file')
    ] = 'finger',
    planner: Annotated[str, typer.Option(help="e.g. compact or wan; empty: the contract's")] = '',
    checkpoint: Annotated[str, typer.Option(help="name or path; empty: the contract's")] = '',
    host: Annotated[str, typer.Option(help='address to listen on')] = '127.0.0.1',
    port: Annotated[int, typer.Option(help='0: a free one', min=0, max=65535)] = 8000,
    token_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help='its first line is the token that clients must show'),
    ] = None,
    insecure: Annotated[
        bool, typer.Option('--insecure', help='other machines may connect without a token')
    ] = False,
    steps: Annotated[int, typer.Option(help="sampling; 0: the planner's choice", min=0)] = 0,
    threads: Annotated[int, typer.Option(help='CPU threads; 0: all cores but one', min=0)] = 0,
) -> None:
    """Make plans for the planner node (`--planner remote`) of another machine; needs no ROS here.

    See docs/how-to/remote-planner.md.
    """
    from vera_bringup.commands.serve import planner as run

    run(
        embodiment, planner, checkpoint, host, port, token_file, insecure,
        steps=steps or None, threads=threads or None,
    )


@serve.command('discovery')
def serve_discovery(
    host: Annotated[str, typer.Option(help='address to listen on')] = '127.0.0.1',
    port: Annotated[int, typer.Option(help='UDP port', min=1, max=65535)] = 11811,
    insecure: Insecure = False,
) -> None:
    """Fast DDS discovery server, where machines cannot name each other; until Ctrl-C.

    See docs/how-to/several-machines.md.
    """
    from vera_bringup.commands.serve import discovery

    discovery(host, port, insecure)


@app.command()
def cameras() -> None:
    """List the cameras that are connected to this machine: serial number, model, USB."""
    from vera_bringup.commands.calibrate import cameras as run

    run()


@calibrate.command('board')
def calibrate_board(
    out: Annotated[Path, typer.Option(help='.pdf or .png')] = Path('board.pdf'),
    columns: Columns = 7,
    rows: Rows = 5,
    square: Square = 35.0,
    marker: Marker = 0.0,
    dictionary: Dictionary = '4X4_50',
    paper: Annotated[str, typer.Option(help='a4, letter or a3')] = 'a4',
) -> None:
    """Write a ChArUco board to print, with a ruler to check the printer's scale."""
    from vera_bringup.commands.calibrate import board, make_board

    board(out, make_board(columns, rows, square, marker, dictionary), paper)


@calibrate.command('camera')
def calibrate_camera(
    embodiment: Embodiment,
    camera: Annotated[str, typer.Option(help='camera of the contract')],
    samples: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help='folder of pictures and joints; unless given they are taken now'),
    ] = None,
    count: Annotated[int, typer.Option(help='pictures to take', min=8)] = 20,
    link: Annotated[
        str, typer.Option(help="link that carries the camera, or the root; empty: the contract's")
    ] = '',
    board_link: Annotated[
        str, typer.Option(help='link that carries the board otherwise; empty: the tool')
    ] = '',
    columns: Columns = 7,
    rows: Rows = 5,
    square: Square = 35.0,
    marker: Marker = 0.0,
    dictionary: Dictionary = '4X4_50',
    driver: Annotated[str, typer.Option(help="realsense or opencv; empty: the contract's")] = '',
    source: Annotated[
        str, typer.Option(help="serial number or device; empty: the contract's")
    ] = '',
    size: Annotated[str, typer.Option(help='of the pictures that are taken')] = '640x480',
    dry_run: Annotated[
        bool, typer.Option('--dry-run', help='print the calibration, write nothing')
    ] = False,
    as_json: Json = False,
    runs: Runs = Path('runs'),
    domain: Domain = None,
    namespace: Namespace = 'vera',
) -> None:
    """Find where a camera is from pictures of a ChArUco board, and write it into the contract.

    Close the graph's camera node first; the robot's joint_states are needed, and its arm is moved
    by hand. See docs/how-to/cameras.md.
    """
    from vera_bringup.commands.calibrate import camera as run
    from vera_bringup.commands.calibrate import make_board

    run(
        embodiment, camera, samples, make_board(columns, rows, square, marker, dictionary),
        link=link, board_link=board_link, driver=driver, source=source, size=size, count=count,
        dry_run=dry_run, as_json=as_json, runs=runs, domain=domain, namespace=namespace,
    )


@models.callback()
def list_models(
    context: typer.Context,
    as_json: Json = False,
    details: Annotated[
        bool, typer.Option('--details', help='with configuration, contract and training')
    ] = False,
) -> None:
    """List the checkpoints that are shipped or found, with hash, size, training and licence."""
    from vera_bringup.commands.models import run

    if context.invoked_subcommand is None:
        run(as_json, details)


@models.command('list')
def models_list(as_json: Json = False) -> None:
    """List the checkpoints that are shipped or found; the same as `vera models`."""
    from vera_bringup.commands.models import run

    run(as_json, False)


@models.command('show')
def models_show(
    ref: Annotated[str, typer.Argument(help='name, path, or hub id OWNER/NAME[@COMMIT]')],
    as_json: Json = False,
) -> None:
    """What is known of a checkpoint or a hub model, and the memory it needs; nothing is loaded."""
    from vera_bringup.commands.models_planner import show

    show(ref, as_json)


@models.command('import')
def import_model(
    source: Annotated[
        Path, typer.Argument(help='published checkpoint: its file, or the folder that holds it')
    ],
    name: Annotated[str, typer.Option('--as', help='name of the checkpoint here')],
    embodiment: Annotated[
        str, typer.Option(help='of a translator: a name or a contract file')
    ] = '',
    gain: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help='how much of the published motion one unit of a channel is, where units differ '
            "or the checkpoint's configuration does not know; may be repeated",
            metavar='CHANNEL=NUMBER',
        ),
    ] = None,
    flow: Annotated[str, typer.Option(help='estimator to solve with')] = 'dis_lk',
    accept_licence: Annotated[
        str, typer.Option(help='licence of the weights, if it restricts their use')
    ] = '',
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help='folder; the first one where checkpoints are looked for unless given'),
    ] = None,
    planner: Annotated[
        bool, typer.Option('--planner', help='it is a video planner of the Wan family')
    ] = False,
    layout: Annotated[str, typer.Option(help='planner: size; guessed unless given')] = '',
    heads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help='planner: attention heads, where they cannot be known', min=1),
    ] = None,
    prefix: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="planner: before the transformer's names; found unless given"),
    ] = None,
    base: Annotated[
        str, typer.Option(help='planner: folder or hub id@COMMIT with autoencoder and encoders')
    ] = '',
    dtype: Annotated[str, typer.Option(help='planner: bfloat16 halves float32 weights')] = '',
    licence: Annotated[str, typer.Option(help='planner: of the weights')] = '',
) -> None:
    """Make a published checkpoint one of yours: a J-IDM of an embodiment, or a video planner.

    See docs/how-to/import-authors-checkpoints.md and docs/how-to/wan-planner.md.
    """
    if planner:
        from vera_bringup.commands.models_planner import import_wan

        import_wan(source, name, out, layout, heads, prefix, base, dtype, licence)
        return
    if not embodiment:
        raise CommandError('say what it is: --embodiment of a translator, or --planner')
    from vera_bringup.commands.models import import_published

    import_published(source, name, embodiment, out, gain or [], flow, accept_licence)


cli_bags.add_to(app, bench)


def main() -> None:
    """Entry point."""
    # A closed pipe (`vera status | head`) is no reason for a traceback.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        app(standalone_mode=True)
    except CommandError as error:
        print(f'vera: {error}', file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


if __name__ == '__main__':
    main()
