"""Rotations: round trips, edges, and the same results whichever library does the work."""

from __future__ import annotations

import importlib
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vera_core import rotations
from vera_core.rotations import (
    matrix_from_quaternion,
    matrix_from_rotation_vector,
    matrix_from_rpy,
    quaternion_from_matrix,
    quaternion_from_rotation_vector,
    rotation_vector,
    rotation_vector_from_quaternion,
    rpy_from_matrix,
)

part = st.floats(-1, 1, allow_nan=False)
axes = st.tuples(part, part, part).filter(lambda v: np.linalg.norm(v) > 1e-3)
tiny = st.sampled_from([0.0, 1e-300, 1e-15, 1e-10, 1e-9, 1e-8, 1e-5])
angles = st.one_of(st.floats(0, np.pi - 1e-6), tiny, tiny.map(lambda x: np.pi - 1e-6 - x))


def rodrigues(v):
    """exp([v]x) by the series, nothing of the module under test."""
    x, y, z = v
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    total, term = np.eye(3), np.eye(3)
    for n in range(1, 40):
        term = term @ K / n
        total = total + term
    return total


@given(axes, angles)
def test_a_rotation_vector_survives_the_way_through_every_other_form(axis, angle):
    v = angle * np.array(axis) / np.linalg.norm(axis)
    R = matrix_from_rotation_vector(v)
    np.testing.assert_allclose(R, rodrigues(v), atol=1e-13)
    # Near half a turn a matrix knows the sign of its axis only to the rounding over the distance.
    tolerance = 1e-8 if angle > 3.1 else 1e-13
    np.testing.assert_allclose(rotation_vector(R), v, atol=tolerance)
    q = quaternion_from_rotation_vector(v)
    np.testing.assert_allclose(rotation_vector_from_quaternion(q), v, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(quaternion_from_matrix(R), q, atol=tolerance)
    np.testing.assert_allclose(matrix_from_quaternion(-q), R, atol=1e-14)
    np.testing.assert_allclose(matrix_from_quaternion(7 * q), R, atol=1e-13)


@given(axes, angles)
def test_quaternions_have_length_one_and_w_first_never_negative(axis, angle):
    q = quaternion_from_matrix(matrix_from_rotation_vector(angle * np.array(axis)))
    assert np.linalg.norm(q) == pytest.approx(1, abs=1e-14)
    assert q[3] >= 0


@pytest.mark.parametrize('axis', np.eye(3))
def test_half_a_turn_has_one_quaternion(axis):
    R = 2 * np.outer(axis, axis) - np.eye(3)
    np.testing.assert_allclose(np.abs(quaternion_from_matrix(R)), [*axis, 0], atol=1e-12)
    assert np.linalg.norm(rotation_vector(R)) == pytest.approx(np.pi)
    np.testing.assert_array_equal(
        rotation_vector_from_quaternion([*-axis, 0]), rotation_vector_from_quaternion([*axis, 0])
    )


def test_the_convention():
    """x, y, z, w; p_parent = R p_child; fixed axes: written out once."""
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])  # about z: x becomes y
    h = np.sqrt(0.5)
    np.testing.assert_allclose(quaternion_from_matrix(quarter), [0, 0, h, h], atol=1e-15)
    np.testing.assert_allclose(matrix_from_quaternion([0, 0, h, h]), quarter, atol=1e-15)
    np.testing.assert_allclose(rotation_vector(quarter), [0, 0, np.pi / 2], atol=1e-15)
    about_z, about_x = (matrix_from_rotation_vector(v) for v in ([0, 0, 0.3], [0.2, 0, 0]))
    np.testing.assert_allclose(matrix_from_rpy([0.2, 0, 0.3]), about_z @ about_x, atol=1e-15)


@given(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1))
def test_roll_pitch_and_yaw_come_back(roll, pitch, yaw):
    R = matrix_from_rpy([roll, pitch, yaw])
    np.testing.assert_allclose(rpy_from_matrix(R), [roll, pitch, yaw], atol=1e-12)


def test_looking_straight_up_still_gives_the_same_rotation():
    R = matrix_from_rpy([0.4, np.pi / 2, 0.7])
    np.testing.assert_allclose(matrix_from_rpy(rpy_from_matrix(R)), R, atol=1e-12)


