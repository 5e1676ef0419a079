"""The Panda's table: kinematics, servos, pictures, tasks, and an expert that does them."""

from __future__ import annotations

import dataclasses
import sys
import threading

import numpy as np
import pytest

from vera_core.contract import load_contract
from vera_core.kinematics.transforms import rotation_from_quaternion, transform
from vera_sim import DwellJudge, make_environment
from vera_sim.panda import PandaEnv
from vera_sim.panda_model import CUBE_HALF, JOINTS, panda_urdf
from vera_sim.panda_scene import nominal_view
from vera_sim.panda_tasks import (
    DIRECTIONS,
    HELD_OUT,
    HELD_OUT_COLOURS,
    TASKS,
    TRAINING,
    Goal,
    Situation,
    done,
    goals,
    vocabulary,
)


@pytest.fixture(scope='module')
def env() -> PandaEnv:
    return PandaEnv(task='any', size=48)


# The model ----------------------------------------------------------------------------------


def test_kinematics_are_those_of_the_urdf(env):
    from vera_core.kinematics.tree import KinematicTree
    from vera_core.kinematics.urdf import read_urdf

    urdf = read_urdf(panda_urdf())
    tree = KinematicTree(urdf, JOINTS)
    low, high = np.array([urdf.joints[name].limits for name in JOINTS]).T
    env.reset(0)
    for q in np.random.default_rng(0).uniform(low, high, (20, 8)):
        env.set_state(q)
        links = tree.posture(q).links
        frames = env._frames(env._data)
        for name in ('panda_link4', 'panda_hand', 'panda_leftfinger', 'panda_rightfinger'):
            ours = links[tree.link_index(name)]
            assert np.abs(frames[env._made.bodies.index(name)] - ours).max() < 1e-9
        R, p = env.situation().tool
        assert np.abs(links[tree.link_index('panda_hand_tcp')] - transform(R, p)).max() < 1e-9


def test_set_points_are_followed_within_millimetres(env):
    env.reset(1)
    q0, _ = env.state()
    tool = []
    for k in range(150):
        # Up to 0.25 rad/s in four joints at once: the tool makes 0.2 m/s.
        q = q0.copy()
        q[[0, 1, 3, 5]] += 0.08 * np.sin(0.03 * k) * np.array([1, -1, 1, 1])
        env.step(q, 0.01)
        tool.append(np.linalg.norm(env.arm.pose(q[:7])[1] - env.situation().tool[1]))
        assert np.abs(env.state()[0][:7] - q[:7]).max() < 0.006
    assert max(tool) < 0.005
    for _ in range(60):
        env.step(q, 0.01)
    assert np.abs(env.state()[0] - q).max() < 5e-4


def test_fingers_mirror_each_other_and_take_their_time(env):
    env.reset(2)
    q, _ = env.state()
    q[7] = 0.04
    for _ in range(100):
        env.step(q, 0.01)
    q[7] = 0.0
    env.step(q, 0.1)
    opening = env.state()[0][7]
    assert 0.03 < opening < 0.037
    for _ in range(60):
        env.step(q, 0.01)
    assert abs(env.state()[0][7]) < 1e-3
    assert env._data.qpos[8] == pytest.approx(env._data.qpos[7], abs=1e-3)


def test_a_set_point_that_is_none_is_refused(env):
    with pytest.raises(ValueError, match='8 finite numbers are needed: panda_joint1'):
        env.step(np.full(8, np.nan), 0.01)
    with pytest.raises(ValueError, match='8 finite numbers'):
        env.step(np.zeros(7), 0.01)


def test_options_and_a_missing_mujoco_are_named(monkeypatch):
    for options, words in (
        ({'task': 'juggle'}, "no task 'juggle'"),
        ({'colours': 'loud'}, "no set of colours 'loud'"),
        ({'renderer': 'oil'}, "no renderer 'oil'"),
        ({'jitter': -1.0}, 'jitter is -1'),
    ):
        with pytest.raises(ValueError, match=words):
            PandaEnv(**options)
    monkeypatch.setitem(sys.modules, 'mujoco', None)
    with pytest.raises(ValueError, match='pip install mujoco'):
        make_environment('panda', {}, 48)


