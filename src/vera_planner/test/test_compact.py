"""The compact planner behind its seam, its text encoder and its checkpoint."""

import numpy as np
import pytest
import torch

from vera_core.checkpoint import CheckpointError, find_checkpoint, write_checkpoint
from vera_core.contract import load_contract
from vera_core.seams import VideoPlanner
from vera_planner.compact import CompactPlanner, PlannerError, to_frames, to_signal
from vera_planner.network import NetworkConfig, build
from vera_planner.registry import make_planner
from vera_planner.text import DIM, shared_encoder

CONFIG = NetworkConfig(width=16, depth=1)


@pytest.fixture(scope='module')
def planner():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return CompactPlanner(build(CONFIG), frame_period=0.2, steps=2)


def test_it_is_a_video_planner(planner):
    assert isinstance(planner, VideoPlanner)


@pytest.mark.parametrize('have', [1, 2, 4, 9])
def test_any_length_of_context_gives_a_plan(planner, have):
    context = np.random.default_rng(0).integers(0, 255, (have, 64, 64, 3), np.uint8)
    plan = planner.plan(context, 'touch the red disc', seed=3)
    assert plan.frames.shape == (4, 64, 64, 3) and plan.frames.dtype == np.uint8
    assert plan.frame_period == 0.2


def test_the_same_seed_gives_the_same_plan(planner):
    context = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
    a, b = (planner.plan(context, 'touch the red disc', seed=7).frames for _ in range(2))
    assert (a == b).all()


@pytest.mark.parametrize('shape', [(0, 64, 64, 3), (4, 32, 64, 3), (64, 64, 3), (4, 64, 64, 1)])
def test_a_context_of_another_shape_is_refused_by_name(planner, shape):
    with pytest.raises(PlannerError, match='context has shape'):
        planner.plan(np.zeros(shape, np.uint8), 'touch the red disc')


def test_frames_survive_the_way_to_the_network_and_back():
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    assert (to_frames(to_signal(frames)) == frames).all()


def test_sentences_that_mean_the_same_are_close_and_colours_are_apart():
    encode = shared_encoder()
    a, b, c = (
        encode(s)
        for s in ('touch the red disc', 'put the tip on the red disc', 'make me a sandwich')
    )
    assert a.shape == (DIM,)
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-5)
    assert a @ b > a @ c + 0.2


def checkpoint(folder, contract, name='tiny'):
    network = build(CONFIG)
    tensors = {k: v.half().numpy() for k, v in network.state_dict().items()}
    write_checkpoint(
        folder / f'{name}.safetensors',
        tensors,
        kind='planner',
        config=CONFIG.to_dict(),
        contract=contract.visual_fields(),
        training={'licence': 'Apache-2.0'},
    )
    return folder / f'{name}.safetensors'


def test_a_checkpoint_makes_the_planner_that_was_saved(tmp_path):
    contract = load_contract('finger')
    file = checkpoint(tmp_path, contract)
    made = make_planner('compact', contract, checkpoint=str(file), threads=1, steps=1)
    assert made.checkpoint_hash == find_checkpoint(str(file)).short_hash
    assert made.plan(np.zeros((1, 64, 64, 3), np.uint8), 'touch the red disc').frames.shape[0] == 4


def test_a_checkpoint_of_another_canvas_is_refused_by_what_differs(tmp_path):
    contract = load_contract('finger')
    other = load_contract('finger', {'canvas': {'height': 128, 'width': 128}})
    file = checkpoint(tmp_path, other)
    with pytest.raises(CheckpointError, match='canvas'):
        make_planner('compact', contract, checkpoint=str(file))


def test_a_missing_checkpoint_says_where_it_looked_and_what_makes_it():
    with pytest.raises(CheckpointError, match='vera train planner'):
        make_planner('compact', load_contract('finger'), checkpoint='no_such_planner')


def test_an_unknown_planner_names_the_known_ones():
    with pytest.raises(ValueError, match='compact'):
        make_planner('wann', load_contract('finger'))


def test_an_oracle_without_a_simulation_is_refused():
    with pytest.raises(ValueError, match='simulation'):
        make_planner('oracle', load_contract('finger'))
