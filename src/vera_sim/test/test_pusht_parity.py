"""Our PushT beside the real gym-pusht: same actions, same poses, same coverage, same picture."""

from __future__ import annotations

import os

import numpy as np
import pytest

from vera_sim.pusht_painter import PushTPainter
from vera_sim.pusht_physics import PushTPhysics, PushTState, coverage

INSTALL = 'pip install --no-deps -r requirements/test.txt'


@pytest.fixture(scope='module')
def real():
    """gym-pusht's environment, without a window."""
    os.environ.setdefault('SDL_VIDEODRIVER', 'dummy')
    for module in ('pygame', 'shapely', 'gymnasium'):
        pytest.importorskip(module, reason=f'{module} is missing: {INSTALL}')
    pusht = pytest.importorskip('gym_pusht.envs.pusht', reason=f'no gym-pusht: {INSTALL}')
    return pusht.PushTEnv(obs_type='pixels_agent_pos')


def targets(rng: np.random.Generator, block: np.ndarray, steps: int) -> np.ndarray:
    """Set-points that often lead through the block."""
    near = block[:2] + rng.normal(0, 70, (steps, 2))
    far = rng.uniform(20, 490, (steps, 2))
    return np.clip(np.where(rng.random((steps, 1)) < 0.7, near, far), 0, 512)


def difference(ours: PushTState, info: dict) -> float:
    block = np.abs(ours.block - info['block_pose']).max()
    pusher = np.abs(ours.pusher - info['pos_agent']).max()
    return float(max(block, pusher, np.abs(ours.velocity - info['vel_agent']).max()))


def test_the_same_actions_give_the_same_poses_and_coverage(real):
    real.obs_type = 'state'  # no picture: it takes most of the time
    ours, moved = PushTPhysics(), 0.0
    for seed in range(12):
        _, info = real.reset(seed=seed)
        ours.reset(seed)
        start = ours.state().block
        assert difference(ours.state(), info) < 1e-9
        for target in targets(np.random.default_rng(seed), start, 50):
            _, _, _, _, info = real.step(target)
            ours.servo(target)
            assert difference(ours.state(), info) < 1e-6
            assert ours.coverage() == pytest.approx(info['coverage'], abs=1e-9)
        moved += float(np.abs(ours.state().block[:2] - start[:2]).max())
    assert moved / 12 > 30, 'the block was hardly pushed: nothing was compared'


def test_coverage_near_the_goal_is_that_of_shapely(real):
    real.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(100):
        pose = np.array([256, 256, np.pi / 4]) + rng.normal(0, 1, 3) * [25, 25, 0.5]
        real.block.angle = float(pose[2])
        real.block.position = (float(pose[0]), float(pose[1]))
        assert coverage(pose) == pytest.approx(real._get_coverage(), abs=1e-9)


@pytest.mark.parametrize('size', [96, 128])
def test_the_picture_is_the_same_but_for_single_pixels_of_edges(real, size):
    real.obs_type = 'pixels_agent_pos'
    real.observation_width = real.observation_height = size
    sampled, smooth = PushTPainter(size, smooth=False), PushTPainter(size)
    ours = PushTPhysics()
    for seed in range(10):
        real.reset(seed=seed)
        ours.reset(seed)
        target = ours.state().block[:2] + np.random.default_rng(seed).normal(0, 40, 2)
        for _ in range(5):
            observation, *_ = real.step(target)
            ours.servo(target)
        there = observation['pixels'].astype(int)
        off = np.abs(sampled.paint(ours.state()) - there)
        assert off.mean() < 0.4
        assert (off.max(-1) > 40).mean() < 0.008
        # Averaged over each pixel's area instead: only edges differ.
        assert np.abs(smooth.paint(ours.state()) - there).mean() < 1.5
