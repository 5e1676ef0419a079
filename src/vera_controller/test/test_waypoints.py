"""Actions of the Panda's tool and gripper as joint positions."""

import time

import numpy as np
import pytest

from vera_controller.waypoints import (
    ImplausibleChunkError,
    SafetyError,
    UnsupportedChannelError,
    Waypoints,
)
from vera_core.chunk import ActionChunk
from vera_core.contract import load_contract
from vera_core.kinematics.arm import Arm
from vera_core.kinematics.transforms import rotation_about

GATE = {'gripper': {'close_below': 0.4, 'open_above': 0.6}}
PANDA = load_contract('panda', GATE)
HOME = PANDA.home_positions
LOW = HOME + np.array([0, 0.3, 0, -0.3, 0, 0.1, 0, 0])
ARM = Arm.from_urdf(PANDA.resolve(PANDA.kinematics.urdf), PANDA.joint_names, 'panda_hand_tcp')


def chunk(rows, contract=PANDA, channels=None, period=0.2):
    rows = np.atleast_2d(np.asarray(rows, np.float64))
    channels = channels or contract.channel_names
    return ActionChunk(
        stamp=0, goal_id=1, plan_seq=7, channels=tuple(channels), period=period, values=rows,
        residual=np.zeros(len(rows), np.float32),
        observability=np.ones(len(channels), np.float32),
    )


def move(x=0.0, y=0.0, z=0.0, rx=0.0, ry=0.0, rz=0.0, gripper=1.0):
    return [x, y, z, rx, ry, rz, gripper]


@pytest.fixture(scope='module')
def waypoints():
    return Waypoints(PANDA)


def poses(route):
    return [ARM.pose(q) for q in route.knots]


def test_the_tool_goes_where_the_deltas_lead(waypoints):
    """In the axes of the base, turned about the tool itself; the gripper is no part of that."""
    rows = [move(x=0.03), move(y=-0.02, rz=0.1), move(z=-0.03, rx=0.1, ry=0.05), move(x=-0.01)]
    route = waypoints(chunk(rows), HOME)
    assert not route.notes
    R, p = ARM.pose(HOME)
    for row, (R1, p1) in zip(rows, poses(route)[1:], strict=True):
        p = p + row[:3]
        angle = np.linalg.norm(row[3:6])
        if angle:
            R = rotation_about(np.array(row[3:6]) / angle, angle) @ R
        np.testing.assert_allclose(p1, p, atol=2e-4)
        np.testing.assert_allclose(R1, R, atol=2e-3)


def test_the_anchor_is_where_it_starts_whatever_the_order_of_channels(waypoints):
    q = HOME + np.array([0.2, 0.1, -0.1, 0.1, 0, 0.1, 0, -0.01])
    names = tuple(reversed(PANDA.channel_names))
    route = waypoints(chunk([move(x=0.03, gripper=0.0)[::-1]], channels=names), q)
    np.testing.assert_allclose(route.knots[0, :7], q[:7])
    _, p = ARM.pose(q)
    np.testing.assert_allclose(poses(route)[1][1] - p, [0.03, 0, 0], atol=2e-4)
    assert route.knots[1, 7] == 0.0


def test_there_and_back_ends_where_it_began(waypoints):
    rows = [move(y=0.03), move(y=0.03), move(y=-0.03), move(y=-0.03)]
    route = waypoints(chunk(rows), HOME)
    np.testing.assert_allclose(route.knots[4, :7], HOME[:7], atol=0.02)


def test_the_gripper_has_a_gate_with_hysteresis(waypoints):
    values = [1.0, 0.5, 0.45, 0.39, 0.5, 0.59, 0.61, 0.5]
    route = waypoints(chunk([move(gripper=v) for v in values]), HOME)
    assert route.knots[1:, 7].tolist() == [0.04] * 3 + [0.0] * 3 + [0.04] * 2
    # What it was told counts, not where the fingers are: they are round a thing.
    held = HOME.copy()
    held[7] = 0.025
    told = np.array([False] * 7 + [True])
    route = waypoints(chunk([move(gripper=0.5)]), held, told)
    assert route.knots[1, 7] == 0.0


def test_without_a_gate_the_gripper_follows_its_ratio():
    contract = load_contract('panda', {'gripper': None})
    route = Waypoints(contract)(chunk([move(gripper=v) for v in (0.25, -3, 9)], contract), HOME)
    np.testing.assert_allclose(route.knots[1:, 7], [0.01, 0.0, 0.04])


def test_the_workspace_stops_the_tool_and_that_is_said(waypoints):
    route = waypoints(chunk([move(z=-0.049)] * 6), LOW)
    low = PANDA.safety.workspace.z[0]
    heights = [p[2] for _, p in poses(route)]
    assert min(heights) > low
    assert heights[-1] == pytest.approx(low, abs=5e-3)
    assert route.notes[-1] == 'action 5: the tool stays in its workspace'
    route = waypoints(chunk([move(x=-0.06)] * 3), HOME)
    assert poses(route)[-1][1][0] == pytest.approx(0.2, abs=5e-3)
    assert route.notes == tuple(f'action {k}: the tool stays in its workspace' for k in (1, 2))