# Episodes and pictures ----------------------------------------------------------------------


def test_an_episode_is_its_seed(env):
    other = PandaEnv(task='any', size=48)
    env.reset(5)
    other.reset(5)
    assert env.task == other.task
    q = env.state()[0] + 0.01
    env.step(q, 0.05)
    other.step(q, 0.05)
    assert np.array_equal(env.scene().vector, other.scene().vector)
    assert np.array_equal(env.render(), other.render())
    other.reset(6)
    assert not np.array_equal(env.render(), other.render())


def test_views_are_the_canvas_of_the_contract(env):
    views = env.render_views()
    assert tuple(views) == env.camera_names == load_contract('panda').camera_names
    assert all(v.shape == (48, 48, 3) and v.dtype == np.uint8 for v in views.values())
    assert np.array_equal(env.render(), np.concatenate(list(views.values()), axis=1))


@pytest.mark.parametrize('embodiment', ['panda', 'panda_joints'])
def test_calibration_of_the_contract_is_where_the_cameras_are(embodiment):
    contract = load_contract(embodiment)
    for given in contract.calibration:
        camera = nominal_view(given.name, contract.camera(given.name).width).camera
        assert given.focal == pytest.approx(camera.focal)
        assert given.centre == pytest.approx(camera.centre)
        assert (given.link or 'panda_link0') == camera.link
        T = transform(rotation_from_quaternion(given.orientation), given.position)
        assert np.abs(T - camera.mount).max() < 1e-6
    assert len(contract.calibration) == 3


def test_a_state_comes_back_whole(env):
    env.reset(7)
    goal = env.objects[0]
    for _ in range(3):
        env.act(goal)
    kept, picture = env.scene(), env.render()
    for _ in range(3):
        env.act(goal)
    later = env.scene().vector
    env.set_scene(kept)
    assert np.array_equal(env.render(), picture)
    for _ in range(3):
        env.act(goal)
    assert np.array_equal(env.scene().vector, later)


def test_the_future_that_is_foreseen_is_what_the_expert_does(env):
    env.reset(8)
    goal = env.instruction(np.random.default_rng(0)).target
    before = env.scene()
    states = env.expert_states(goal, 4)
    pictures = env.expert_rollout(goal, 4)
    actions = env.expert_actions(goal, 4)
    assert np.array_equal(env.scene().vector, before.vector)
    assert actions.shape == (4, len(env.expert_channels))
    assert np.linalg.norm(actions[:, :3], axis=1).max() <= 0.0241
    for state, views in zip(states, pictures, strict=True):
        env.act(goal)
        assert np.array_equal(env.scene().vector, state.vector)
        assert all(np.array_equal(env.render_views()[n], views[n]) for n in views)


