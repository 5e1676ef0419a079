import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vera_core.contract import (
    Contract,
    ContractError,
    build_contract,
    hash_fields,
    load_contract,
    parse_overrides,
)


def test_the_finger_of_the_source_tree_loads_by_name():
    contract = load_contract('finger')
    assert contract.embodiment == 'finger'
    assert contract.sim is not None and contract.sim.environment == 'finger'
    assert contract.channel_names == contract.joint_names


def test_arrays_follow_the_order_of_the_joints(contract):
    assert contract.joint_names == ('shoulder', 'elbow')
    np.testing.assert_array_equal(contract.home_positions, [0.5, -0.5])
    low, high = contract.position_limits
    np.testing.assert_array_equal(low, [-3, -2])
    np.testing.assert_array_equal(high, [3, 2.5])
    np.testing.assert_array_equal(contract.velocity_limits, [2, 1.5])
    np.testing.assert_array_equal(contract.acceleration_limits, [25, 20])
    np.testing.assert_array_equal(contract.channel_scales, [0.1, 1, 1])


def test_places_go_by_name(contract):
    assert contract.joint_index('elbow') == 1
    assert contract.channel_index('grip') == 2
    assert contract.camera('side').width == 60
    with pytest.raises(ContractError, match="unknown camera 'sid'; did you mean 'side'"):
        contract.camera('sid')


def test_times_are_whole_nanoseconds(contract):
    assert contract.video.frame_period_ns == 200_000_000
    assert contract.control.period_ns == 10_000_000
    assert contract.ticks_per_frame == 20
    assert contract.camera('top').period_ns == 50_000_000


def test_camera_info_lies_beside_the_image(contract):
    assert contract.camera('top').info_topic == 'top/color/camera_info'
    lone = dataclasses.replace(contract.camera('top'), topic='image')
    assert lone.info_topic == 'camera_info'


def test_a_frame_period_of_one_fifteenth_fits_fifteen_hertz(write):
    overrides = {
        'video.frame_period': 0.0666666667,
        'control.rate': 150,
        'cameras.top.rate': 15,
        'cameras.side.rate': 30,
        'sim.physics_rate': 1500,
    }
    assert load_contract(write(), overrides).ticks_per_frame == 10


def test_a_contract_cannot_be_changed(contract):
    with pytest.raises(dataclasses.FrozenInstanceError):
        contract.embodiment = 'other'


def test_replacing_a_part_is_checked_too(contract):
    with pytest.raises(ContractError, match='more than the 4 frames'):
        dataclasses.replace(contract, video=dataclasses.replace(contract.video, committed=9))


def test_overrides_reach_named_things_and_keep_the_rest(write):
    path = write()
    plain = load_contract(path)
    changed = load_contract(
        path,
        {
            'joints.elbow.velocity': 0.5,
            'video': {'committed': 4},
            'sim.options': {'discs': 3},
            'cameras.side.crop': {'x': 10, 'y': 0, 'width': 40, 'height': 40},
        },
    )
    assert changed.joints[1].velocity == 0.5
    assert changed.joints[0] == plain.joints[0]
    assert changed.video == dataclasses.replace(plain.video, committed=4)
    assert changed.sim.options == {'joints': 2, 'discs': 3}
    assert changed.slot_width(changed.camera('side')) == 32
    assert load_contract(path, {'sim': None}).sim is None
    assert load_contract(path) == plain


def test_a_whole_list_can_be_replaced(write):
    one = [{'name': 'shoulder', 'position': [-1, 1], 'velocity': 1, 'acceleration': 1}]
    changed = load_contract(
        write(),
        {
            'joints': one,
            'home': {'shoulder': 0, 'elbow': None},
            'channels': [{'name': 'a', 'joint': 'shoulder', 'kind': 'joint_delta', 'unit': 'rad'}],
        },
    )
    assert changed.joint_names == ('shoulder',)


def test_overrides_do_not_change_the_mapping_given(write):
    overrides = {'sim.options': {'a': 1}}
    load_contract(write(), overrides)
    assert overrides == {'sim.options': {'a': 1}}


def test_overrides_of_one_line():
    assert parse_overrides('') == {}
    assert parse_overrides('{video.committed: 2, sim: null}') == {'video.committed': 2, 'sim': None}


def test_visual_fields_change_with_what_a_planner_sees_and_with_nothing_else(write):
    path = write()
    plain = hash_fields(load_contract(path).visual_fields())
    crop = {'x': 10, 'y': 0, 'width': 40, 'height': 40}
    for overrides in (
        {'canvas.width': 100},
        {'video.frame_period': 0.4},
        {'cameras.side.crop': crop},
        {'cameras.side.name': 'left'},
    ):
        assert hash_fields(load_contract(path, overrides).visual_fields()) != plain
    for overrides in ({'joints.elbow.velocity': 1.0}, {'video.committed': 1}, {'control.rate': 50}):
        assert hash_fields(load_contract(path, overrides).visual_fields()) == plain


def test_action_fields_change_with_units_and_views_and_not_with_time(write):
    path = write()
    plain = hash_fields(load_contract(path).action_fields())
    for overrides in ({'channels.a.unit': 'm'}, {'channels.a.name': 'c'}, {'canvas.height': 30}):
        assert hash_fields(load_contract(path, overrides).action_fields()) != plain
    assert hash_fields(load_contract(path, {'video.frame_period': 0.4}).action_fields()) == plain


def test_a_contract_survives_plain_data(contract):
    again = build_contract(contract.to_dict())
    assert isinstance(again, Contract)
    assert again == contract
    assert again.hash == contract.hash


plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    section=st.sampled_from(
        ['channels', 'joints', 'home', 'control', 'video', 'canvas', 'cameras', 'sim']
    ),
    value=plain_data,
)
def test_no_value_of_any_kind_gives_anything_but_a_contract_or_its_error(section, value):
    data = load_contract('finger').to_dict()
    data[section] = value
    try:
        assert isinstance(build_contract(data), Contract)
    except ContractError as error:
        assert str(error).startswith(section)
