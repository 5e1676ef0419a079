"""The optional sections about safety: limits beyond joints, and the gripper."""

import numpy as np
import pytest

from vera_core.contract import ContractError, build_contract, load_contract


def test_the_panda_says_all_and_survives_plain_data():
    contract = load_contract('panda')
    assert contract.safety.workspace.z[0] > 0
    assert np.isfinite(contract.jerk_limits[:7]).all() and np.isinf(contract.jerk_limits[7])
    assert build_contract(contract.to_dict()) == contract
    # Written to another folder, its paths still hold.
    plain = contract.portable_dict()
    assert plain['safety']['spheres'] == str(contract.resolve(contract.safety.spheres))
    assert build_contract(plain).hash != contract.hash


def test_a_contract_needs_neither():
    contract = load_contract('finger')
    assert contract.safety is None and contract.gripper is None
    assert np.isinf(contract.jerk_limits).all()


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'joints.panda_joint1.jerk': 0.0}, 'panda_joint1.jerk: is 0.0.*greater than 0'),
        ({'safety.workspace.x': [0.5, 0.2]}, r'safety.workspace.x: leaves no room: \[0.5, 0.2\]'),
        ({'safety.workspace.y': None}, 'safety.workspace.y: is missing'),
        ({'safety.clearance': -0.1}, 'safety.clearance: is -0.1 m; it must be at least 0'),
        ({'safety.tool_speed': [0.5, 0.0]}, 'safety.tool_speed: is 0.0; it must be greater'),
        ({'safety.spheres': None}, 'safety.floor: needs spheres'),
        ({'safety.per_step.translation': 0.0}, 'safety.per_step.translation: is 0.0'),
        ({'safety.per_stp': {}}, 'safety.per_stp: unknown key; did you mean'),
        ({'gripper.close_below': 0.9}, 'gripper.close_below: 0.9 is above open_above'),
        ({'gripper.force': -1.0}, 'gripper.force: is -1.0 N'),
        ({'kinematics': None, 'calibration': []}, 'safety.spheres: need to know the links'),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_each_mistake_has_its_message(change, words):
    with pytest.raises(ContractError, match=words):
        load_contract('panda', change)


def test_limits_of_the_tool_need_a_tool():
    words = r'safety\.workspace: limits the tool, and none is named'
    with pytest.raises(ContractError, match=words):
        load_contract('panda_joints', {'kinematics.tool': None})


def test_a_gripper_section_needs_a_gripper():
    with pytest.raises(ContractError, match='gripper: there is no channel of kind gripper'):
        load_contract(
            'finger',
            {'gripper': {'close_below': 0.4, 'open_above': 0.6, 'force': 9.0, 'width': 0.1}},
        )
