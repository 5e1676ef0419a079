"""The parameters of a graph's nodes, and the contract that they run under, read as they change."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import yaml
from rcl_interfaces.msg import ParameterEvent, ParameterType
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.qos import qos_profile_parameter_events

from vera_core.contract import Contract, load_contract, parse_overrides

PATIENCE = 10  # looks without an answer before a node is asked again
_FIELDS = {
    ParameterType.PARAMETER_BOOL: 'bool_value',
    ParameterType.PARAMETER_INTEGER: 'integer_value',
    ParameterType.PARAMETER_DOUBLE: 'double_value',
    ParameterType.PARAMETER_STRING: 'string_value',
    ParameterType.PARAMETER_BYTE_ARRAY: 'byte_array_value',
    ParameterType.PARAMETER_BOOL_ARRAY: 'bool_array_value',
    ParameterType.PARAMETER_INTEGER_ARRAY: 'integer_array_value',
    ParameterType.PARAMETER_DOUBLE_ARRAY: 'double_array_value',
    ParameterType.PARAMETER_STRING_ARRAY: 'string_array_value',
}


class GraphParameters:
    """Asks every node of a namespace for its parameters; `look` is called now and then.

    Args:
        node: whose executor brings the answers.
        changed: called with a node's full name and its parameters whenever they are new.

    Attributes:
        contract: of the graph; None until a node has told it.
        trouble: why a contract that was told cannot be loaded, or ''.
    """

    def __init__(self, node: Node, changed: Callable[[str, dict[str, Any]], None]) -> None:
        self._node, self._changed = node, changed
        self._known: dict[str, dict[str, Any]] = {}
        self._due: set[str] = set()
        self._asked: dict[str, int] = {}
        self._clients: dict[str, Client] = {}
        self.contract: Contract | None = None
        self.trouble = ''
        node.create_subscription(
            ParameterEvent, '/parameter_events', self._on_event, qos_profile_parameter_events
        )

    def look(self) -> None:
        """Ask nodes that are new or have changed; answers come with the executor."""
        space = self._node.get_namespace()
        present = set()
        for name, where in self._node.get_node_names_and_namespaces():
            full = f'{where.rstrip("/")}/{name}'
            if where == space and name != self._node.get_name() and not name.startswith('_'):
                present.add(full)
                if full not in self._known and full not in self._asked:
                    self._due.add(full)
        for name in list(self._asked):
            self._asked[name] -= 1
            if self._asked[name] <= 0:
                del self._asked[name]  # no answer: it died, or was too busy
                self._due.add(name)
        for name in sorted(self._due & present):
            if self._ask(name, ListParameters, 'list_parameters', ListParameters.Request(),
                         partial(self._on_names, name)):  # fmt: skip
                self._due.discard(name)
                self._asked[name] = PATIENCE

    def _on_event(self, event: ParameterEvent) -> None:
        if event.node in self._known or event.node in self._asked:
            self._due.add(event.node)

    def _ask(
        self, name: str, kind: Any, service: str, request: Any, take: Callable[[Any], None]
    ) -> bool:
        where = f'{name}/{service}'
        if where not in self._clients:
            self._clients[where] = self._node.create_client(kind, where)
        client = self._clients[where]
        if not client.service_is_ready():
            return False
        client.call_async(request).add_done_callback(lambda future: take(future.result()))
        return True

    def _on_names(self, name: str, answer: ListParameters.Response) -> None:
        names = sorted(answer.result.names)
        self._ask(name, GetParameters, 'get_parameters', GetParameters.Request(names=names),
                  partial(self._on_values, name, names))  # fmt: skip

    def _on_values(self, name: str, names: list[str], answer: GetParameters.Response) -> None:
        self._asked.pop(name, None)
        found = {
            key: _plain(getattr(value, _FIELDS[value.type]))
            for key, value in zip(names, answer.values, strict=False)
            if value.type in _FIELDS
        }
        if found == self._known.get(name):
            return
        self._known[name] = found
        if self.contract is None and found.get('contract'):
            self._load(str(found['contract']), str(found.get('contract_overrides', '')))
        self._changed(name, found)

    def _load(self, contract: str, overrides: str) -> None:
        try:
            self.contract = load_contract(contract, parse_overrides(overrides))
        except ValueError as error:
            self.trouble = str(error)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else list(value)


def parameter_file(name: str, parameters: dict[str, Any]) -> str:
    """A ROS parameter file of one node."""
    return yaml.safe_dump({name: {'ros__parameters': parameters}}, sort_keys=True)
