"""Pictures of the finger against their analytic flow and Jacobian."""

import cv2
import numpy as np
import pytest

from vera_sim import FingerEnv
from vera_sim.finger_painter import PALETTE


@pytest.mark.parametrize('size', [32, 64, 100, 256])
def test_pictures_come_in_any_size_and_show_the_same_scene(size):
    env = FingerEnv(size=size)
    env.reset(2)
    image = env.render()
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    big = FingerEnv(size=512)
    big.reset(2)
    small = cv2.resize(big.render(), (size, size), interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - small).mean() < 6


def test_edges_are_anti_aliased():
    env = FingerEnv(size=64, discs=1)
    env.reset(0)
    name, centre = env.discs[0]
    row = env.render()[int(centre[1])].astype(int)
    away = np.abs(row - np.array(PALETTE[name])).sum(-1)
    edge = (away > 40) & (away < 250)
    assert edge.any()


def test_discs_are_drawn_where_they_are_in_their_colours():
    env = FingerEnv(size=128)
    env.reset(4)
    image = env.render()
    for name, centre in env.discs:
        x, y = (centre * 2).astype(int)
        assert np.abs(image[y, x].astype(int) - PALETTE[name]).max() < 12


@pytest.mark.parametrize('joints', [2, 3, 5])
def test_analytic_flow_explains_the_next_picture(joints):
    env, rng = FingerEnv(joints=joints, size=64), np.random.default_rng(1)
    yy, xx = np.mgrid[:64, :64].astype(np.float32)
    warped, still = [], []
    for _ in range(15):
        q0, q1 = env.self_play(rng)
        flow, visible = env.analytic_flow(q0, q1, 64)
        a, b = env.render_at(q0).astype(np.float32), env.render_at(q1).astype(np.float32)
        back = cv2.remap(b, xx + flow[..., 0], yy + flow[..., 1], cv2.INTER_LINEAR)
        moving = (np.abs(flow).sum(-1) > 0.2) & visible
        warped.append(np.abs(back - a)[moving].mean())
        still.append(np.abs(b - a)[moving].mean())
    assert np.mean(warped) < 0.3 * np.mean(still)


@pytest.mark.parametrize('joints', [3, 7])
def test_analytic_jacobian_is_the_derivative_of_the_flow(joints):
    env, rng = FingerEnv(joints=joints, size=48), np.random.default_rng(2)
    q, _ = env.self_play(rng)
    dq = rng.normal(size=joints) * 1e-5
    flow, _ = env.analytic_flow(q, q + dq, 48)
    predicted = env.analytic_jacobian(q, 48) @ dq
    assert np.abs(flow - predicted).max() < 1e-3 * np.abs(flow).max()


def test_positive_joints_turn_counter_clockwise_on_the_screen():
    env = FingerEnv(joints=2, size=64)
    env.set_state(np.zeros(2))
    before = env.tip()
    env.set_state(np.array([0.1, 0.0]))
    assert env.tip()[0] < before[0]


def test_rendering_another_posture_leaves_the_state_alone():
    env = FingerEnv(size=32)
    before = env.state()[0]
    env.render_at(before + 0.3)
    np.testing.assert_array_equal(env.state()[0], before)