@pytest.mark.parametrize(
    ('function', 'value', 'words'),
    [
        (quaternion_from_matrix, np.eye(4), r'not \(4, 4\)'),
        (quaternion_from_matrix, np.full((3, 3), np.nan), '3 x 3 finite numbers'),
        (quaternion_from_matrix, 2 * np.eye(3), 'differs from the identity by 3'),
        (rotation_vector, np.diag([1, 1, -1]), 'a reflection'),
        (matrix_from_quaternion, [0, 0, 0, 0], r'no turn at all is \[0, 0, 0, 1\]'),
        (matrix_from_quaternion, [0, 0, 1], 'no quaternion'),
        (matrix_from_quaternion, [0, 0, np.inf, 1], 'no quaternion'),
        (matrix_from_rotation_vector, [0, np.nan, 0], 'no rotation vector'),
        (matrix_from_rpy, [0, 1], 'no roll, pitch, yaw'),
        (rpy_from_matrix, np.ones((3, 3)), 'no rotation'),
    ],
)
def test_what_is_no_rotation_is_refused_in_words(function, value, words):
    with pytest.raises(ValueError, match=words):
        function(value)


def ros_module():
    """A fake tf_transformations: the real one's interface, x, y, z, w and 4 x 4, own formulas."""
    module = types.ModuleType('tf_transformations')

    def quaternion_matrix(q):
        x, y, z, w = q
        T = np.eye(4)
        T[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        return T

    def quaternion_from_matrix(T):
        R = np.asarray(T)[:3, :3]
        # All four candidates of Shepperd's method; the longest is the exact one. Any sign.
        squares = np.array(
            [
                [1 + R[0, 0] - R[1, 1] - R[2, 2], R[0, 1] + R[1, 0], R[0, 2] + R[2, 0], 0],
                [0, 1 - R[0, 0] + R[1, 1] - R[2, 2], R[1, 2] + R[2, 1], 0],
                [0, 0, 1 - R[0, 0] - R[1, 1] + R[2, 2], 0],
                [R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1], 1 + np.trace(R)],
            ]
        )
        squares = squares + np.tril(squares, -1).T + np.triu(squares, 1).T
        best = squares[np.argmax(np.diag(squares))]
        return -best / np.linalg.norm(best)

    def euler_matrix(roll, pitch, yaw, axes):
        assert axes == 'sxyz'
        T = np.eye(4)
        T[:3, :3] = rodrigues([0, 0, yaw]) @ rodrigues([0, pitch, 0]) @ rodrigues([roll, 0, 0])
        return T

    def euler_from_matrix(T, axes):
        assert axes == 'sxyz'
        pitch = np.arctan2(-T[2, 0], np.hypot(T[0, 0], T[1, 0]))
        return np.arctan2(T[2, 1], T[2, 2]), pitch, np.arctan2(T[1, 0], T[0, 0])

    for function in (quaternion_matrix, quaternion_from_matrix, euler_matrix, euler_from_matrix):
        setattr(module, function.__name__, function)
    return module


@pytest.fixture
def with_ros(monkeypatch):
    """The module as a ROS installation has it: with the real library where there is one."""
    try:
        import tf_transformations  # noqa: F401
    except ImportError:
        monkeypatch.setitem(sys.modules, 'tf_transformations', ros_module())
    yield fresh()


@pytest.fixture
def without_ros(monkeypatch):
    monkeypatch.setitem(sys.modules, 'tf_transformations', None)
    yield fresh()


def fresh():
    """A further copy of the module, imported in the present surroundings."""
    spec = importlib.util.find_spec('vera_core.rotations')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_libraries_give_the_same(with_ros, without_ros):
    assert with_ros._tf is not None and without_ros._tf is None
    rng = np.random.default_rng(0)
    for _ in range(300):
        v = rng.normal(size=3)
        v *= rng.uniform(0, 3.0) / np.linalg.norm(v)
        rpy = rng.uniform(-1.4, 1.4, 3)
        R = without_ros.matrix_from_rotation_vector(v)
        for name, value in (
            ('matrix_from_rotation_vector', v),
            ('quaternion_from_rotation_vector', v),
            ('quaternion_from_matrix', R),
            ('matrix_from_quaternion', rng.normal(size=4)),
            ('rotation_vector', R),
            ('matrix_from_rpy', rpy),
            ('rpy_from_matrix', without_ros.matrix_from_rpy(rpy)),
        ):
            one, other = getattr(with_ros, name)(value), getattr(without_ros, name)(value)
            np.testing.assert_allclose(one, other, atol=1e-12, err_msg=name)


def test_with_neither_library_the_error_says_what_to_install(monkeypatch):
    for name in ('tf_transformations', 'transforms3d'):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match='pip install transforms3d'):
        fresh()


def test_every_public_function_is_listed():
    public = {n for n in vars(rotations) if n.split('_')[0] in ('matrix', 'quaternion', 'rotation')}
    assert public | {'rpy_from_matrix'} == set(rotations.__all__)
