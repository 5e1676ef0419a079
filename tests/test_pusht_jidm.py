"""The shipped J-IDM of PushT: what it recovers from frames alone, and that the loop closes."""

from __future__ import annotations

import numpy as np
import pytest

from vera_bringup.lockstep import LockstepLoop
from vera_bringup.pusht_study import StudyOptions, run_episode
from vera_core.contract import load_contract
from vera_jidm.registry import make_translator
from vera_planner.registry import make_planner
from vera_sim import make_environment
from vera_sim.pusht_physics import PushTState


@pytest.fixture(scope='module')
def contract():
    return load_contract('pusht')


@pytest.fixture(scope='module')
def translator(contract):
    return make_translator('jacobian', contract)


@pytest.fixture
def env(contract):
    return make_environment('pusht', contract.sim.options, contract.cameras[0].height)


def test_fresh_self_play_is_read_within_a_tenth_of_its_size(env, translator):
    rng = np.random.default_rng(987_654)
    plays = [env.self_play(rng) for _ in range(25)]
    wrong = [
        translator.translate(
            env.render_scene(play.before), env.render_scene(play.after)[None]
        ).values[0]
        - play.action
        for play in plays
    ]
    power = np.mean([np.square(play.action).sum() for play in plays])
    assert np.square(wrong).sum(1).mean() < 0.01 * power


def test_a_push_is_the_pusher_s_motion_not_the_block_s(env, translator):
    # The block's bar is pushed at its end: the block turns, much of the picture moves otherwise.
    env.set_scene(PushTState.at((205, 183), (256, 200, 0.0)))
    before = env.render()
    env.physics.move((0.0, 12.0))
    assert abs(env.scene().block[2]) > 0.05
    values = translator.translate(before, env.render()[None]).values[0]
    assert values == pytest.approx([0, 0.012], abs=0.002)


def test_nothing_moves_nothing_is_done(env, translator):
    image = env.render()
    values = translator.translate(image, np.stack([image, image])).values
    assert np.abs(values).max() < 5e-4


def test_frames_and_ridge_alone_push_the_block_to_its_goal(contract, env, translator):
    episode = run_episode(contract, env, translator, 7001, StudyOptions())
    assert episode.best(200) >= 0.82
    assert episode.error < 0.02


def test_through_the_controller_s_limits_the_loop_closes_too(contract, translator):
    def oracle(provider):
        return make_planner('oracle', contract, provider=provider)

    result = LockstepLoop(contract, oracle, translator).run(0, 13, False, 200)
    assert result.success, result.outcome
    assert result.prompt
    assert 1 < result.duration < 20


@pytest.mark.slow
def test_nine_of_ten_uniform_starts_reach_their_goal(contract, env, translator):
    best = [
        run_episode(contract, env, translator, seed, StudyOptions()).best(200)
        for seed in range(50, 60)
    ]
    assert sum(b >= 0.82 for b in best) >= 9
