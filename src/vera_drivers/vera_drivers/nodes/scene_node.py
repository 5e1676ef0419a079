"""What rviz and other viewers show of a robot: robot_description, TF and markers. Named `scene`.

Nothing in the control path hears of it. Joint states, goals and chunks are subscribed to only
while somebody listens to what is made of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, TransformStamped
from rclpy.clock import Clock, ClockType
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import ColorRGBA, String
from visualization_msgs.msg import Marker, MarkerArray

from tf2_msgs.msg import TFMessage
from vera_core.chunk import ChunkError
from vera_core.contract_reader import ContractError
from vera_core.kinematics.description import description_text
from vera_core.kinematics.transforms import Float
from vera_core.kinematics.urdf import UrdfError
from vera_core.nodes.base import OK, WARN, VeraNode, run_node
from vera_core.nodes.convert import StateError, chunk_from_msg, joints_from_msg, stamp_to_msg
from vera_core.nodes.qos import CHUNK, LATCHED, MARKERS, STATE, TF
from vera_core.rotations import quaternion_from_matrix
from vera_core.state_history import HistoryError, StateHistory
from vera_drivers.scene import Edge, Scene, box_edges
from vera_msgs.msg import ActionChunk, ControllerStatus, GoalStatus

WATCH_PERIOD_S = 0.25  # between looks whether somebody listens
MARKERS_PERIOD_S = 0.5
WHITE, GREEN, AMBER, RED, BLUE = (
    (1.0, 1.0, 1.0), (0.3, 0.9, 0.3), (1.0, 0.7, 0.1), (1.0, 0.25, 0.2), (0.25, 0.6, 1.0),
)  # fmt: skip
STATES = ('IDLE', 'READY', 'RUNNING', 'HOLD', 'STOPPED', 'ESTOP')
STATE_COLOURS = (WHITE, WHITE, GREEN, AMBER, RED, RED)
GOALS = ('NONE', 'ACTIVE', 'SUCCEEDED', 'CANCELLED', 'ABORTED')
GOAL_COLOURS = (WHITE, BLUE, GREEN, AMBER, RED)


class SceneNode(VeraNode):
    """Publishes robot_description, /tf, /tf_static and markers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('scene', **kwargs)

    def setup(self) -> None:
        description = self.param(
            'description', '', "URDF, or xacro with its arguments; empty = the contract's own"
        )
        self._robot = self.param(
            'robot', True, 'robot_description and the frames of links; else only the rest'
        )
        self.param(
            'rate', 30.0, '[Hz] most /tf messages a second', low=1.0, high=1000.0, read_only=False
        )
        known = bool(description) or self.contract.kinematics is not None
        text = description_text(self.contract, description) if known else None
        self._scene = Scene(self.contract, text)
        self._tf = self.create_publisher(TFMessage, '/tf', TF)
        self._still = self.create_publisher(TFMessage, '/tf_static', LATCHED)
        self._markers = self.create_publisher(MarkerArray, 'markers', MARKERS)
        self._description = None
        if self._robot and text is not None:
            self._description = self.create_publisher(String, 'robot_description', LATCHED)
            self._description.publish(String(data=text))
        self._still.publish(self._transforms(self._scene.still_frames(self._robot), Time()))
        self.report('scene', OK, 'no URDF: cameras only' if text is None else '')

    def start(self) -> None:
        self._inputs: list[Any] = []
        self._states = StateHistory(maxlen=300)
        self._last: Float | None = None
        self._due = self._markers_due = 0.0
        self._goal = GoalStatus()
        self._controller = ControllerStatus()
        self._path: Float | None = None
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(WATCH_PERIOD_S, self._watch, clock=steady)

    def _watch(self) -> None:
        """Listen while somebody listens."""
        viewed = self._markers.get_subscription_count() > 0
        wanted = viewed or (self._robot and self._tf.get_subscription_count() > 0)
        if wanted and not self._inputs:
            self._inputs = [
                # Raw: most states are passed over, and reading one costs more than that.
                self.create_subscription(
                    JointState, 'joint_states', self._on_state, STATE, raw=True
                ),
                self.create_subscription(GoalStatus, 'goal_status', self._on_goal, LATCHED),
                self.create_subscription(
                    ControllerStatus, 'controller_status', self._on_status, LATCHED
                ),
                self.create_subscription(ActionChunk, 'action_chunk', self._on_chunk, CHUNK),
            ]
        elif not wanted and self._inputs:
            for subscription in self._inputs:
                self.destroy_subscription(subscription)
            self._inputs = []
            self._states.clear()
            self._last = self._path = None
        if viewed and time.monotonic() >= self._markers_due:
            self._publish_markers()

    # TF --------------------------------------------------------------------------------------

    def _on_state(self, data: bytes) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        # On a grid of its own: 100 Hz in and 30 Hz out would else give 25 Hz.
        period = 1.0 / self.get_parameter('rate').value
        self._due = max(self._due + period, now + period / 2)
        with self.monitor('joint_states'):
            try:
                msg = deserialize_message(data, JointState)
                state = joints_from_msg(msg, self.contract.joint_names)
            except StateError as error:
                self.report('joint_states', WARN, f'joint_states: {error}')
                return
            self.report('joint_states', OK)
            if state.stamp <= (self._states.newest or 0):
                self._states.clear()  # the clock of the simulation was set back
            self._states.add(state.stamp, state.positions)
            self._last = state.positions
            if self._robot:
                edges = self._scene.moving_frames(state.positions)
                self._tf.publish(self._transforms(edges, stamp_to_msg(state.stamp)))

    @staticmethod
    def _transforms(edges: Iterable[Edge], stamp: Time) -> TFMessage:
        msg = TFMessage()
        for edge in edges:
            one = TransformStamped(child_frame_id=edge.child)
            one.header.frame_id, one.header.stamp = edge.parent, stamp
            to, turn = one.transform.translation, one.transform.rotation
            to.x, to.y, to.z = edge.T[:3, 3].tolist()
            turn.x, turn.y, turn.z, turn.w = quaternion_from_matrix(edge.T[:3, :3]).tolist()
            msg.transforms.append(one)
        return msg

    # Markers ---------------------------------------------------------------------------------

    def _on_goal(self, msg: GoalStatus) -> None:
        self._goal = msg
        if msg.status != GoalStatus.ACTIVE:
            self._path = None
        self._markers_due = 0.0

    def _on_status(self, msg: ControllerStatus) -> None:
        if (msg.state, msg.reason) != (self._controller.state, self._controller.reason):
            self._markers_due = 0.0
        self._controller = msg

    def _on_chunk(self, msg: ActionChunk) -> None:
        if self._last is None:
            return
        with self.monitor('action_chunk'):
            try:
                chunk = chunk_from_msg(msg)
                self._path = self._scene.tool_path(chunk, self._at(chunk.stamp, self._last))
            except (ChunkError, ContractError, UrdfError) as error:
                self.report('action_chunk', WARN, f'action_chunk: {error}')
                return
            self.report('action_chunk', OK)
        self._markers_due = 0.0

    def _at(self, stamp: int, otherwise: Float) -> Float:
        """Joint positions at an anchor; the newest ones for one that is still to come."""
        try:
            return self._states.at(stamp)
        except HistoryError:
            return otherwise

    def _publish_markers(self) -> None:
        self._markers_due = time.monotonic() + MARKERS_PERIOD_S
        goal, status = self._goal, self._controller
        size, top = 0.06 * self._scene.reach, self._top()
        name = GOALS[goal.status] if goal.status < len(GOALS) else str(goal.status)
        words = f'{goal.prompt}: {name}' if goal.goal_id else 'no goal yet'
        if goal.message and goal.status == GoalStatus.ABORTED:
            words += f'\n{goal.message}'
        known = status.state < len(STATES)
        state = STATES[status.state] if known else str(status.state)
        array = MarkerArray()
        array.markers = [
            self._text('goal', words, top + 2.5 * size, size, _of(GOAL_COLOURS, goal.status)),
            self._text(
                'status', f'{state}: {status.reason}' if status.reason else state, top + size,
                0.8 * size, _of(STATE_COLOURS, status.state),
            ),
            self._lines('plan', Marker.LINE_STRIP, self._path, 0.1 * size, BLUE),
        ]
        box = self._workspace()
        if box is not None:
            array.markers.append(
                self._lines('workspace', Marker.LINE_LIST, box_edges(*box), 0.05 * size, WHITE)
            )
        self._markers.publish(array)

    def _workspace(self) -> tuple[Float, Float] | None:
        """Low and high corners [3] m of where the tool may be, in the root's axes."""
        safety = self.contract.safety
        if safety is None or safety.workspace is None:
            return None
        box = np.array([safety.workspace.x, safety.workspace.y, safety.workspace.z])
        return box[:, 0], box[:, 1]

    def _top(self) -> float:
        box = self._workspace()
        return float(box[1][2]) if box is not None else 0.3 * self._scene.reach

    def _marker(self, name: str, kind: int, colour: tuple[float, float, float]) -> Marker:
        marker = Marker(ns=name, id=0, type=kind, action=Marker.ADD)
        marker.header.frame_id = self._scene.root  # stamp 0: wherever that frame is now
        marker.pose.orientation.w = 1.0
        red, green, blue = colour
        marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
        return marker

    def _text(
        self, name: str, words: str, z: float, size: float, colour: tuple[float, float, float]
    ) -> Marker:
        marker = self._marker(name, Marker.TEXT_VIEW_FACING, colour)
        marker.text, marker.scale.z, marker.pose.position.z = words, size, z
        return marker

    def _lines(
        self,
        name: str,
        kind: int,
        points: Float | None,
        width: float,
        colour: tuple[float, float, float],
    ) -> Marker:
        marker = self._marker(name, kind, colour)
        if points is None:
            marker.action = Marker.DELETE
            return marker
        marker.scale.x = width
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in points.tolist()]
        return marker


def _of(colours: tuple[tuple[float, float, float], ...], i: int) -> tuple[float, float, float]:
    return colours[i] if i < len(colours) else WHITE


def main() -> int:
    """Entry point of the executable."""
    return run_node(SceneNode)


if __name__ == '__main__':
    sys.exit(main())
