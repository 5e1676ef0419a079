"""PushT: its physics, its picture's flow, its expert and its self-play."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from vera_sim import make_environment
from vera_sim.pusht import PushTEnv, _difference
from vera_sim.pusht_expert import ExpertConfig, PushTExpert, corner_error
from vera_sim.pusht_physics import (
    BAR,
    GOAL,
    STEM,
    PushTPhysics,
    PushTState,
    coverage,
    overlap,
    to_world,
)


def test_the_same_seed_gives_the_same_episode_and_another_seed_another():
    a, b = PushTEnv(), PushTEnv()
    a.reset(4)
    b.reset(4)
    assert (a.render() == b.render()).all()
    b.reset(5)
    assert (a.render() != b.render()).any()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'control': 'torque'}, 'velocity, position'),
        ({'success': 1.5}, 'coverage of 1.5'),
        ({'size': 8}, '8 px'),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PushTEnv(**options)


def test_the_environment_is_made_by_name_with_the_contract_s_options():
    env = make_environment('pusht', {'control': 'position'}, 64)
    assert env.control == 'position'
    assert env.render().shape == (64, 64, 3)


def test_overlap_of_squares_worked_by_hand():
    square = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    assert overlap(square, square + 1) == pytest.approx(1)
    assert overlap(square, square[::-1] + np.array([1, 0])) == pytest.approx(2)
    assert overlap(square, square) == pytest.approx(4)
    assert overlap(square, square + np.array([2, 0])) == 0
    # A square standing on its corner, half of it inside.
    diamond = np.array([[2.0, 0], [3, 1], [2, 2], [1, 1]])
    assert overlap(square, diamond) == pytest.approx(1)


def test_coverage_is_one_at_the_goal_and_falls_with_the_distance():
    assert coverage(GOAL) == pytest.approx(1)
    assert overlap(to_world(BAR, GOAL), to_world(STEM, GOAL)) == pytest.approx(0, abs=1e-9)
    values = [coverage((256 + d, 256, np.pi / 4)) for d in (0, 3, 6, 12, 24, 48)]
    assert all(a > b for a, b in itertools.pairwise(values))
    assert coverage((60, 60, 0.0)) == 0


def test_velocity_control_goes_by_the_action_exactly_and_no_faster_than_its_clip():
    physics = PushTPhysics()
    start = PushTState.at((100, 100), (350, 300, 0.3))
    physics.set_state(start)
    physics.move((12.0, -7.0))
    assert physics.state().pusher == pytest.approx([112, 93])
    physics.move((200.0, 0.0))
    assert physics.state().pusher == pytest.approx([112 + 51.2, 93])
    assert physics.state().block == pytest.approx(start.block)


def test_the_set_points_of_the_seam_are_metres_and_reached():
    env = PushTEnv()
    env.set_scene(PushTState.at((100, 100), (350, 300, 0.3)))
    env.step(np.array([0.102, 0.099]), 0.01)
    assert env.state()[0] == pytest.approx([0.102, 0.099])
    env.set_state(np.array([0.2, 0.1]))
    assert env.state()[0] == pytest.approx([0.2, 0.1])
    assert env.scene().block == pytest.approx([350, 300, 0.3])


def test_position_control_lags():
    env = PushTEnv(control='position')
    env.set_scene(PushTState.at((100, 100), (350, 300, 0.3)))
    env.step(np.array([0.2, 0.1]), 0.1)
    assert 0.105 < env.state()[0][0] < 0.14
    for _ in range(10):
        env.step(np.array([0.2, 0.1]), 0.1)
    assert env.state()[0] == pytest.approx([0.2, 0.1], abs=1e-3)


def test_a_pushed_block_stays_where_it_was_pushed_to():
    physics = PushTPhysics()
    physics.set_state(PushTState.at((256, 160), (256, 200, 0.0)))
    for _ in range(6):
        physics.move((0, 10))
    assert physics.state().block[1] > 215
    physics.move((0, -10))
    left = physics.state().block
    physics.move((0, -10))
    physics.move((5, 0))
    assert physics.state().block == pytest.approx(left, abs=1e-9)


def test_a_state_put_back_goes_on_as_if_nothing_had_been():
    one, two = PushTPhysics(), PushTPhysics()
    one.set_state(PushTState.at((240, 165), (256, 200, 0.1)))
    for _ in range(4):
        one.move((1, 9))
    two.set_state(one.state())
    for physics in (one, two):
        for _ in range(3):
            physics.move((1, 9))
    assert two.state().block == pytest.approx(one.state().block, abs=0.3)


def test_analytic_flow_is_where_the_drawn_things_went():
    env = PushTEnv(size=128)
    rng = np.random.default_rng(3)
    pushed = 0
    for _ in range(40):
        play = env.self_play(rng)
        flow, visible = env.analytic_flow(play.before, play.after, 128)
        assert flow.shape == (128, 128, 2)
        scale = 128 / 512
        # The pusher's middle goes by the action.
        x, y = (play.before.pusher * scale).astype(int)
        assert flow[y, x] == pytest.approx(play.action * 1000 * scale, abs=1e-5)
        # A corner's neighbourhood in the block goes as the rigid block does.
        local = np.array([40.0, 15.0])
        at = to_world(local, play.before.block) * scale
        x, y = at.astype(int)
        moved = (
            to_world(local, play.after.block) - to_world(local, play.before.block)
        ) * scale
        assert flow[y, x] == pytest.approx(moved, abs=0.15)
        pushed += bool(np.abs(moved).max() > 0.2)
        # Nothing that the pictures show as equal white moves.
        white = (env.render_scene(play.before) == 255).all(-1)
        assert not flow[white].any()
        assert visible.mean() > 0.95
    assert pushed > 5


def test_self_play_moves_by_the_action_and_starts_clear_of_the_block():
    env = PushTEnv()
    rng = np.random.default_rng(0)
    plays = [env.self_play(rng, 0.02) for _ in range(200)]
    for play in plays:
        assert (play.after.pusher - play.before.pusher) / 1000 == pytest.approx(play.action)
        assert np.linalg.norm(play.action) <= 0.02 + 1e-12
    pushed = [np.abs(p.after.block - p.before.block).max() > 0.5 for p in plays]
    assert 0.1 < np.mean(pushed) < 0.6


def test_the_expert_solves_uniform_starts():
    expert, physics = PushTExpert(), PushTPhysics()
    for seed in (100, 101, 102):
        physics.reset(seed)
        expert.reset()
        for _ in range(180):
            if physics.coverage() > 0.95:
                break
            move = expert.act(physics.state())
            assert np.linalg.norm(move) <= 20 + 1e-9
            physics.move(move)
        assert physics.coverage() > 0.95, f'seed {seed}'


def test_the_expert_gets_a_block_out_of_a_corner_whose_best_contacts_it_cannot_reach():
    expert, physics = PushTExpert(), PushTPhysics()
    physics.reset(2064)
    start = corner_error(physics.state().block)
    for _ in range(60):
        physics.move(expert.act(physics.state()))
    assert corner_error(physics.state().block) < 0.7 * start


def test_the_expert_leaves_a_corner_of_its_detour_when_it_stands_on_it():
    """Its own exact actions put it there; the corner is then the first point of the way twice."""
    physics = PushTPhysics()
    physics.reset(2101)
    expert = PushTExpert()
    still = 0
    for _ in range(200):
        if physics.coverage() > 0.95:
            break
        move = expert.act(physics.state())
        still += float(np.linalg.norm(move)) < 1e-6
        physics.move(move)
    assert physics.coverage() > 0.95
    assert still == 0


def test_a_foreseen_future_is_what_then_happens_and_changes_nothing():
    expert, physics = PushTExpert(), PushTPhysics()
    physics.reset(7)
    expert.act(physics.state())
    before = expert.push
    moves, states, memory = expert.foresee(physics.state(), 12)
    assert expert.push is before
    assert len(memory) == 12
    for move, foreseen in zip(moves, states, strict=True):
        physics.move(move)
        assert physics.state().pusher == pytest.approx(foreseen.pusher)
        assert physics.state().block == pytest.approx(foreseen.block, abs=0.05)


def test_with_the_block_in_place_the_expert_rests():
    state = PushTState.at((100, 100), GOAL)
    assert corner_error(state.block) == pytest.approx(0)
    assert not PushTExpert().act(state).any()


def test_the_expert_s_frames_start_from_the_pusher_that_was_given():
    env = PushTEnv()
    env.reset(1)
    q = env.state()[0]
    frames = env.expert_rollout('goal', 3, q=q)
    assert len(frames) == 3
    assert frames[0].shape == (96, 96, 3)
    assert (frames[0] != env.render()).any()
    assert env.state()[0] == pytest.approx(q)


def test_the_expert_s_frames_go_on_with_the_push_under_way_however_far_it_was_followed():
    env = PushTEnv()
    env.reset(15)
    first = env.expert_rollout('goal', 24)
    foreseen = list(env._foreseen)
    for k in (5, 12, 17):
        # Four units beside what had been foreseen, as an execution is.
        state = foreseen[k][0]
        beside = dataclasses.replace(state, pusher=state.pusher + np.array([2.5, 3.0]))
        again = env.expert_rollout('goal', 24 - k, scene=beside)
        assert len(again) == len(first) - k
        pairs = zip(env._foreseen, foreseen[k:], strict=True)
        assert np.median([_difference(a, b) for (a, _), (b, _) in pairs]) < 20  # 93 without memory
    # The state now plays no part, and stays.
    assert env.scene().block == pytest.approx(foreseen[0][0].block)


def test_a_habit_decides_the_same_without_a_search_where_the_block_is_almost_the_same(monkeypatch):
    expert = PushTExpert(ExpertConfig(habit=12.0))
    expert.act(PushTState.at((300, 120), (330, 280, 0.9)))
    chosen, expert.push = expert.push, None
    beside = PushTState.at((304, 118), (333, 282, 0.88))
    with monkeypatch.context() as only:
        only.delattr(PushTExpert, '_search')
        expert.act(beside)
    assert np.linalg.norm(expert.push.start - chosen.start) < 12
    # It touches the block where it did, as seen from the block.
    assert expert.push.direction @ chosen.direction > 0.99

    # A push that promises much less than it did, or a block further away, is searched for anew.
    error = corner_error(beside.block)
    block, push, promised = expert._choices[0]
    assert expert._again(PushTState.at((304, 118), (345, 290, 0.9)), error) is None
    expert._choices[0] = (block, push, 1000 * promised)
    assert expert._again(beside, error) is None
    expert.reset()
    assert not expert._choices


def test_words_name_the_goal_or_nothing():
    env = PushTEnv()
    said = env.instruction(np.random.default_rng(0))
    assert env.parse(said.text) == said.target == 'goal'
    assert env.parse('touch the red disc') is None
    start = float(env.distances()[0])
    assert env.progress('goal', start) == 0
    env.set_scene(PushTState.at((60, 60), GOAL))
    assert env.progress('goal', start) == pytest.approx(1)
    assert env.inside()[0]
