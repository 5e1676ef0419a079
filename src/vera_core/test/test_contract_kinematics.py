"""The optional sections about geometry: where the URDF is, and how cameras see."""

import pytest

from vera_core.contract import ContractError, build_contract, load_contract

TOP = {
    'name': 'top',
    'focal': [200, 200],
    'centre': [63.5, 63.5],
    'position': [0, 0, 1],
    'orientation': [1, 0, 0, 0],
}


def finger(**sections):
    # Lists are not addressable by name before they are there, so they come whole.
    return load_contract('finger', {'kinematics': None, 'calibration': [], **sections})


def test_sections_survive_plain_data_and_the_folder_is_no_part_of_them():
    contract = finger(kinematics={'urdf': 'arm.urdf', 'tool': 'tip'}, calibration=[TOP])
    assert contract.folder is not None
    assert contract.kinematics.tool == 'tip'
    assert contract.calibration[0].model == 'pinhole'
    again = build_contract(contract.to_dict())
    assert again == contract
    assert again.hash == contract.hash
    assert again.folder is None
    assert 'folder' not in contract.to_dict()


def test_written_to_another_folder_its_paths_still_hold():
    contract = finger(kinematics={'urdf': '../urdf/arm.urdf'}, calibration=[TOP])
    plain = contract.portable_dict()
    assert plain['kinematics']['urdf'] == str(contract.folder.parent / 'urdf' / 'arm.urdf')
    for urdf in ('<robot/>', '/opt/arm.urdf'):
        same = finger(kinematics={'urdf': urdf}, calibration=[TOP])
        assert same.portable_dict() == same.to_dict()
    assert build_contract(contract.to_dict()).portable_dict() == contract.to_dict()


def test_a_contract_needs_neither():
    contract = finger()
    assert contract.kinematics is None
    assert contract.calibration == ()


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'name': 'tpo'}, r"calibration.tpo: unknown camera 'tpo'; did you mean 'top'"),
        ({'model': 'fisheye'}, "calibration.top.model: unknown model 'fisheye'"),
        ({'focal': [200, 0]}, 'calibration.top.focal: is 0.0; it must be greater than 0'),
        ({'focal': [200]}, 'calibration.top.focal: is a list of 1; a list of 2 numbers'),
        ({'position': [0, 0, float('nan')]}, 'calibration.top.position'),
        ({'orientation': [0, 0, 0, 0]}, 'orientation: is zero; no turn at all is'),
        ({'lens': 3}, 'calibration.top.lens: unknown key'),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_a_wrong_calibration_is_named(change, words):
    with pytest.raises(ContractError, match=words):
        finger(calibration=[{**TOP, **change}])


def test_a_camera_is_calibrated_once():
    with pytest.raises(ContractError, match=r"calibration.top: duplicate name 'top'"):
        finger(calibration=[TOP, TOP])


@pytest.mark.parametrize(
    ('axes', 'words'),
    [
        ({'reach': 'x'}, None),
        ({'reach': 'rz'}, "kinematics.axes.reach: is 'rz'; a channel in m moves along x, y, z"),
        ({'reach': 'up'}, "kinematics.axes.reach: is 'up'"),
        ({'raech': 'x'}, "unknown cartesian_delta channel 'raech'; did you mean 'reach'"),
        ({'joint_1': 'x'}, "unknown cartesian_delta channel 'joint_1'"),
    ],
    ids=str,
)
def test_axes_are_of_cartesian_channels_and_fit_their_unit(axes, words):
    contract = finger(kinematics={'urdf': 'arm.urdf'}, calibration=[TOP])
    data = contract.to_dict()
    data['channels'].append(
        {'name': 'reach', 'kind': 'cartesian_delta', 'unit': 'm', 'joint': None, 'scale': 0.01}
    )
    data['kinematics']['axes'] = axes
    if words is None:
        assert build_contract(data).kinematics.axes == axes
        return
    with pytest.raises(ContractError, match=words):
        build_contract(data)
