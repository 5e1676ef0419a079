"""The Panda's planner that ships: it finds the hand and goes where the words say."""

import numpy as np
import pytest
import torch

from vera_bringup.words import measure
from vera_core import canvas
from vera_core.contract import load_contract
from vera_planner.compact import to_signal
from vera_planner.planning import plan_motion
from vera_planner.registry import make_planner
from vera_sim import make_environment
from vera_sim.panda_pieces import PIECES, PandaPieces

pytest.importorskip('mujoco')
HAND = list(PIECES).index('hand')


@pytest.fixture(scope='module')
def table():
    """The planner, and scenes with their pictures and where the pieces are in them."""
    contract = load_contract('panda')
    planner = make_planner('compact', contract, threads=1)
    env = make_environment('panda', {'task': 'touch'}, contract.cameras[0].height)
    pieces = PandaPieces(env)
    scenes = []
    for seed in (11, 12, 13):
        env.reset(seed)
        middles = pieces.tracks(pieces.frames(env.scene()), env.scene_info)[0][..., :2]
        picture = canvas.tile(env.render_views(), contract)
        scenes.append((picture, middles, [name.split()[1] for name in env.objects]))
    return planner, scenes


def test_it_finds_the_hand_and_the_cubes(table):
    planner, scenes = table
    for picture, middles, colours in scenes:
        sight = planner.look(to_signal(np.stack(np.split(picture, 3, axis=1))))
        wanted = [HAND, *(list(PIECES).index(f'cube_{colour}') for colour in colours)]
        off = (sight.middles - torch.from_numpy(middles)).norm(dim=-1)[:2, wanted]
        assert sight.seen[0, wanted].all()
        assert off.median() < 0.8 and off.max() < 5  # px; the hand may hide a part


def test_the_imagined_hand_goes_to_the_cube_that_is_named(table):
    planner, scenes = table
    nearer = 0
    for picture, middles, colours in scenes:
        for colour in colours:
            plan = planner.plan(picture[None], f'poke the {colour} cube', seed=3)
            assert plan_motion(picture, plan.frames[-1]) > 50
            last = planner.look(to_signal(np.stack(np.split(plan.frames[-1], 3, axis=1))))
            moved = last.middles[:2, HAND].numpy() - middles[:2, HAND]
            other = [c for c in colours if c != colour]
            way, *ways = (
                middles[:2, list(PIECES).index(f'cube_{c}')] - middles[:2, HAND]
                for c in (colour, *other)
            )
            # Across the picture: down is where all cubes are.
            nearer += all(
                abs(way[:, 0] - moved[:, 0]).sum() <= abs(w[:, 0] - moved[:, 0]).sum() + 3
                for w in ways
            )
    assert nearer >= 7  # of 9


def test_asked_for_what_is_not_there_it_stays(table):
    planner, scenes = table
    for picture, _, _ in scenes:
        plan = planner.plan(picture[None], 'make me a sandwich', seed=3)
        assert plan_motion(picture, plan.frames[-1]) < 50


def test_it_does_what_it_is_told():
    contract = load_contract('panda')
    found = measure(make_planner('compact', contract, threads=1), contract, scenes=6)
    assert found.right.shape == (6, contract.video.look_ahead)
    assert found.gap()[0] > 1  # dB; 2.5 over 100 scenes
    assert (found.moving > 50).all()
