"""The finger: its servo, scenes, judge and expert."""

import numpy as np
import pytest

from vera_sim import DwellJudge, FingerEnv, make_environment
from vera_sim.finger_kinematics import MAX_DQ, joint_limits, points, tip_jacobian
from vera_sim.finger_painter import DISC_RADIUS


@pytest.mark.parametrize('joints', [2, 3, 5, 10, 20])
def test_every_number_of_joints_gives_a_scene_inside_its_limits(joints):
    env = FingerEnv(joints=joints, discs=3, size=64)
    low, high = joint_limits(joints)
    for seed in range(3):
        env.reset(seed)
        q, dq = env.state()
        assert q.shape == (joints,)
        assert (q >= low).all() and (q <= high).all()
        assert not dq.any()
        assert len(set(env.objects)) == 3
        assert not env.inside().any()


@pytest.mark.parametrize(('joints', 'discs'), [(0, 3), (21, 3), (3, 5), (3, -1)])
def test_impossible_fingers_are_refused_with_their_range(joints, discs):
    with pytest.raises(ValueError, match='the finger has'):
        FingerEnv(joints=joints, discs=discs)


def test_an_unknown_environment_names_the_known_ones():
    with pytest.raises(ValueError, match='finger'):
        make_environment('fingre', {}, 64)


def test_the_same_seed_gives_the_same_episode_and_another_seed_another():
    a, b = FingerEnv(size=64), FingerEnv(size=64)
    a.reset(5)
    b.reset(5)
    assert (a.render() == b.render()).all()
    b.reset(6)
    assert (a.render() != b.render()).any()


def test_the_servo_does_not_depend_on_how_time_is_cut():
    a, b = FingerEnv(size=32), FingerEnv(size=32)
    target = a.state()[0] + np.array([0.05, -0.1, 0.02])
    for _ in range(10):
        a.step(target, 0.01)
    for _ in range(100):
        b.step(target, 0.001)
    np.testing.assert_allclose(a.state()[0], b.state()[0], atol=1e-12)
    np.testing.assert_allclose(a.state()[1], b.state()[1], atol=1e-10)


def test_the_servo_settles_on_its_target_without_overshoot():
    env = FingerEnv(size=32)
    env.set_state(np.zeros(3))
    target = np.array([0.2, -0.2, 0.1])
    path = []
    for _ in range(60):
        env.step(target, 0.01)
        path.append(env.state()[0])
    assert np.abs(path[-1] - target).max() < 1e-6
    assert (np.abs(path) <= np.abs(target) + 1e-9).all()


def test_joints_stop_at_their_limits():
    env = FingerEnv(size=32)
    for _ in range(200):
        env.step(np.full(3, 9.0), 0.01)
    np.testing.assert_allclose(env.state()[0], joint_limits(3)[1])
    assert not env.state()[1].any()


def test_tip_jacobian_matches_finite_differences():
    q = np.array([0.3, -0.7, 1.1, 0.2])
    numeric = np.stack(
        [(points(q + d)[-1] - points(q - d)[-1]) / 2e-6 for d in np.eye(4) * 1e-6], axis=1
    )
    np.testing.assert_allclose(tip_jacobian(q), numeric, atol=1e-6)


def test_the_expert_reaches_almost_every_disc_within_its_own_step_limit():
    env, reached, tried = FingerEnv(size=16), 0, 150
    for seed in range(tried):
        env.reset(seed)
        target = env.instruction(np.random.default_rng(seed)).target
        path = env.expert_joint_path(target, 45)
        steps = np.diff(np.vstack([env.state()[0], path]), axis=0)
        assert np.abs(steps).max() <= MAX_DQ + 1e-9
        gap = np.linalg.norm(points(path[-1])[-1] - dict(env.discs)[target])
        reached += gap < DISC_RADIUS
    assert reached >= 0.98 * tried


def test_words_name_discs_in_training_and_held_out_phrasings():
    env = FingerEnv(size=16)
    for seed in range(20):
        env.reset(seed)
        for held_out in (False, True):
            said = env.instruction(np.random.default_rng(seed), held_out=held_out)
            assert said.target in env.objects
            assert env.parse(said.text) == said.target


@pytest.mark.parametrize('text', ['', 'make me a sandwich', 'touch the purple disc', 'red green'])
def test_words_that_name_nothing_of_the_scene_parse_to_nothing(text):
    env = FingerEnv(discs=4, size=16)
    assert env.parse(text) is None


def test_a_finger_without_discs_has_no_instruction():
    with pytest.raises(ValueError, match='no disc'):
        FingerEnv(discs=0, size=16).instruction(np.random.default_rng(0))


def verdicts(inside, tips, **rule):
    judge = DwellJudge(dwell=3, **rule)
    names = ('red', 'blue')
    rows = zip(inside, tips, strict=True)
    return [judge.observe(names, np.array(row, bool), np.array([x, 0.0])) for row, x in rows]


def test_the_judge_wants_the_tip_to_stay():
    inside = [(1, 0), (1, 0), (0, 0), (1, 0), (1, 0), (1, 0)]
    assert verdicts(inside, [0.0] * 6) == [None] * 5 + ['red']


def test_passing_through_a_disc_is_not_touching_it():
    inside = [(0, 1)] * 6
    assert verdicts(inside, [0, 2, 4, 6, 7, 7.5], rest=3.0) == [None] * 4 + ['blue'] * 2


def test_progress_grows_from_nothing_to_all_of_the_way():
    env = FingerEnv(size=16)
    env.reset(3)
    target = env.objects[0]
    start = float(env.distances()[0])
    assert env.progress(target, start) == 0
    q = env.expert_joint_path(target, 45)[-1]
    env.set_state(q)
    assert env.progress(target, start) == 1


def test_self_play_stays_inside_limits_and_steps():
    env, rng = FingerEnv(joints=5, size=16), np.random.default_rng(0)
    low, high = joint_limits(5)
    for _ in range(50):
        q0, q1 = env.self_play(rng, max_dq=0.07)
        assert np.abs(q1 - q0).max() <= 0.07
        assert (q1 >= low).all() and (q1 <= high).all()
