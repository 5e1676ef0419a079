"""Forward and inverse kinematics of the Panda of config/urdf."""

from pathlib import Path

import numpy as np
import pytest

from vera_core.kinematics.arm import Arm, manipulability
from vera_core.kinematics.transforms import rotation_about, rotation_from_rpy, transform
from vera_core.kinematics.urdf import UrdfError, read_urdf

URDF = Path(__file__).resolve().parents[3] / 'config' / 'urdf' / 'panda.urdf'
JOINTS = tuple(f'panda_joint{i}' for i in range(1, 8))
READY = np.array([0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4])
# Modified Denavit-Hartenberg parameters as the maker publishes them: a [m], d [m], alpha [rad].
DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
)


@pytest.fixture(scope='module')
def arm():
    return Arm.from_urdf(URDF, JOINTS, 'panda_hand_tcp')


def by_dh(q):
    """T [4, 4] of the tool from the published parameters alone."""
    T = np.eye(4)
    for (a, d, alpha), angle in zip(DH, q, strict=True):
        T = T @ transform(rotation_from_rpy((alpha, 0, 0)), (a, 0, 0))
        T = T @ transform(rotation_from_rpy((0, 0, angle)), (0, 0, d))
    return T @ transform(rotation_from_rpy((0, 0, -np.pi / 4)), (0, 0, 0.107 + 0.1034))


def random_postures(arm, count, seed=0):
    rng = np.random.default_rng(seed)
    margin = 0.1 * (arm.high - arm.low)
    return rng.uniform(arm.low + margin, arm.high - margin, (count, len(arm.low)))


def test_the_urdf_has_the_published_kinematics_and_limits(arm):
    for q in random_postures(arm, 50):
        R, p = arm.pose(q)
        expected = by_dh(q)
        np.testing.assert_allclose(R, expected[:3, :3], atol=1e-12)
        np.testing.assert_allclose(p, expected[:3, 3], atol=1e-12)
    np.testing.assert_allclose(arm.high[[1, 3, 5]], [1.7628, -0.0698, 3.7525])
    np.testing.assert_allclose(arm.low[[1, 3, 5]], [-1.7628, -3.0718, -0.0175])


def test_links_and_fingers_have_the_names_that_others_use():
    urdf = read_urdf(URDF)
    named = {*(f'panda_link{i}' for i in range(9)), 'panda_hand', 'panda_hand_tcp'}
    assert named | {'panda_leftfinger', 'panda_rightfinger'} == set(urdf.links)
    assert urdf.root == 'panda_link0'
    assert urdf.joints['panda_finger_joint1'].limits == (0.0, 0.04)
    assert urdf.joints['panda_finger_joint2'].mimic == ('panda_finger_joint1', 1.0, 0.0)
    both = Arm.from_urdf(URDF, (*JOINTS, 'panda_finger_joint1'), 'panda_leftfinger')
    gap = []
    for opening in (0.0, 0.04):
        posture = both.tree.posture(np.array([*READY, opening]))
        left, right = (
            posture.links[both.tree.link_index(f'panda_{side}finger'), :3, 3]
            for side in ('left', 'right')
        )
        gap.append(np.linalg.norm(left - right))
    np.testing.assert_allclose(gap, [0.0, 0.08], atol=1e-12)


def test_joints_unless_given_are_those_that_move_the_tool():
    assert Arm.from_urdf(URDF, None, 'panda_hand_tcp').joint_names == JOINTS


def test_jacobian_is_the_derivative_of_the_pose(arm):
    for q in random_postures(arm, 5, seed=1):
        J, (R, p) = arm.jacobian(q), arm.pose(q)
        for i in range(7):
            moved = q.copy()
            moved[i] += 1e-7
            R1, p1 = arm.pose(moved)
            W = (R1 @ R.T - np.eye(3)) / 1e-7
            np.testing.assert_allclose((p1 - p) / 1e-7, J[:3, i], atol=1e-5)
            np.testing.assert_allclose([W[2, 1], W[0, 2], W[1, 0]], J[3:, i], atol=1e-5)


