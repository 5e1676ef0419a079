"""The analytic translator on the finger: its URDF is what the painter paints, and it acts."""

from __future__ import annotations

import numpy as np
import pytest

from vera_bringup.evaluation import EvaluationOptions, evaluate, evaluation_contract
from vera_bringup.selfplay import contract_with_joints
from vera_core import canvas
from vera_core.contract import load_contract
from vera_core.contract_files import source_root
from vera_jidm.analytic import AnalyticJacobian
from vera_jidm.analytic_translator import AnalyticTranslator
from vera_jidm.registry import make_translator
from vera_sim.finger import FingerEnv
from vera_sim.finger_painter import link_map
from vera_sim.finger_urdf import finger_urdf


def test_the_shipped_urdf_is_the_finger_of_the_contract():
    shipped = source_root() / 'config' / 'urdf' / 'finger.urdf'
    assert shipped.read_text() == finger_urdf(len(load_contract('finger').joints))


@pytest.mark.parametrize('joints', [2, 3, 5, 10])
def test_jacobian_and_links_are_those_of_the_painter(joints):
    contract = contract_with_joints(load_contract('finger'), joints)
    model = AnalyticJacobian.from_contract(contract)
    env = FingerEnv(joints, 3, 128)
    rng = np.random.default_rng(joints)
    for _ in range(3):
        q, _ = env.random_scene(rng)
        names = [f'link_{k + 1}' for k in range(joints)]
        place = {model.tree.link_index(name): k for k, name in enumerate(names)} | {-1: -1}
        links = np.vectorize(place.get)(model.links(q))
        same = links == link_map(q, 64)
        # Two descriptions of one outline may differ where it passes through a pixel's centre.
        assert (~same).sum() <= 3
        ours, theirs = model.jacobian(q)[0], env.analytic_jacobian(q, 64)
        np.testing.assert_allclose(ours[same], theirs[same], atol=1e-3)


def test_actions_from_estimated_flow_of_real_pictures():
    """Mean square error in units of the actions' variance; no training has seen this robot."""
    contract = load_contract('finger')
    translator = AnalyticTranslator.from_contract(contract)
    env = FingerEnv(3, 3, 128)
    rng = np.random.default_rng(11)
    errors = []
    for _ in range(20):
        _, discs = env.random_scene(rng)
        q0, q1 = env.self_play(rng)
        env.set_scene(q0, discs)
        a, b = (canvas.tile({'top': env.render_at(q)}, contract) for q in (q0, q1))
        found = translator.translate(a, b[None], q0).values[0]
        errors.append(np.square(found - (q1 - q0)).mean() / (0.12**2 / 3))
    assert np.mean(errors) < 0.01
    assert np.median(errors) < 0.003


def test_it_closes_the_loop():
    contract = evaluation_contract('finger')
    options = EvaluationOptions(planner='oracle', translator='analytic', episodes=2, seed=4)
    results = list(evaluate(contract, options))
    assert [result.success for result in results] == [True, True]


def test_the_example_arm_of_the_how_to_is_seen():
    contract = load_contract(source_root() / 'docs' / 'how-to' / 'example' / 'arm.yaml')
    translator = make_translator('analytic', contract)
    assert translator.needs_state
    model = AnalyticJacobian.from_contract(contract)
    J = model.jacobian(contract.home_positions)[0]
    # Every joint moves some pixel by more than half a pixel in its typical action.
    moved = np.linalg.norm(J * contract.channel_scales, axis=2).max((0, 1))
    assert (moved > 0.5).all()
    links = model.links(contract.home_positions)
    assert len(np.unique(links)) >= 9
    # The whole arm is in the picture.
    assert (links[0] == -1).all() and (links[:, 0] == -1).all() and (links[:, -1] == -1).all()
