"""Measured joint positions of a running graph, for commands that look at cameras themselves."""

from __future__ import annotations

from typing import Any

from sensor_msgs.msg import JointState

from vera_bringup.nodes.client import VeraClient
from vera_core.contract import Contract
from vera_core.nodes.convert import StateError, joints_from_msg
from vera_core.nodes.qos import STATE
from vera_core.state_history import StateHistory


class JointListener(VeraClient):
    """Remembers joint_states. A context manager; spun by `until` and `spin`.

    Args:
        contract: names and orders the joints.
        domain: ROS domain.
        namespace: of the graph.

    Attributes:
        states: measured positions of the last seconds, in the contract's order.
        problem: why joint_states cannot be used, in words; '' if they can.
    """

    def __init__(self, contract: Contract, domain: int, namespace: str) -> None:
        super().__init__(domain, namespace)
        self._contract = contract
        self.states = StateHistory(max_gap=contract.control.state_timeout)
        self.problem = 'no joint_states yet'

    def __enter__(self) -> JointListener:
        super().__enter__()
        self.node.create_subscription(JointState, 'joint_states', self._on_state, STATE)
        return self

    def await_moment(self, stamp: int, timeout: float) -> bool:
        """Spin until the joints of `stamp` [ns] are known, at most `timeout` seconds."""
        return self.until(lambda: (self.states.newest or 0) >= stamp, timeout)

    def _on_state(self, message: Any) -> None:
        try:
            state = joints_from_msg(message, self._contract.joint_names)
        except StateError as error:
            self.problem = f'joint_states: {error}'
            return
        self.problem = ''
        if state.stamp > (self.states.newest or 0):
            self.states.add(state.stamp, state.positions)


__all__ = ['JointListener']
