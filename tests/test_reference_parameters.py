"""The table of parameters, read from the source, is what running nodes declare."""

from __future__ import annotations

import importlib

import pytest
import rclpy
from rclpy.parameter import Parameter

from command_checks import reference_parameters
from graph_tools import unique_domain

#: What rclpy declares itself.
RCLPY = {'use_sim_time', 'start_type_description_service'}
CHEAP = ('sim_node', 'controller_node', 'scene_node')


@pytest.fixture(scope='module')
def context():
    own = rclpy.Context()
    rclpy.init(context=own, domain_id=unique_domain())
    yield own
    own.try_shutdown()


@pytest.mark.parametrize('name', CHEAP)
def test_the_source_says_what_a_node_declares(context, name):
    reference = reference_parameters()
    (cls,) = [c for c in reference.node_classes() if c.module.endswith(f'.{name}')]
    node = getattr(importlib.import_module(cls.module), cls.name)(
        context=context, parameter_overrides=[Parameter('autostart', value=False)]
    )
    try:
        node.trigger_configure()
        assert hasattr(node, 'contract')
        found = {key: node.describe_parameter(key) for key in node._parameters}
        found = {key: value for key, value in found.items() if key not in RCLPY}
        expected = {p.name: p for p in (*reference.common_parameters(), *cls.parameters)}
        assert set(found) == set(expected)
        for key, parameter in expected.items():
            told = found[key]
            assert told.description == parameter.description
            assert told.read_only == parameter.read_only
            ranges = [*told.floating_point_range, *told.integer_range]
            assert bool(ranges) == (parameter.low is not None or parameter.high is not None)
            if ranges and parameter.low is not None:
                assert ranges[0].from_value == parameter.low
            if ranges and parameter.high is not None:
                assert ranges[0].to_value == parameter.high
            if key != 'autostart':
                assert node.get_parameter(key).value == parameter.default
    finally:
        node.close()
