"""The simulated world on its own time line."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vera_core import canvas
from vera_core.contract import CameraSpec, load_contract
from vera_drivers.sim_world import EPISODE_GRID_NS, SimWorld, WorldError, make_world
from vera_sim import FingerEnv

MS = 1_000_000


@pytest.fixture
def world():
    found = make_world(load_contract('finger'))
    found.reset(3, EPISODE_GRID_NS)
    return found


class BackwardsEnv(FingerEnv):
    """The same finger with its joints numbered from the tip."""

    def __init__(self) -> None:
        super().__init__(size=128)
        self.joint_names = self.joint_names[::-1]

    def state(self):
        q, dq = super().state()
        return q[::-1].copy(), dq[::-1].copy()

    def step(self, target, dt):
        super().step(np.asarray(target)[::-1], dt)

    def expert_rollout(self, target, frames, q=None):
        return super().expert_rollout(target, frames, None if q is None else q[::-1])


def test_ticks_are_control_periods_and_images_come_on_the_camera_grid(world):
    assert [c.name for c in world.cameras_due()] == ['top']
    assert world.cameras_due() == ()  # asked again at the same time
    images = []
    for _ in range(20):
        world.step(world.positions())
        if world.cameras_due():
            images.append(world.stamp - EPISODE_GRID_NS)
    assert world.stamp == EPISODE_GRID_NS + 200 * MS
    assert images == [50 * MS, 100 * MS, 150 * MS, 200 * MS]


def test_same_seed_and_commands_give_the_same_bits(world):
    other = make_world(world.contract)
    rng = np.random.default_rng(0)
    for w in (world, other):
        w.reset(11, 0)
    for _ in range(50):
        command = world.positions() + rng.normal(0, 0.02, 3)
        world.step(command)
        other.step(command)
        assert (world.positions() == other.positions()).all()
    assert (world.canvas() == other.canvas()).all()
    other.reset(12, 0)
    assert not (world.positions() == other.positions()).all()


def test_no_command_holds_the_last_one(world):
    goal = world.positions() + 0.05
    world.step(goal)
    for _ in range(100):
        world.step()
    assert np.allclose(world.positions(), goal, atol=1e-6)


def test_arrays_follow_the_contract_whatever_the_order_of_the_environment():
    contract = load_contract('finger')
    plain, backwards = make_world(contract), SimWorld(contract, BackwardsEnv())
    for w in (plain, backwards):
        w.reset(5, 0)
    target = plain.positions() + np.array([0.1, -0.05, 0.02])
    for w in (plain, backwards):
        for _ in range(30):
            w.step(target)
    assert np.allclose(plain.positions(), backwards.positions())
    assert np.allclose(plain.robot_state().velocities, backwards.robot_state().velocities)
    name = plain.env.objects[0]
    futures = [w.expert_future(f'touch the {name} disc', w.stamp, 3) for w in (plain, backwards)]
    assert (futures[0] == futures[1]).all()


def test_expert_starts_from_the_state_at_the_anchor(world):
    anchor = world.stamp
    q = world.positions()
    target = world.env.objects[0]
    prompt = f'touch the {target} disc'
    before = world.expert_future(prompt, anchor, 4)
    for _ in range(40):
        world.step(q + 0.4)
    assert np.abs(world.positions() - q).max() > 0.3
    later = world.expert_future(prompt, anchor, 4)
    assert (before == later).all()
    assert later.shape == (4, 64, 64, 3)
    views = world.env.expert_rollout(target, 4, q=q)
    assert (later[-1] == canvas.tile({'top': views[-1]}, world.contract)).all()
    assert not (world.expert_future(prompt, world.stamp, 4) == later).all()


def test_expert_refuses_what_it_does_not_know(world):
    with pytest.raises(WorldError, match=r"no goal 'dance'; objects of the scene: \w+"):
        world.expert_future('dance', world.stamp, 4)
    prompt = f'touch the {world.env.objects[0]} disc'
    with pytest.raises(WorldError, match=r'no simulated state at 3\.000 s is kept'):
        world.expert_future(prompt, 3_000 * MS, 4)
    with pytest.raises(WorldError, match='at least 1'):
        world.expert_future(prompt, world.stamp, 0)
    old = world.stamp
    world.reset(4, world.next_episode())
    with pytest.raises(WorldError, match='no simulated state'):
        world.expert_future(f'touch the {world.env.objects[0]} disc', old, 4)


def test_dwelling_in_a_disc_is_noticed_once_and_kept(world):
    name = world.env.objects[1]
    path = world.env.expert_joint_path(name, 60)
    assert world.truth().dwelled == ''
    for q in path:
        for _ in range(20):
            world.step(q)
    truth = world.truth()
    assert truth.dwelled == name
    assert truth.inside[truth.objects.index(name)]
    for _ in range(200):
        world.step(path[0])
    assert not world.truth().inside.any()
    assert world.truth().dwelled == name
    world.reset(3, world.next_episode())
    assert world.truth().dwelled == ''


def test_passing_through_a_disc_is_not_dwelling(world):
    name = world.env.objects[1]
    path = world.env.expert_joint_path(name, 60)
    world.env.set_state(path[-1])
    for _ in range(15):  # 0.15 s inside: less than one frame period
        world.step(path[-1])
    for _ in range(200):
        world.step(path[0])
    assert world.truth().dwelled == ''


def test_time_never_goes_back_in_lockstep(world):
    stamps = []
    for seed in range(3):
        world.reset(seed, world.next_episode())
        stamps.append(world.stamp)
        world.step()
    assert stamps == [20_000 * MS, 30_000 * MS, 40_000 * MS]


def test_a_live_clock_set_back_does_not_stop_the_cameras(world):
    world.step(stamp=500_000 * MS, dt_ns=10 * MS)
    assert world.cameras_due()
    world.step(stamp=400_000 * MS, dt_ns=10 * MS)
    assert world.cameras_due()
    assert len(world.cameras_due()) == 0


def test_what_does_not_fit_is_refused_by_name():
    contract = load_contract('finger')
    with pytest.raises(WorldError, match='has no `sim` part'):
        make_world(dataclasses.replace(contract, sim=None))
    with pytest.raises(WorldError, match=r'joint_1, joint_2, joint_3, joint_4.*make sim.options'):
        SimWorld(contract, FingerEnv(joints=4, size=128))
    with pytest.raises(WorldError, match='1 to 20 joints, not 0'):
        sim = dataclasses.replace(contract.sim, options={'joints': 0})
        make_world(dataclasses.replace(contract, sim=sim))
    with pytest.raises(WorldError, match='unknown simulated environment'):
        make_world(
            dataclasses.replace(contract, sim=dataclasses.replace(contract.sim, environment='x'))
        )
    with pytest.raises(WorldError, match="pictures 96x96, camera 'top' is 128x128"):
        SimWorld(contract, FingerEnv(size=96)).canvas()
    two = (*contract.cameras, CameraSpec('side', 'side/color/image_raw', 128, 128, 20.0))
    wide = dataclasses.replace(
        contract, cameras=two, canvas=dataclasses.replace(contract.canvas, width=128)
    )
    with pytest.raises(WorldError, match='has one camera, the contract 2: top, side'):
        SimWorld(wide, FingerEnv(size=128))
