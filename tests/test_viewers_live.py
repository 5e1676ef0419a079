"""What viewers see of a running PushT and of a running Panda; of the finger see test_graph.py."""

from __future__ import annotations

import numpy as np
import pytest
from std_msgs.msg import String
from visualization_msgs.msg import Marker, MarkerArray

from graph_tools import Vera, unique_domain
from tf2_msgs.msg import TFMessage
from vera_bringup.nodes.client import VeraClient
from vera_core.contract import load_contract
from vera_core.kinematics.description import description_text
from vera_core.kinematics.transforms import transform
from vera_core.nodes.qos import LATCHED, MARKERS, TF
from vera_core.rotations import matrix_from_quaternion
from viewer_tools import not_shown

pytestmark = pytest.mark.slow
PATIENCE = 90.0  # s: two cores, and other tests beside this one


@pytest.fixture(scope='module', params=['pusht', 'panda'])
def graph(request, tmp_path_factory):
    folder, domain = tmp_path_factory.mktemp('graph'), unique_domain()
    up = Vera('up', request.param, '--planner', 'oracle', '--domain', str(domain), cwd=folder)
    try:
        up.wait_for('all nodes are ready', 180)
        with VeraClient(domain, patience=PATIENCE) as client:
            yield request.param, client
    finally:
        up.end()
        up.kill()


def listen(client, kind, topic, qos):
    heard: list = []
    client.node.create_subscription(kind, topic, heard.append, qos)
    return heard


def matrix(pose):
    t, r = pose.translation, pose.rotation
    return transform(matrix_from_quaternion([r.x, r.y, r.z, r.w]), [t.x, t.y, t.z])


@pytest.mark.timeout(300)
def test_everything_that_rviz_shows_is_published(graph):
    name, client = graph
    assert client.until(lambda: not not_shown(client, name), PATIENCE), not_shown(client, name)


@pytest.mark.timeout(300)
def test_the_frames_are_one_tree_below_the_world_with_every_link_and_camera(graph):
    name, client = graph
    contract = load_contract(name)
    texts = listen(client, String, 'robot_description', LATCHED)
    still = listen(client, TFMessage, '/tf_static', LATCHED)
    moving = listen(client, TFMessage, '/tf', TF)
    assert client.until(lambda: texts and still and moving, PATIENCE)
    assert texts[-1].data == description_text(contract)
    frames = {t.child_frame_id: t for t in [*still[-1].transforms, *moving[-1].transforms]}
    for frame in frames:
        while frame in frames:
            frame = frames[frame].header.frame_id
        assert frame == 'world'
    cameras = {f'{c.name}_color_optical_frame' for c in contract.calibration}
    assert cameras | {contract.kinematics.tool} <= set(frames)
    if name == 'panda':
        assert len(cameras) == 3
        # The wrist camera rides on the hand, the others stand still.
        body = frames['wrist_link']
        assert body.header.frame_id == 'panda_hand'
        mount = matrix(body.transform) @ matrix(frames['wrist_color_optical_frame'].transform)
        given = next(c for c in contract.calibration if c.name == 'wrist')
        np.testing.assert_allclose(mount[:3, 3], given.position, atol=1e-9)


@pytest.mark.timeout(300)
def test_a_goal_and_where_the_tool_goes_are_marked(graph):
    name, client = graph
    markers = listen(client, MarkerArray, 'markers', MARKERS)
    assert client.until(lambda: bool(markers), PATIENCE)
    client.spin(1.0)  # the joint states are listened to since the first marker
    prompt = {'pusht': 'push the T onto its goal', 'panda': 'touch the red cube'}[name]
    answer = client.set_goal(prompt)
    assert answer.accepted, answer.message

    def path():
        return [m for a in markers for m in a.markers if m.ns == 'plan' and m.points]

    wanted = lambda: bool(path()) or client.goal_ended(answer.goal_id)  # noqa: E731
    assert client.until(wanted, PATIENCE)
    texts = {m.ns: m.text for m in markers[-1].markers if m.type == Marker.TEXT_VIEW_FACING}
    assert texts['goal'].startswith(prompt)
    if path():
        points = np.array([[p.x, p.y, p.z] for p in path()[-1].points])
        assert len(points) == load_contract(name).video.committed + 1
        assert 0 < np.linalg.norm(np.diff(points, axis=0), axis=1).max() < 0.2