def test_out_of_reach_goes_as_near_as_it_can_and_comes_back_at_once():
    """The arm stretched out: what it cannot do is not made up for later."""
    contract = load_contract('panda', {'safety': None})
    waypoints = Waypoints(contract)
    q = HOME.copy()
    q[[1, 3, 5]] = 0.9, -0.35, 1.4
    route = waypoints(chunk([move(x=0.05)] * 4 + [move(x=-0.05)] * 2, contract), q)
    reach = [float(pose[1][0]) for pose in poses(route)]
    assert any('short' in note for note in route.notes), reach
    assert max(reach) < 0.9
    assert int(np.argmax(reach)) == 4
    assert reach[-1] < max(reach) - 0.03
    steps = np.abs(np.diff(route.knots[:, :7], axis=0))
    assert (steps <= contract.velocity_limits[:7] * 0.2 + 1e-9).all()


def test_a_joint_at_its_limit_is_named(waypoints):
    q = HOME.copy()
    q[6] = PANDA.position_limits[1][6] - 0.01
    # Turning about the tool's own axis is the business of joint 7, which has no way left.
    R, _ = ARM.pose(q)
    turn = 0.3 * R[:, 2]
    turn = turn if waypoints(chunk([[0, 0, 0, *turn, 1]]), q).notes else -turn
    route = waypoints(chunk([[0, 0, 0, *turn, 1]] * 4), q)
    assert any('panda_joint7 at its limit' in note for note in route.notes), route.notes
    assert (route.knots[:, :7] <= PANDA.position_limits[1][:7]).all()


@pytest.mark.parametrize(
    ('rows', 'words'),
    [
        ([move(x=0.2)], r'action 0 of plan 7 moves the tool by 0\.2 m; .* an action is 0\.1'),
        ([move(rx=0.4, ry=0.4)], r'the tool by 0\.566 rad; .* an action is 0\.5'),
        ([move(x=0.09)] * 4, r'action 3 .* before it move the tool by 0\.36 m; .* chunk is 0\.3'),
    ],
)
def test_budgets_refuse_what_no_plan_can_mean(waypoints, rows, words):
    with pytest.raises(ImplausibleChunkError, match=words):
        waypoints(chunk(rows), HOME)


def test_joint_actions_have_budgets_too():
    contract = load_contract('panda_joints')
    waypoints = Waypoints(contract)
    ok = waypoints(chunk([[0.05, 0, 0, 0, 0, 0, 0, 1]] * 4, contract), HOME)
    np.testing.assert_allclose(ok.knots[-1, 0], 0.2)
    for rows, words in (
        ([[0.32, 0, 0, 0, 0, 0, 0, 1]], 'panda_joint1 by 0.32 rad in 0.2 s'),
        ([[0.0, 0, 0, 0, 0, 0, 0.29, 1]] * 6, r'panda_joint7 by 1.74 rad; the budget of a chunk'),
        ([[0.28, 0, 0, 0, 0, 0, 0, 1]] * 4, r'the tool by 0\.\d+ m; the budget of a chunk'),
    ):
        with pytest.raises(ImplausibleChunkError, match=words):
            waypoints(chunk(rows, contract, period=0.2), HOME)


def test_what_cannot_be_executed_is_refused_by_name():
    for change, kind, words in (
        ({'kinematics.axes.y': None}, UnsupportedChannelError, "channel 'y' has no axis"),
        ({'kinematics.urdf': 'none.urdf'}, SafetyError, 'none.urdf cannot be read'),
        (
            {'channels.x': {'kind': 'joint_delta', 'unit': 'rad', 'joint': 'panda_joint2'},
             'kinematics.axes.x': None},
            UnsupportedChannelError,
            'panda_joint2 is moved by the tool and by a channel of its own',
        ),
    ):
        with pytest.raises(kind, match=words):
            Waypoints(load_contract('panda', change))


def test_a_chunk_takes_milliseconds(waypoints):
    rng = np.random.default_rng(0)
    times = []
    for _ in range(20):
        rows = np.c_[rng.normal(0, 0.015, (4, 3)), rng.normal(0, 0.05, (4, 3)), np.ones(4)]
        begin = time.perf_counter()
        waypoints(chunk(rows), HOME)
        times.append(time.perf_counter() - begin)
    print(f'4 actions of the tool: best {min(times) * 1e3:.1f} ms')
    assert min(times) < 0.02


def test_the_same_chunk_gives_the_same_bits(waypoints):
    one = waypoints(chunk([move(x=0.03, rz=0.1)] * 4), HOME).knots
    assert one.tobytes() == waypoints(chunk([move(x=0.03, rz=0.1)] * 4), HOME).knots.tobytes()