def test_pictures_are_made_while_it_steps(env):
    """A data race in MuJoCo would kill the process."""
    env.reset(9)
    q = env.state()[0]
    goal = env.objects[0]
    begin = threading.Barrier(3)
    problems = []

    def repeat(what, times):
        begin.wait()
        try:
            for _ in range(times):
                what()
        except Exception as error:  # told below, in the test's own thread
            problems.append(error)

    threads = [
        threading.Thread(target=repeat, args=job)
        for job in (
            (lambda: env.step(q, 0.01), 150),
            (env.render_views, 12),
            (lambda: env.expert_states(goal, 1), 6),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


# Tasks --------------------------------------------------------------------------------------


def test_phrasings_are_many_apart_and_understood():
    colours = ('red', 'green', 'purple')
    known = [g for task in TASKS for g in goals(task, colours, True, True)]
    assert {g.task for g in known} == set(TASKS)
    said = [(g.phrase(t).lower(), g) for g in known for t in TRAINING[g.task] + HELD_OUT[g.task]]
    words = vocabulary(known)
    for text, goal in said:
        assert words[text] == goal, text
    for task in TASKS:
        assert len(set(TRAINING[task])) >= 12
        assert len(set(HELD_OUT[task])) >= 6
        assert not set(TRAINING[task]) & set(HELD_OUT[task])
    assert len({g.name for g in known}) == len(known)


def test_held_out_colours_are_asked_for_only_in_evaluation():
    env = PandaEnv(task='touch', colours='held_out', size=24)
    for seed in range(3):
        env.reset(seed)
        rng = np.random.default_rng(seed)
        asked = {env.instruction(rng).target.split()[1] for _ in range(8)}
        assert asked <= set(HELD_OUT_COLOURS)
    plain = PandaEnv(task='touch', size=24)
    for seed in range(5):
        plain.reset(seed)
        assert not set(plain.scene_info.colours) & set(HELD_OUT_COLOURS)


@pytest.mark.parametrize('task', TASKS)
def test_nothing_is_done_when_an_episode_begins(task):
    env = PandaEnv(task=task, size=24)
    for seed in range(4):
        env.reset(seed)
        assert env.task == task
        assert not env.inside().any()
        assert (env.distances() > 0.01).all()
        text, target = env.instruction(np.random.default_rng(seed)).__dict__.values()
        assert env.parse(text) == target
        assert env.parse('make me a coffee') is None


@pytest.mark.parametrize('task', TASKS)
def test_the_expert_does_it_and_rests(task):
    env = PandaEnv(task=task, size=24)
    env.reset(11)
    goal = env.instruction(np.random.default_rng(11)).target
    start = float(env.distances()[env.objects.index(goal)])
    judge, found, progress = DwellJudge(5, env.rest), None, []
    for _ in range(90):
        found = judge.observe(env.objects, env.inside(), env.tip())
        progress.append(env.progress(goal, start))
        if found:
            break
        env.act(goal)
    assert found == goal
    assert progress[0] < 0.05
    assert progress[-1] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_the_expert_does_it_in_98_of_100_episodes(task):
    env = PandaEnv(task=task, size=24)
    reached = 0
    for seed in range(100):
        env.reset(seed)
        goal = env.instruction(np.random.default_rng(seed)).target
        judge, found = DwellJudge(5, env.rest), None
        for _ in range(120):
            found = judge.observe(env.objects, env.inside(), env.tip())
            if found:
                break
            env.act(goal)
        reached += found == goal
    assert reached >= 98


@pytest.mark.parametrize('seed', [11, 25, 43])
def test_who_pushes_rests_nowhere_and_keeps_off_the_table(seed):
    """A planner that learns from an expert who waits somewhere waits there for ever."""
    env = PandaEnv(task='push', size=24)
    env.reset(seed)
    goal = env.instruction(np.random.default_rng(seed)).target
    tips = [env.tip()]
    while not env.success(goal):
        # The cube is there, but still moves: it is at rest a frame later.
        there = env.distances()[env.objects.index(goal)] == 0
        env.act(goal)
        tips.append(env.tip())
        assert there or np.linalg.norm(tips[-1] - tips[-2]) > 0.005
        assert len(tips) < 60
    assert min(tip[2] for tip in tips) > 0.01
    assert abs(env.state()[0][7]) < 0.001


def _by(x: float, y: float, z: float) -> np.ndarray:
    return np.array([x, y, z])


def _situation(**changes) -> Situation:
    """Three cubes at rest, the open hand high above."""
    cubes = np.stack([transform(None, [0.4, y, CUBE_HALF]) for y in (-0.15, 0.0, 0.15)])
    down = np.diag([1.0, -1, -1])
    now = Situation(
        tool=(down, np.array([0.5, 0.0, 0.3])), tip=np.array([0.5, 0.0, 0.2916]), opening=0.04,
        colours=('red', 'green', 'blue'), cubes=cubes, speeds=np.zeros(3),
        starts=cubes[:, :3, 3].copy(), bowl=np.array([0.55, 0.1, 0.0]),
        button=np.array([0.55, -0.1, 0.0]), depth=0.0,
    )
    return dataclasses.replace(now, **changes)


def _moved(now: Situation, cube: int, place) -> Situation:
    cubes = now.cubes.copy()
    cubes[cube, :3, 3] = place
    return dataclasses.replace(now, cubes=cubes)


def test_a_push_counts_along_its_direction_at_rest_and_on_the_table():
    now = _situation()
    for name, along in DIRECTIONS.items():
        goal = Goal('push', 'red', name)
        place = now.starts[0] + [*(0.065 * along), 0]
        assert done(goal, _moved(now, 0, place))
        assert not done(goal, _moved(now, 0, now.starts[0] + [*(0.05 * along), 0]))
        assert not done(goal, _moved(now, 0, now.starts[0] - [*(0.065 * along), 0]))
        assert not done(goal, _moved(now, 0, place + _by(0, 0, 0.05)))
        fast = dataclasses.replace(_moved(now, 0, place), speeds=np.array([0.1, 0, 0]))
        assert not done(goal, fast)


def test_a_stack_counts_when_it_stands_by_itself():
    now = _situation()
    goal = Goal('stack', 'red', 'green')
    top = now.place('green') + _by(0.003, 0, 2 * CUBE_HALF)
    stacked = _moved(now, 0, top)
    assert done(goal, stacked)
    assert not done(Goal('stack', 'green', 'red'), stacked)
    # Still between the fingers.
    down = now.tool[0]
    held = dataclasses.replace(stacked, tool=(down, top), opening=CUBE_HALF)
    assert not done(goal, held)
    assert not done(goal, _moved(now, 0, top + _by(0.025, 0, 0)))
    assert not done(goal, _moved(now, 0, top + _by(0, 0, 0.02)))


def test_bowl_lift_touch_and_press():
    now = _situation()
    bowl = Goal('bowl', 'red')
    assert now.bowl is not None
    assert done(bowl, _moved(now, 0, now.bowl + _by(0.02, 0.01, CUBE_HALF + 0.006)))
    assert not done(bowl, _moved(now, 0, now.bowl + _by(0.06, 0, CUBE_HALF)))
    assert not done(bowl, _moved(now, 0, now.bowl + _by(0, 0, 0.12)))
    assert done(Goal('lift', 'red'), _moved(now, 0, now.starts[0] + _by(0, 0, 0.06)))
    assert not done(Goal('lift', 'red'), _moved(now, 0, now.starts[0] + _by(0.1, 0, 0.03)))
    near = now.place('blue') + _by(0, 0, CUBE_HALF + 0.006)
    touching = dataclasses.replace(now, tip=near)
    assert done(Goal('touch', 'blue'), touching)
    assert not done(Goal('touch', 'green'), touching)
    assert done(Goal('press'), dataclasses.replace(now, depth=0.008))
    assert not done(Goal('press'), dataclasses.replace(now, depth=0.003))


def test_what_a_finger_is_pressed_on_does_not_spread_the_hand_beyond_its_stop():
    env = make_environment('panda', {'task': 'lift'}, 32)
    env.reset(0)
    open_hand = env._data.ctrl[:8].copy()
    finger = env._model.joint('panda_finger_joint1').id
    env._data.qfrc_applied[env._model.jnt_dofadr[finger]] = 250.0  # N, the arm leaning on a cube
    env.step(open_hand, 0.3)
    low, high = env._model.jnt_range[finger]
    at = env._data.qpos[env._model.jnt_qposadr[finger]]
    assert low < at < high + 1e-3  # m; with MuJoCo's usual limits 20 mm beyond
