"""Our client with servers of others: openpi's way of talking, and what they call things."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from openpi_client import msgpack_numpy
from websockets.sync.server import serve

from vera_core.contract import load_contract
from vera_planner.planning import PlanRequest, imagine
from vera_planner.remote.client import RemoteError, RemoteOptions, RemotePlanner

# Two views of 64 px and 32 px of black on the right.
CAMERAS = [
    {'name': name, 'width': 128, 'height': 128, 'rate': 20, 'topic': f'{name}/color/image_raw'}
    for name in ('top', 'side')
]
CONTRACT = load_contract(
    'finger', {'cameras': CAMERAS, 'canvas.width': 160, 'calibration': [], 'kinematics': None}
)
CONTEXT = np.random.default_rng(7).integers(0, 256, (3, 64, 160, 3), np.uint8)
CONTEXT[:, :, 128:] = 0


class Other:
    """A server of others: metadata first, then the answer of `reply` to each observation."""

    def __init__(self):
        self.metadata: dict = {}
        self.heard: list = []
        self.reply = lambda heard: {'frames': np.repeat(heard['context_rgb'][-1:], 4, axis=0)}
        self._server = serve(self._talk, '127.0.0.1', 0, max_size=None, compression=None)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port = self._server.socket.getsockname()[1]

    def _talk(self, connection):
        connection.send(msgpack_numpy.packb(self.metadata))
        for message in connection:
            self.heard.append(msgpack_numpy.unpackb(message))
            answer = self.reply(self.heard[-1])
            connection.send(answer if isinstance(answer, str) else msgpack_numpy.packb(answer))

    def client(self, **keys):
        options = RemoteOptions(f'ws://127.0.0.1:{self.port}', adapter='openpi', keys=keys)
        return RemotePlanner(options, CONTRACT)

    def close(self):
        self._server.shutdown()
        self._thread.join()


@pytest.fixture
def other():
    found = Other()
    yield found
    found.close()


def test_the_observation_of_the_authors_server(other):
    plan = other.client().plan(CONTEXT, 'touch it')
    heard = other.heard[0]
    assert heard['endpoint'] == 'infer'
    assert heard['prompt'] == 'touch it'
    assert heard['view_keys'] == ['top', 'side']
    assert heard['view_widths'] == [64, 64]
    assert heard['dt'] == 0.2
    assert (heard['context_rgb'] == CONTEXT[:, :, :128]).all()  # without the padding
    assert plan.frames.shape == (4, 64, 160, 3)
    assert (plan.frames == CONTEXT[-1]).all()  # and with it again
    assert imagine(other.client(), PlanRequest(CONTEXT, 0, 'touch it'), CONTRACT).motion == 0


def test_frames_still_to_be_executed_are_the_end_of_the_context(other):
    pending = CONTEXT[:2] // 2
    plan = other.client().plan(CONTEXT, 'touch it', pending=pending)
    expected = np.concatenate([CONTEXT, pending])[-4:]
    assert (other.heard[0]['context_rgb'] == expected[:, :, :128]).all()
    assert (plan.frames == pending[-1]).all()


def test_each_goal_is_a_session(other):
    remote = other.client()
    first = remote.plan(CONTEXT, 'touch it')
    remote.plan(CONTEXT, 'touch it', warm_start=first.warm_start)
    remote.plan(CONTEXT, 'touch that')
    a, b, c = (heard['session_id'] for heard in other.heard)
    assert a == b != c


def test_views_by_the_names_of_the_server(other):
    other.reply = lambda _: {'info': {'video': np.zeros((4, 64, 128, 3), np.uint8)}}
    remote = other.client(
        context='', top='observation/exterior_image_0_left', side='observation/wrist_image_left',
        prompt='language', frames='info/video',
    )  # fmt: skip
    assert remote.plan(CONTEXT, 'touch it').frames.shape == (4, 64, 160, 3)
    heard = other.heard[0]
    assert heard.keys() == {
        'endpoint', 'language', 'session_id', 'observation/exterior_image_0_left',
        'observation/wrist_image_left',
    }  # fmt: skip
    assert (heard['observation/wrist_image_left'] == CONTEXT[-1][:, 64:128]).all()


@pytest.mark.parametrize('channels_first', [False, True])
def test_frames_as_the_authors_keep_them(other, channels_first):
    def reply(heard):
        frames = np.repeat(heard['context_rgb'][-1:], 4, axis=0).astype(np.float32)[None] / 255
        return {'frames': np.moveaxis(frames, -1, 2) if channels_first else frames}

    other.reply = reply
    assert (other.client().plan(CONTEXT, 'touch it').frames == CONTEXT[-1]).all()


@pytest.mark.parametrize(
    ('reply', 'message'),
    [
        ({'actions': np.zeros((10, 7))}, "answers with actions, not with 'frames': it is a policy"),
        (np.zeros((10, 7)), "answers with one array, not with 'frames'"),
        ({'frames': np.full((4, 64, 128, 3), 2.0)}, 'frames that are not in 0..1'),
        ({'frames': np.full((4, 64, 128, 3), np.nan)}, 'frames that are not in 0..1'),
        ('Traceback:\n  File "x"\nKeyError: \'q_robot\'', "says: KeyError: 'q_robot'"),
    ],
)
def test_what_is_no_plan_is_said(other, reply, message):
    other.reply = lambda _: reply
    with pytest.raises(RemoteError) as caught:
        other.client().plan(CONTEXT, 'touch it')
    assert message in str(caught.value)


@pytest.mark.parametrize('shape', [(4, 32, 128, 3), (4, 64, 100, 3), (64, 128, 3), (2, 64, 128, 3)])
def test_frames_of_another_shape_are_refused_by_the_seam(other, shape):
    other.reply = lambda _: {'frames': np.zeros(shape, np.uint8)}
    with pytest.raises(RuntimeError, match=r'the planner gave .*; (the contract|expected)'):
        imagine(other.client(), PlanRequest(CONTEXT, 0, 'touch it'), CONTRACT)


@pytest.mark.parametrize(
    ('metadata', 'message'),
    [
        ({'view_widths': [128]}, 'view_widths: server [128], contract [64, 64]'),
        ({'control_dt': 1 / 15}, 'control_dt: server 0.0666'),
        ({'image_resolution': [180, 320]}, 'image_resolution: server [180, 320], contract [64, 64'),
    ],
)
def test_what_the_metadata_say_is_checked(other, metadata, message):
    other.metadata = metadata
    with pytest.raises(RemoteError) as caught:
        other.client()
    assert message in str(caught.value)
    other.metadata = {'view_widths': [64, 64], 'control_dt': 0.2, 'image_resolution': None}
    other.client()


def test_without_the_adapter_it_is_no_server_of_ours(other):
    options = RemoteOptions(f'ws://127.0.0.1:{other.port}')
    with pytest.raises(RemoteError, match=r'no vera planner server; .* set adapter: openpi'):
        RemotePlanner(options, CONTRACT)


def test_unknown_names_are_refused(other):
    with pytest.raises(ValueError, match=r"unknown key 'wrist'; known: context, .*, top, side"):
        other.client(wrist='observation/wrist')
