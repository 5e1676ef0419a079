"""No command of the documentation is wrong, and each is run somewhere.

Commands are taken from the blocks of README.md, CONTRIBUTING.md and docs/, code within sentences
from there, too. What they name is looked up in the code. How each is run says RUNS: the first rule
that matches. A command that no rule matches fails.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest
from typer.testing import CliRunner

import command_checks
import docs_pages
from command_checks import NotPossible
from docs_pages import ROOT, Command
from graph_tools import Vera, unique_domain
from vera_bringup.cli import app


@dataclass(frozen=True)
class Rule:
    """How commands are run that match `pattern` from their beginning.

    Attributes:
        quick: here, as they are, in every run of the tests.
        short: here, among the slow tests, followed by these options, which make them short.
        up: here, among the slow tests: a graph that is started, and what its page says to it.
        test: by this test of the repository, `file::name`.
        reason: why nothing runs them.
    """

    pattern: str
    quick: bool = False
    short: str | None = None
    up: bool = False
    test: str = ''
    reason: str = ''


BRINGUP = 'src/vera_bringup/test/'
COLLECT = 'tests/test_collect.py::test_live_self_play_is_measured_by_the_joints'
REAL = 'moves or asks a real robot or camera'
WEIGHTS = 'needs published weights, and hours to fetch them'
GPUS = 'needs GPUs'
NETWORK = 'changes the machine or needs the network'
OTHERS_FILES = 'needs a file of the reader'

HOSTS = 'tests/test_two_hosts.py::'

RUNS = (
    # Several machines.
    Rule(r'vera doctor --peers', test=HOSTS + 'test_the_doctor_sees_both_hosts_and_their_clocks'),
    Rule(r'vera doctor$',
         test='tests/test_doctor.py::test_every_line_says_why_and_each_warning_has_a_cure'),
    Rule(r'vera (up|goal|status) .*--(peers|discovery-server)',
         test=HOSTS + 'test_the_loop_holds_while_the_network_is_cut_and_goes_on_afterwards'),
    Rule(r'vera serve discovery',
         test=BRINGUP + 'test_network.py::test_a_discovery_server_is_served_and_ended'),
    Rule(r'ros2 security', reason='SROS2 comes with a ROS installation'),
    # What cannot be run here.
    Rule(r'vera .*--no-use-fake-hardware', reason=REAL),
    Rule(r'vera (doctor|calibrate camera) .*', reason=REAL),
    Rule(r'vera collect ./my_robot.yaml', reason=REAL),
    Rule(r'python -m vera_controller.nodes.controller_node .*', reason=REAL),
    Rule(r'ros2 launch .*use_fake_hardware:=false', reason=REAL),
    Rule(r'(torchrun|accelerate) ', reason=GPUS),
    Rule(r'hf download ', reason=WEIGHTS),
    Rule(r'vera models import .*--planner',
         test='tests/test_models_planner.py::test_import_list_show_open'),
    Rule(r'vera models import authors/',
         test='tests/test_models_import.py::test_import_list_translate'),
    Rule(r'vera (up|models show) .*(authors_pusht|Skywork|mimicgen)', reason=WEIGHTS),
    Rule(r'(sudo|apt|pip|uvx|colcon|rosdep) ', reason=NETWORK),
    Rule(r'python -m pip ', reason=NETWORK),
    Rule(r'(rviz2|FRANKA=)', reason='rviz2 comes with a ROS installation and needs a screen'),
    Rule(r'vera (train (video|idm)|up) .*\bmy(_robot)?\.yaml', reason=OTHERS_FILES),
    Rule(r'python scripts/analytic_pictures.py ',
         test='tests/test_docs_commands.py::test_the_links_of_an_arm_are_drawn'),
    # The Makefile and the tests themselves.
    Rule(r'make demo', test='tests/test_demo.py::test_demo_with_the_compact_planner'),
    Rule(r'make (setup|test|lint)', reason='this is how these tests are run: .ci/run'),
    Rule(r'make docs', test='tests/test_docs.py::test_the_site_builds_without_a_warning'),
    Rule(r'make clean', reason='it would take this environment away'),
    Rule(r'python -m pytest ', reason='this is how these tests are run'),
    # ROS 2's own tools, where they are installed.
    Rule(r'ros2 launch ', test='tests/test_launch_parity.py'),
    Rule(r'ros2 ', test='tests/test_ros2_tools.py'),
    # Quick ones.
    Rule(r'vera( \w+)* --help', quick=True),
    Rule(r'vera models( list)?( --json)?$', quick=True),
    Rule(r'vera cameras$', quick=True),
    Rule(r'vera calibrate board', quick=True),
    # Recordings and data sets.
    Rule(r'vera (record|replay|repair|export lerobot|import lerobot)',
         test='tests/test_record_live.py::test_record_kill_repair_replay_export'),
    Rule(r'vera bench record', short='--seconds 5'),
    Rule(r'vera up .*--translator-checkpoint runs/',
         test='tests/test_own_data.py::test_the_path_from_self_play_to_a_robot'),
    Rule(r'vera up .*--planner remote', test='src/vera_planner/test/test_remote_planner.py'),
    Rule(r'vera up .*--planner wan',
         test=BRINGUP + 'test_train_video.py::test_one_step_leaves_a_planner_and_says_where'),
    # A graph, and what is said to it.
    Rule(r'vera up ', up=True),
    Rule(r'vera (goal|status|stop|reset)', up=True),
    Rule(r'vera demo', short='--goals 1 --json'),
    Rule(r'vera collect .*--live', test=COLLECT),
    Rule(r'vera collect .*--from', test=COLLECT),
    Rule(r'vera serve planner',
         test=BRINGUP + 'test_serve_planner.py::test_served_without_ros_a_plan_is_the_same'),
    # Long ones, made short.
    Rule(r'vera eval .*--ray',
         test='tests/test_evaluation_harness.py::test_ray_gives_the_same_episodes'),
    Rule(r'vera eval ', short='--episodes 1 --frames 4'),
    Rule(r'vera collect ', short='--transitions 20'),
    Rule(r'vera train idm ', short='--transitions 40 --steps 2'),
    Rule(r'vera train planner .*--network', short='--clips 20 --steps 2'),
    Rule(r'vera train planner ', short='--clips 20 --pictures 40 --codec-steps 2 --steps 2'),
    Rule(r'vera train video .*train_compact', short='--steps 1'),
    Rule(r'vera study dreams',
         test='tests/test_evaluation_harness.py::test_dreams_and_reality_of_some_variants'),
    Rule(r'vera study finger',
         test='tests/test_study_finger.py::test_a_small_study_runs_and_goes_on'),
    Rule(r'vera study ablate', short='--transitions 64 --steps 2 --seeds 1 --joints 2'),
    Rule(r'vera study honesty',
         test='tests/test_study_honesty.py::test_the_command_writes_table_curves_and_calibration'),
    Rule(r'vera study gate',
         test=BRINGUP + 'test_gate_study.py::test_the_command_writes_table_picture_and_thresholds'),
    Rule(r'vera study pusht', test=BRINGUP + 'test_pusht_study.py'),
    Rule(r'vera bench transport', short='--seconds 1'),
    Rule(r'vera bench control',
         test='tests/test_control_bench.py::test_the_promise_is_kept_beside_a_planner'),
    Rule(r'vera bench cockpit', short='--seconds 5 --pairs 1'),
    Rule(r'vera bench remote',
         test=BRINGUP + 'test_serve_planner.py::test_what_a_server_costs_is_measured'),
    Rule(r'vera bench video', short='--clips 2 --frames 4'),
    Rule(r'vera bench words', short='--scenes 2'),
    Rule(r'vera bench flow', short='--pairs 2 --joints 2 --flow dis'),
    Rule(r'vera bench translate', short='--repeats 10'),
    Rule(r'vera bench planner --checkpoint FOLDER', reason=OTHERS_FILES),
    Rule(r'vera bench planner .*--option (all|compile)',
         test=BRINGUP + 'test_planner_bench.py::test_a_size_of_a_gpu_is_the_tiny_one_without_one'),
    Rule(r'vera bench planner', short='--repeats 2 --scenes 1 --steps 2 --threads 1'),
    Rule(r'vera bench loop',
         short='--episodes 1 --modes sync --planner-latency 0 --embodiment finger'),
)  # fmt: skip

#: Programs of the system: what stands beside them is not ours to check.
SYSTEM = {
    'cat', 'cd', 'chmod', 'cp', 'curl', 'docker', 'echo', 'export', 'gh', 'git', 'head', 'base64',
    'ip', 'kill', 'ls', 'mkdir', 'mv', 'scp', 'source', 'ssh', 'sudo', 'sysctl', 'tail', 'tar',
    'pgrep', 'umask', 'unset', 'watch', 'xdg-open', 'chronyc', 'fastdds', 'ping', 'rm', 'rsync',
    'test', 'wait',
}  # fmt: skip


def rule_of(command: Command) -> Rule | None:
    for rule in RUNS:
        if re.match(rule.pattern, command.text):
            return rule
    return None


def ours() -> list[Command]:
    """Commands of our own programs, or about them; shell variables and system programs left out."""
    found = []
    for command in docs_pages.commands():
        program = Path(command.words[0]).name
        if program not in SYSTEM and not re.match(r'^\w+=', command.words[0]):
            found.append(command)
    return found


def unique(commands: list[Command]) -> list[Command]:
    return list({command.text: command for command in commands}.values())


def test_there_are_commands():
    assert len(ours()) > 40
    assert len(docs_pages.inline_commands()) > 40


def test_blocks_with_commands_say_that_they_are_shell():
    wrong = {
        str(page.relative_to(ROOT)): lines
        for page in docs_pages.pages()
        if (lines := docs_pages.unnamed_shell_blocks(page))
    }
    assert not wrong, f'write ```sh there: {wrong}'


def test_every_command_of_a_block_is_possible():
    wrong = []
    for command in ours():
        try:
            command_checks.check(command.words)
        except NotPossible as error:
            wrong.append(f'{command}: {error}')
    assert not wrong, '\n'.join(wrong)


def test_every_command_within_a_sentence_is_possible():
    wrong = []
    for command in docs_pages.inline_commands():
        try:
            command_checks.check(command.words, complete=False)
        except (NotPossible, IndexError) as error:
            wrong.append(f'{command}: {error}')
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize(
    'words',
    [
        'vera fly', 'vera up finger --gat on', 'vera eval finger --jobs 0', 'make tee',
        'python -m vera_nothing', 'python scripts/setup.py --cpu',
        'python -m pip install rich==0.1',
        'ros2 launch vera_bringup hand.launch.py', 'ros2 launch vera_bringup panda.launch.py ip:=1',
        'ros2 topic hz /vera/front/image', 'ros2 service call /vera/halt std_srvs/srv/Trigger',
        "ros2 service call /vera/set_goal vera_msgs/srv/SetGoal '{words: hello}'",
        'ros2 param set /vera/planner seed 3', 'ros2 param set /vera/planner patience 3',
        'python -m vera_controller.nodes.controller_node --ros-args -p arm:=fer',
    ],
)  # fmt: skip
def test_a_wrong_command_is_noticed(words):
    ((_, parsed),) = docs_pages.parse_line(words)
    with pytest.raises(NotPossible):
        command_checks.check(parsed)


def test_every_command_is_run_somewhere():
    unknown = [str(c) for c in unique(ours()) if rule_of(c) is None]
    assert not unknown, 'no rule of RUNS says how these are run:\n' + '\n'.join(unknown)


def test_the_tests_that_run_commands_exist():
    for rule in RUNS:
        kinds = [rule.quick, rule.short is not None, rule.up, bool(rule.test), bool(rule.reason)]
        assert kinds.count(True) == 1, rule
        if rule.test:
            file, _, name = rule.test.partition('::')
            text = (ROOT / file).read_text()
            assert f'def {name}' in text, rule.test


def test_no_rule_is_idle():
    used = {rule_of(command) for command in (*ours(), *docs_pages.inline_commands())}
    idle = [rule.pattern for rule in RUNS if rule not in used]
    assert not idle, f'no command of the documentation matches {idle}'


# Run -----------------------------------------------------------------------------------------


def workplace(folder: Path) -> Path:
    """A folder that looks like the clone and is nobody's."""
    for name in ('config', 'launch', 'src', 'requirements', 'scripts', 'Makefile'):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / 'docs', folder / 'docs')
    for name in ('my_robot.yaml', 'arm.urdf'):
        shutil.copy(ROOT / 'docs' / 'how-to' / 'example' / name, folder)
    return folder


