"""Server and client of the remote planner, with each other, with openpi's client, and broken."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from vera_core.contract import load_contract
from vera_core.seams import Plan, VideoPlanner
from vera_planner.goal import PlanRefusedError
from vera_planner.planning import PlanRequest, imagine, warm_up
from vera_planner.registry import make_planner
from vera_planner.remote.client import RemoteError, RemoteOptions, RemotePlanner, read_options
from vera_planner.remote.protocol import pack, unpack
from vera_planner.remote.server import CLIENTS, KEPT, WAITING, PlannerServer, ServeError

CONTRACT = load_contract('finger')
CONTEXT = np.random.default_rng(3).integers(0, 256, (3, 64, 64, 3), np.uint8)
CHILD = Path(__file__).parent / 'remote_server_child.py'


class Planner:
    """Behind the server: its frames say what it was asked."""

    planner_id, checkpoint_hash = 'small', '0123456789abcdef'

    def __init__(self):
        self.calls: list = []
        self.error: Exception | None = None
        self.seconds = 0.0
        self.frames = 4

    def plan(self, context, prompt, *, seed=0, warm_start=None, pending=None):
        self.calls.append((context, prompt, seed, warm_start, pending))
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        frames = np.repeat(context[-1:] ^ np.uint8(seed % 256), self.frames, axis=0)
        return Plan(frames, 0.2, warm_start={'of': prompt})


@pytest.fixture
def planner():
    return Planner()


@pytest.fixture
def server(planner):
    with PlannerServer(planner, CONTRACT, port=0) as running:
        yield running


def url(server):
    return f'ws://127.0.0.1:{server.port}'


def client(server, contract=CONTRACT, **options):
    return RemotePlanner(RemoteOptions(url(server), **options), contract)


def raw(server, **options):
    opened = connect(url(server), max_size=None, compression=None, proxy=None, **options)
    connection = opened.__enter__()
    assert unpack(connection.recv())['protocol'] == 'vera-planner'
    return connection


def alive(server):
    remote = client(server)
    assert remote.plan(CONTEXT, 'touch it').frames.shape == (4, 64, 64, 3)
    remote.close()


# Ours with ours ------------------------------------------------------------------------------


def test_a_plan_is_what_the_planner_made(server, planner):
    remote = client(server)
    assert isinstance(remote, VideoPlanner)
    assert (remote.planner_id, remote.checkpoint_hash) == ('remote', '0123456789abcdef')
    plan = remote.plan(CONTEXT, 'berühre die rote Scheibe', seed=2**40 + 9)
    assert plan.frames.dtype == np.uint8
    assert (plan.frames == CONTEXT[-1] ^ np.uint8(9)).all()
    context, prompt, seed, warm_start, pending = planner.calls[0]
    assert (context == CONTEXT).all()
    assert (prompt, seed) == ('berühre die rote Scheibe', 2**40 + 9)
    assert warm_start is None and pending is None
    assert plan.frame_period == 0.2
    remote.close()
    remote.close()


def test_the_seam_measures_and_checks(server, planner):
    remote = client(server)
    assert warm_up(remote, CONTRACT) > 0
    plan = imagine(remote, PlanRequest(CONTEXT, 0, 'touch it', seed=255), CONTRACT)
    assert plan.latency > 0
    assert plan.motion > 100


def test_only_the_newest_frames_travel(server, planner):
    client(server).plan(np.concatenate([CONTEXT, CONTEXT]), 'touch it')
    assert len(planner.calls[0][0]) == CONTRACT.video.context


def test_warm_starts_stay_with_the_server(server, planner):
    remote, other = client(server), client(server)
    first = remote.plan(CONTEXT, 'touch it')
    assert first.warm_start == 1
    for _ in range(KEPT - 1):  # of several plans the robot may execute any
        remote.plan(CONTEXT, 'touch that')
    remote.plan(CONTEXT, 'touch it', warm_start=first.warm_start)
    assert planner.calls[-1][3] == {'of': 'touch it'}
    remote.plan(CONTEXT, 'touch it', warm_start=first.warm_start)  # too old by now
    assert planner.calls[-1][3] is None
    second = remote.plan(CONTEXT, 'touch it', warm_start=KEPT)
    assert planner.calls[-1][3] == {'of': 'touch that'}
    assert second.warm_start == KEPT + 3
    for warm_start in (3, '0', np.zeros(2)):  # of another connection, or no number
        other.plan(CONTEXT, 'touch it', warm_start=warm_start)
        assert planner.calls[-1][3] is None


def test_frames_still_to_be_executed_travel(server, planner):
    client(server).plan(CONTEXT, 'touch it', pending=CONTEXT[:2])
    assert (planner.calls[0][4] == CONTEXT[:2]).all()


def test_a_planner_that_knows_no_pending_frames_sees_them_behind_the_context():
    class Plain(Planner):
        def plan(self, context, prompt, *, seed=0, warm_start=None):
            return super().plan(context, prompt, seed=seed, warm_start=warm_start)

    plain = Plain()
    with PlannerServer(plain, CONTRACT, port=0) as server:
        client(server).plan(CONTEXT, 'touch it', pending=CONTEXT[:2])
    assert (plain.calls[0][0] == np.concatenate([CONTEXT, CONTEXT[:2]])).all()


@pytest.mark.parametrize(
    ('error', 'kind', 'message'),
    [
        (PlanRefusedError('nothing red here'), PlanRefusedError, '^nothing red here$'),
        (MemoryError('needs\n3 GB'), RemoteError, 'planner failed: MemoryError: needs 3 GB'),
    ],
)
def test_errors_of_the_planner_are_told(server, planner, error, kind, message):
    remote = client(server)
    planner.error = error
    with pytest.raises(kind, match=message):
        remote.plan(CONTEXT, 'touch it')
    planner.error = None
    remote.plan(CONTEXT, 'touch it')


def test_frames_that_do_not_fit_are_found_where_they_are_made(server, planner):
    planner.frames = 3
    with pytest.raises(RemoteError, match='PlanError: the planner gave 3 frames; the contract'):
        client(server).plan(CONTEXT, 'touch it')


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'canvas': {'width': 128, 'height': 128}}, "canvas: server {'height': 64, 'width': 64}"),
        ({'video.frame_period': 0.1}, 'frame_period: server 0.2, contract 0.1'),
        ({'video.context': 5}, 'context: server 4, contract 5'),
        ({'video.look_ahead': 6, 'video.committed': 5}, 'look_ahead: server 4, the contract'),
    ],
)
def test_a_server_of_another_contract_is_refused_by_name(server, overrides, message):
    with pytest.raises(RemoteError, match='has another contract') as caught:
        client(server, load_contract('finger', overrides))
    assert message in str(caught.value)
    alive(server)


def test_the_registry_makes_it(server, tmp_path):
    remote = make_planner('remote', CONTRACT, checkpoint=url(server))
    assert remote.plan(CONTEXT, 'touch it').frames.shape == (4, 64, 64, 3)
    with pytest.raises(ValueError, match='ws://host:port'):
        make_planner('remote', CONTRACT)


# Openpi's client -----------------------------------------------------------------------------


@pytest.fixture
def openpi(server):
    policy = WebsocketClientPolicy('127.0.0.1', server.port)
    yield policy
    policy._ws.close()


def test_openpi_is_told_what_is_served(openpi, server):
    metadata = openpi.get_server_metadata()
    assert metadata == server.metadata
    assert metadata['canvas'] == {'height': 64, 'width': 64}
    assert (metadata['planner_id'], metadata['context']) == ('small', 4)


def test_openpi_infers_with_a_plain_map(openpi, planner):
    observation = {
        'context': CONTEXT, 'prompt': 'touch it', 'seed': np.int64(7), 'state': np.zeros(3),
    }  # fmt: skip
    answer = openpi.infer(observation)
    assert (answer['frames'] == CONTEXT[-1] ^ np.uint8(7)).all()
    assert answer['frame_period'] == 0.2
    assert answer['server_timing']['infer_ms'] >= 0
    openpi.reset()
    assert openpi.infer({'images': {'top': np.full((128, 128, 3), 9, np.uint8)}, 'prompt': 'go'})
    assert planner.calls[-1][0].shape == (1, 64, 64, 3)
    assert (planner.calls[-1][0] == 9).all()
    assert openpi.infer({'images': {'top': np.zeros((2, 128, 128, 3), np.uint8)}, 'prompt': 'go'})
    assert len(planner.calls[-1][0]) == 2


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'context': CONTEXT[:0]}, 'context is uint8 [0, 64, 64, 3]; expected uint8 [T >= 1, 64'),
        ({'context': CONTEXT / 255.0}, 'context is float64'),
        ({'context': CONTEXT[:, :32]}, "the canvas of 'finger'"),
        ({'context': 'image'}, 'context is str'),
        ({'context': None, 'images': {'side': CONTEXT}}, 'context is NoneType'),
        ({'prompt': 'x' * 10_000}, 'has 10000 characters; at most 1000'),
        ({'prompt': None}, 'the prompt is NoneType'),
        ({'seed': -1}, 'seed is -1'),
        ({'seed': 'x'}, "seed is 'x'"),
        ({'endpoint': 'reload'}, "unknown endpoint 'reload'; known: infer, reset"),
        ({'endpoint': np.zeros(2)}, 'endpoint is no text'),
        ({'context': CONTEXT, 'seed': np.zeros(2)}, 'seed is array'),
        ({'pending': CONTEXT[0]}, 'pending is uint8 [64, 64, 3]'),
    ],
)
def test_a_wrong_request_is_answered_by_its_reason(openpi, planner, change, message):
    request = {'context': CONTEXT, 'prompt': 'touch it'}
    with pytest.raises(RuntimeError) as caught:
        openpi.infer(request | change)
    assert 'bad request: ' in str(caught.value)
    assert message in str(caught.value)
    assert not planner.calls
    openpi.infer(request)


@pytest.mark.parametrize(
    ('images', 'message'),
    [
        (None, 'no context'),
        ({}, 'no context'),
        ({'side': CONTEXT}, "no camera 'side' in the contract; it has top"),
        ({'top': CONTEXT}, "image of camera 'top' is uint8 [64, 64, 3]; the contract says"),
        ({'top': 3}, "camera 'top' is no array"),
        ({'top': np.zeros((0, 128, 128, 3), np.uint8)}, '1 or more'),
    ],
)
def test_wrong_images_are_named(openpi, images, message):
    with pytest.raises(RuntimeError) as caught:
        openpi.infer({'images': images, 'prompt': 'touch it'})
    assert message in str(caught.value)


# Who comes in --------------------------------------------------------------------------------


def get(server, path):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f'http://127.0.0.1:{server.port}{path}', timeout=10) as answer:
        return answer.status, answer.read()


def test_healthz_needs_no_token(planner):
    with PlannerServer(planner, CONTRACT, port=0, token='secret') as server:
        assert get(server, '/healthz') == (200, b'OK\n')
        with pytest.raises(urllib.error.HTTPError, match='401'):
            get(server, '/')


def test_token(planner, tmp_path, monkeypatch):
    file = tmp_path / 'token'
    file.write_text('secret\n')
    with PlannerServer(planner, CONTRACT, port=0, token='secret') as server:
        for header in ({}, {'Authorization': 'Bearer wrong'}, {'Authorization': 'secret'}):
            with pytest.raises(InvalidStatus, match='401'):
                raw(server, additional_headers=header)
        raw(server, additional_headers={'Authorization': 'Bearer secret'}).close()
        policy = WebsocketClientPolicy('127.0.0.1', server.port, api_key='secret')
        assert policy.infer({'context': CONTEXT, 'prompt': 'touch it'})
        policy._ws.close()
        with pytest.raises(RemoteError, match='wants another token: give token_file'):
            client(server)
        assert client(server, token_file=str(file)).plan(CONTEXT, 'touch it')
        monkeypatch.setenv('VERA_PLANNER_TOKEN', 'secret')
        assert client(server).plan(CONTEXT, 'touch it')


@pytest.mark.parametrize('host', ['0.0.0.0', '', '::', '192.168.1.5', 'gpu-box'])
def test_open_to_others_only_with_a_token(planner, host):
    with pytest.raises(ServeError, match='give --token-file, or --insecure'):
        PlannerServer(planner, CONTRACT, host=host)
    PlannerServer(planner, CONTRACT, host=host, token='secret')
    PlannerServer(planner, CONTRACT, host=host, insecure=True)


def test_pages_of_a_browser_are_kept_out(server):
    with pytest.raises(InvalidStatus, match='403'):
        raw(server, origin='https://example.com')


def test_clients_are_counted(server):
    crowd = [raw(server) for _ in range(CLIENTS)]
    with pytest.raises(InvalidStatus, match='503'):
        raw(server)
    crowd.pop().close()
    deadline = time.monotonic() + 10
    while True:
        try:
            crowd.append(raw(server))
            break
        except InvalidStatus:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    for connection in crowd:
        connection.close()


# What is broken ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'message', [b'\xc1', b'', b'\x80\x04\x95pickle', 'text', pack([1, 2]), os.urandom(1000)],
    ids=['reserved', 'empty', 'pickle', 'text', 'list', 'noise'],
)
def test_a_malformed_message_is_answered_and_the_connection_closed(server, message):
    connection = raw(server)
    connection.send(message)
    answer = connection.recv(timeout=10)
    assert isinstance(answer, str)
    assert answer.startswith('bad request: ')
    with pytest.raises(ConnectionClosed) as caught:
        connection.recv(timeout=10)
    assert caught.value.rcvd.code == 1007
    alive(server)


def test_a_huge_message_closes_the_connection(planner):
    with PlannerServer(planner, CONTRACT, port=0, max_message=100_000) as server:
        connection = raw(server)
        with pytest.raises(ConnectionClosed) as caught:
            connection.send(b'x' * 100_001)
            connection.recv(timeout=10)
        assert caught.value.rcvd.code == 1009
        remote = RemotePlanner(RemoteOptions(url(server)), CONTRACT)
        with pytest.raises(RemoteError, match=r'went away: .*1009'):
            remote.plan(CONTEXT, 'x' * 100_001)
        alive(server)


def test_no_websocket_at_all(server):
    with pytest.raises(urllib.error.HTTPError, match='426'):
        get(server, '/')
    alive(server)


def test_a_slow_plan_blocks_no_pings_and_no_health(planner):
    planner.seconds = 3.0
    with PlannerServer(planner, CONTRACT, port=0, ping_interval=0.5) as server:
        connection = raw(server, ping_interval=0.5, ping_timeout=0.5)
        began = time.monotonic()
        connection.send(pack({'context': CONTEXT, 'prompt': 'touch it'}))
        while time.monotonic() - began < 2.0:
            assert connection.ping().wait(1.0)
            assert get(server, '/healthz') == (200, b'OK\n')
            time.sleep(0.2)
        assert isinstance(connection.recv(timeout=10), bytes)
        assert time.monotonic() - began >= 3.0
        connection.close()


def test_one_plan_at_a_time_and_a_queue_with_an_end(server, planner):
    planner.seconds = 0.5
    connections = [raw(server) for _ in range(WAITING + 2)]
    for connection in connections:
        connection.send(pack({'context': CONTEXT, 'prompt': 'touch it'}))
        time.sleep(0.05)
    began = time.monotonic()
    answers = [connection.recv(timeout=10) for connection in connections]
    busy = [answer for answer in answers if isinstance(answer, str)]
    assert busy == ['busy: a plan is being made and 2 more are waiting; try again']
    assert time.monotonic() - began > 1.0  # one after the other
    assert len(planner.calls) == WAITING + 1


def test_no_plan_for_who_left_the_queue(server, planner):
    planner.seconds = 0.5
    first, second = raw(server), raw(server)
    first.send(pack({'context': CONTEXT, 'prompt': 'first'}))
    time.sleep(0.1)
    second.send(pack({'context': CONTEXT, 'prompt': 'second'}))
    time.sleep(0.1)
    second.close()
    assert isinstance(first.recv(timeout=10), bytes)
    planner.seconds = 0.0
    alive(server)
    assert [call[1] for call in planner.calls] == ['first', 'touch it']


def test_stopping_waits_for_no_plan(planner):
    planner.seconds = 5.0
    server = PlannerServer(planner, CONTRACT, port=0)
    server.start()
    connection = raw(server)
    connection.send(pack({'context': CONTEXT, 'prompt': 'touch it'}))
    while not planner.calls:
        time.sleep(0.01)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 3
    with pytest.raises(ConnectionClosed):
        connection.recv(timeout=10)


def test_a_port_that_is_taken_is_said(server, planner):
    with pytest.raises(OSError, match='address already in use'):
        PlannerServer(planner, CONTRACT, port=server.port).start()


# A client whose server is gone ---------------------------------------------------------------


def test_no_server_is_said_with_the_cure():
    began = time.monotonic()
    with pytest.raises(RemoteError, match=r'cannot be reached: .*is `vera serve planner` running'):
        RemotePlanner(RemoteOptions('ws://127.0.0.1:9', timeout=1.0), CONTRACT)
    assert time.monotonic() - began < 5


def test_no_answer_in_time_and_the_next_plan(server, planner):
    remote = client(server, timeout=1.0)
    planner.seconds = 2.0
    with pytest.raises(RemoteError, match='gave no answer within 1 s'):
        remote.plan(CONTEXT, 'slow one')
    planner.seconds = 0.0
    time.sleep(1.5)
    plan = remote.plan(CONTEXT, 'touch it', seed=1)  # not the late answer of the first
    assert (plan.frames == CONTEXT[-1] ^ np.uint8(1)).all()


def test_a_server_that_came_back_is_found_by_the_next_plan(planner):
    server = PlannerServer(planner, CONTRACT, port=0)
    server.start()
    remote = client(server)
    remote.plan(CONTEXT, 'touch it')
    server.stop()
    with pytest.raises(RemoteError, match='cannot be reached'):
        remote.plan(CONTEXT, 'touch it')
    planner.checkpoint_hash = 'another'
    again = PlannerServer(planner, CONTRACT, port=server.port)
    late = threading.Timer(0.7, again.start)  # while the client tries
    late.start()
    remote.plan(CONTEXT, 'touch it')
    assert remote.checkpoint_hash == 'another'
    late.join()
    again.stop()


def start_child(port=0, seconds=0.0):
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(port), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    return child, int(child.stdout.readline())


def test_a_server_killed_during_a_plan_costs_that_plan():
    child, port = start_child(seconds=60.0)
    remote = RemotePlanner(RemoteOptions(f'ws://127.0.0.1:{port}', timeout=60.0), CONTRACT)
    killer = threading.Thread(target=lambda: (child.stdout.readline(), child.kill()))
    killer.start()
    began = time.monotonic()
    with pytest.raises(RemoteError, match='went away: the connection broke'):
        remote.plan(CONTEXT, 'touch it')
    assert time.monotonic() - began < 20
    killer.join()
    child.wait()
    child.stdout.close()
    child, _ = start_child(port)
    try:
        assert remote.plan(CONTEXT, 'touch it').frames.shape == (4, 64, 64, 3)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


# Options -------------------------------------------------------------------------------------


def test_options_from_a_file(tmp_path):
    (tmp_path / 'token').write_text('secret\n')
    file = tmp_path / 'gpu.yaml'
    file.write_text(
        'url: wss://gpu.example.org\ntoken_file: token\ntimeout: 60\nadapter: openpi\n'
        'keys: {top: observation/image}\n'
    )
    options = read_options(str(file))
    assert (options.url, options.timeout, options.token) == ('wss://gpu.example.org', 60, 'secret')
    assert options.keys == {'top': 'observation/image'}
    assert read_options('ws://gpu:8000') == RemoteOptions('ws://gpu:8000')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'needs at least url'),
        ('url: [1', 'cannot be read'),
        ('url: http://gpu', 'expected ws://host:port'),
        ('url: 5', 'expected ws://host:port'),
        ('{url: ws://gpu, tokn: x}', "unknown field 'tokn'; known: adapter, keys"),
        ('{url: ws://gpu, timeout: 0}', 'timeout is 0; seconds > 0'),
        ('{url: ws://gpu, timeout: .nan}', 'timeout is nan'),
        ('{url: ws://gpu, adapter: grpc}', "adapter is 'grpc'; known: vera, openpi"),
        ('{url: ws://gpu, keys: {a: b}}', 'keys are for the adapter openpi'),
        ('{url: ws://gpu, adapter: openpi, keys: 5}', 'keys must map'),
    ],
)
def test_wrong_options_are_named(tmp_path, text, message):
    file = tmp_path / 'gpu.yaml'
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_options(str(file))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match='cannot be read'):
        read_options(str(tmp_path / 'none.yaml'))
    for content in ('', 'two words', 'ключ'):
        (tmp_path / 'token').write_text(content)
        options = RemoteOptions('ws://gpu', token_file=str(tmp_path / 'token'))
        with pytest.raises(ValueError, match='first line must be the token'):
            _ = options.token