def test_solves_what_it_can_reach(arm):
    """From the ready posture to poses anywhere; a few of these need another branch."""
    solved = 0
    for q in random_postures(arm, 50, seed=2):
        R, p = arm.pose(q)
        found = arm.solve(R, p, READY, rest=READY)
        assert (found.q >= arm.low).all() and (found.q <= arm.high).all()
        R1, p1 = arm.pose(found.q)
        np.testing.assert_allclose(np.linalg.norm(p1 - p), found.error_p, atol=1e-9)
        if found.converged:
            solved += 1
            assert np.linalg.norm(p1 - p) < 1e-4
            assert np.linalg.norm(R1 - R) < 2e-3
    assert solved >= 42


def test_small_steps_stay_near_and_spare_joints_return(arm):
    """A walk of 100 steps of 2 cm and 3 degrees that ends where it began."""
    rng = np.random.default_rng(3)
    R0, p0 = arm.pose(READY)
    q = READY
    for _ in range(100):
        p = p0 + rng.uniform(-0.1, 0.1, 3)
        axis = rng.normal(size=3)
        R = rotation_about(axis / np.linalg.norm(axis), rng.uniform(-0.4, 0.4)) @ R0
        for _ in range(12):
            R1, p1 = arm.pose(q)
            found = arm.solve(R1, p1 + np.clip(p - p1, -0.02, 0.02), q, rest=READY)
            assert found.converged
            assert np.abs(found.q - q).max() < 0.4
            q = found.q
        found = arm.solve(R, p, q, rest=READY)
        assert found.converged
        q = found.q
    for _ in range(30):
        q = arm.solve(R0, p0, q, rest=READY, tolerance=(1e-7, 1e-7)).q
    assert np.abs(q - READY).max() < 0.5


def test_out_of_reach_gives_the_nearest_and_says_so(arm):
    R, _ = arm.pose(READY)
    found = arm.solve(R, np.array([1.5, 0.0, 0.3]), READY)
    assert not found.converged
    # Stretched out as far as the wrist's orientation lets it: 0.855 m of reach and the hand below.
    assert 0.4 < found.error_p < 1.0
    again = arm.solve(R, np.array([1.5, 0.0, 0.3]), READY)
    np.testing.assert_array_equal(found.q, again.q)


def test_a_joint_at_its_limit_does_not_block_the_others(arm):
    """The tool turned until joint 7 is at its limit: the position is kept all the same."""
    q = READY.copy()
    q[6] = arm.high[6]
    R, p = arm.pose(q)
    found = arm.solve(R, p + np.array([0.03, 0.0, 0.02]), q)
    assert found.converged
    assert found.q[6] <= arm.high[6]


def test_only_named_axes_count(arm):
    R, p = arm.pose(READY)
    axes = [True, True, True, False, False, False]
    found = arm.solve(R, p + np.array([0.0, 0.25, 0.0]), READY, axes=axes)
    assert found.converged
    assert np.linalg.norm(arm.pose(found.q)[0] - R) > 0.01


def test_manipulability_is_lost_at_a_singular_posture(arm):
    # Joint 2 and 4 straight: the elbow and the shoulder turn about the same line.
    straight = READY.copy()
    straight[[1, 3, 5]] = 0.0
    assert manipulability(arm.jacobian(READY)) > 0.05
    assert manipulability(arm.jacobian(straight)) < 1e-6


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda a: a.solve(np.eye(3), np.full(3, np.nan), READY), 'finite'),
        (lambda a: a.solve(np.eye(3), np.zeros(2), READY), r'p \[3\]'),
        (lambda a: a.pose(np.zeros(6)), '7 joints are needed'),
        (lambda a: a.pose(np.full(7, np.nan)), 'finite'),
        (lambda a: Arm(a.tree, 'panda_hnd'), "did you mean 'panda_hand'"),
        (lambda a: Arm(a.tree, 'panda_link0'), 'no joint'),
        (lambda a: Arm(a.tree, 'panda_hand', (np.zeros(3), np.ones(3))), 'limits of 3 joints'),
    ],
)
def test_mistakes_are_named(arm, call, message):
    with pytest.raises(UrdfError, match=message):
        call(arm)