def execute(
    command: Command, folder: Path, more: str = '', codes: tuple[int, ...] = (0,)
) -> None:
    """Run it as it stands, followed by `more`."""
    program, *rest = command.words
    start = {
        'vera': [sys.executable, '-m', 'vera_bringup.cli'], 'python': [sys.executable]
    }[program]  # fmt: skip
    with subprocess.Popen(
        [*start, *rest, *more.split()], cwd=folder, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, 'ROS_DOMAIN_ID': str(unique_domain())},
    ) as running:  # fmt: skip
        try:
            said, _ = running.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)  # its workers, too
            said = running.communicate()[0] + '\nnot over after 240 s'
    assert running.returncode in codes, f'{command}: {running.returncode}\n{said[-3000:]}'
    assert 'Traceback' not in said, f'{command}\n{said[-3000:]}'


def ruled(commands: list[Command], what: Callable[[Rule], bool]) -> list[Command]:
    """Commands with a rule of a kind."""
    return [c for c in unique(commands) if (rule := rule_of(c)) and what(rule)]


QUICK = ruled([*ours(), *docs_pages.inline_commands()], lambda rule: rule.quick)
TALK = [('vera', word) for word in ('goal', 'status', 'stop', 'reset')]
UP = [c for c in ruled(ours(), lambda rule: rule.up) if c.words[1] == 'up']


