"""Whether a node is ready, as the network tells: what it offers itself counts, not who asks."""

from __future__ import annotations

import time

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from std_srvs.srv import Trigger

from graph_tools import unique_domain
from vera_bringup.environment import enter
from vera_bringup.nodes.probe import ready

PATIENCE = 20.0  # s


def test_a_planner_is_ready_when_it_offers_its_service_not_when_others_ask_for_it():
    domain = unique_domain()
    enter(domain)
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    try:
        nodes = {
            name: Node(name, namespace='vera', context=context, start_parameter_services=False)
            for name in ('cockpit', 'planner', 'probe')
        }
        probe = nodes['probe']

        def until(condition) -> bool:
            deadline = time.monotonic() + PATIENCE
            while not (found := condition()) and time.monotonic() < deadline:
                time.sleep(0.05)
            return found

        asks = nodes['cockpit'].create_client(Trigger, 'set_goal')
        known = lambda: '/vera/set_goal' in dict(probe.get_service_names_and_types())  # noqa: E731
        assert until(known), 'a client alone makes the name known'
        assert not ready(probe, 'vera', 'planner')
        assert not ready(probe, 'vera', 'controller')  # nobody has this name
        nodes['planner'].create_service(Trigger, 'set_goal', lambda request, answer: answer)
        assert until(lambda: ready(probe, 'vera', 'planner'))
        assert asks.service_is_ready()
    finally:
        rclpy.shutdown(context=context)