def blocks() -> list[list[Command]]:
    """Long commands block by block, without the blocks that bring nothing new."""
    known: set[str] = set()
    found = []
    made_short = [c for c in ours() if (rule := rule_of(c)) and rule.short is not None]
    for _, group in groupby(made_short, key=lambda c: (c.page, c.block)):
        block = list(group)
        if new := {c.text for c in block} - known:
            known |= new
            found.append(block)
    return found


def test_quick_commands_run(tmp_path, monkeypatch):
    assert len(QUICK) >= 4
    monkeypatch.chdir(workplace(tmp_path))
    for command in QUICK:
        done = CliRunner().invoke(app, list(command.words[1:]))
        assert done.exit_code == 0, f'{command}: {done.output}'


@pytest.mark.slow
@pytest.mark.parametrize('block', blocks(), ids=lambda block: f'{block[0].page}: {block[0].text}')
def test_long_commands_run_when_they_are_made_short(block, tmp_path):
    folder = workplace(tmp_path)
    for command in block:  # one after the other: what the block did before is there
        # 1: it ran, and the number that it promises was not reached in so short a time.
        execute(command, folder, rule_of(command).short, (0, 1))


@pytest.mark.slow
@pytest.mark.parametrize('command', UP, ids=lambda c: c.text)
def test_graphs_start_and_do_what_they_are_told(command, tmp_path):
    folder = workplace(tmp_path)
    domain = str(unique_domain())
    graph = Vera(*command.words[1:], '--domain', domain, cwd=folder)
    try:
        graph.wait_for('all nodes are ready', 120.0)
        for other in docs_pages.commands():
            if other.page == command.page and other.words[:2] in TALK:
                # A goal of a page may name what this scene does not have: 1, told in words.
                execute(other, folder, f'--domain {domain}', codes=(0, 1))
        assert graph.end() == 0, graph.text
    finally:
        graph.kill()


@pytest.mark.slow
def test_the_links_of_an_arm_are_drawn(tmp_path):
    from PIL import Image

    folder = workplace(tmp_path)
    Image.new('RGB', (256, 192)).save(folder / 'frame.png')
    joints = '0.1 -0.8 0.0 -2.3 0.0 1.6 0.8'
    words = 'python scripts/analytic_pictures.py docs/how-to/example/arm.yaml out.png'
    picture = Command('', 0, 0, tuple(words.split()))
    execute(picture, folder, f'--canvas frame.png --joints {joints}')
    assert (folder / 'out.png').read_bytes().startswith(b'\x89PNG')
