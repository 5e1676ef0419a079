"""The cockpit's server: what it serves, to whom, and what goes through its socket. No browser."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import socket

import numpy as np
import pytest

pytest.importorskip('viser')

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from vera_bringup.cockpit.dreams import Dream
from vera_bringup.cockpit.model import Controller, Goal
from vera_bringup.cockpit.pictures import picture, read_picture
from vera_bringup.cockpit.session import Session
from vera_bringup.cockpit.web import PortError, listen
from vera_core.chunk import ActionChunk
from vera_core.contract import load_contract

TOKEN = 'correct-horse-battery'
PATIENCE = 20.0  # s


@contextlib.contextmanager
def cockpit(name='finger', host='127.0.0.1', token=''):
    session, asked = Session(load_contract(name), 'vera'), queue.Queue()
    session.open(host, 0, token, lambda action, say: asked.put((action, say)))
    try:
        yield session, asked
    finally:
        session.close()


@pytest.fixture(scope='module')
def finger():
    with cockpit() as found:
        yield found


def get(session, path, **headers):
    link = http.client.HTTPConnection('127.0.0.1', session.port, timeout=PATIENCE)
    link.putrequest('GET', path, skip_host='Host' in headers)
    for name, value in headers.items():
        link.putheader(name, value)
    link.endheaders()
    answer = link.getresponse()
    return answer, answer.read().decode()


def live(session, path='/live', **headers):
    address = f'ws://127.0.0.1:{session.port}{path}'
    return connect(address, additional_headers=headers, open_timeout=PATIENCE, proxy=None)


def hear(page, wanted, patience=PATIENCE):
    """The first message of which `wanted` says something: (head, JPEG) of a picture."""
    while True:
        message = page.recv(timeout=patience)
        told = read_picture(message) if isinstance(message, bytes) else (json.loads(message), b'')
        if wanted(told[0]):
            return told


def kind(name):
    return lambda told: name in (told.get('type'), told.get('kind'))


def test_the_page_and_the_scene_are_served(finger):
    session, _ = finger
    answer, page = get(session, '/')
    assert answer.status == 200 and 'STOP' in page and 'id="scene"' in page
    assert "frame-ancestors 'self'" in answer.headers['Content-Security-Policy']
    for path in ('/cockpit.js', '/cockpit.css', '/viser/', '/healthz'):
        answer, text = get(session, path)
        assert answer.status == 200 and text
        assert answer.headers['X-Frame-Options'] == 'SAMEORIGIN'
    assert get(session, '/viser/')[1].count('document.hasFocus=') == 1
    for path in (
        '/other',
        '/../web.py',
        '/viser/../../web.py',
        '/cockpit.js/x',
        '/page/index.html',
    ):
        assert get(session, path)[0].status == 404


def test_strangers_get_nothing_neither_pages_nor_sockets(finger):
    session, asked = finger
    assert get(session, '/', Host='evil.example')[0].status == 403
    assert get(session, '/', Origin='http://evil.example')[0].status == 403
    for path in ('/live', '/viser'):
        for headers in ({'Origin': 'http://evil.example'}, {'Origin': 'http://localhost:3000'}):
            with pytest.raises(InvalidStatus, match='403'):
                live(session, path, **headers)
    with pytest.raises(InvalidStatus, match='404'):
        live(session, '/elsewhere')
    assert asked.empty() and not session.watched


def test_with_a_token_nothing_is_served_without_it():
    with cockpit(token=TOKEN) as (session, _):
        for path in ('/', '/viser/', '/cockpit.js', '/healthz', '/?token=wrong-horse-battery'):
            answer, text = get(session, path)
            assert answer.status == 401 and 'STOP' not in text
        for path in ('/live', '/viser'):
            with pytest.raises(InvalidStatus, match='401'):
                live(session, path)
        answer, _ = get(session, f'/?token={TOKEN}')
        assert (answer.status, answer.headers['Location']) == (303, '/')
        cookie = answer.headers['Set-Cookie'].split(';')[0]
        assert get(session, '/', Cookie=cookie)[0].status == 200
        with live(session, Cookie=cookie) as page:
            assert hear(page, kind('hello'))[0]['embodiment'] == 'finger'


def test_wishes_of_the_page_are_answered_to_that_page(finger):
    session, asked = finger
    with live(session) as page, live(session) as other:
        page.send('{"action": "goal", "prompt": "touch the red disc"}')
        action, say = asked.get(timeout=PATIENCE)
        assert (action.name, action.prompt) == ('goal', 'touch the red disc')
        say({'type': 'answer', 'action': 'goal', 'good': True, 'message': 'taken'})
        assert hear(page, kind('answer'))[0]['message'] == 'taken'
        page.send('{"action": "goal", "prompt": ""}')
        refused = hear(page, kind('answer'))[0]
        assert not refused['good'] and 'the goal is empty' in refused['message']
        other.send('{"action": "stop"}')
        assert asked.get(timeout=PATIENCE)[0].name == 'stop'
        page.send('nonsense')
        assert 'JSON' in hear(page, kind('answer'))[0]['message']


def test_status_and_pictures_reach_every_page_that_is_looked_at(finger):
    session, _ = finger
    contract = load_contract('finger')
    image = np.full((128, 128, 3), 90, np.uint8)
    with live(session) as page, live(session) as hidden:
        hear(page, kind('goals'))
        hidden.send('{"action": "watch", "on": false}')
        hidden.send('{"action": "reset"}')  # in order: when this is heard, so was that
        finger[1].get(timeout=PATIENCE)
        session.hear_controller(Controller(4, 'a limit'), (0, 0, 0, 0.0))
        assert hear(page, lambda m: m.get('state') == 'STOPPED')[0]['reason'] == 'a limit'
        session.hear_goal(Goal(1, 'touch the red disc', 1))
        assert hear(page, lambda m: m.get('goals'))[0]['goals'][0]['status'] == 'ACTIVE'
        session.hear_image('top', image, 1)
        assert hear(page, kind('camera'))[0]['name'] == 'top'
        frames = np.zeros((5, 64, 64, 3), np.uint8)
        stamps = tuple(k * 200_000_000 for k in range(5))
        session.hear_plan(Dream(1, 1, 0, frames, stamps, 4, prompt='touch'), 0.1)
        assert hear(page, kind('plan'))[0]['frames'] == 5
        assert hear(page, kind('dream'))[0]['plan'] == '1-1'
        session.hear_debug('flow', np.zeros((64, 256, 3), np.uint8), 0)
        assert hear(page, kind('flow'))[0]['frames'] == 4
        session.hear_verdict(1, 1, False, 'it jumps')
        assert hear(page, kind('verdict'))[0]['reason'] == 'it jumps'
        actions = ActionChunk(
            stamp=0, goal_id=1, plan_seq=1, channels=contract.channel_names, period=0.2,
            values=np.full((4, 3), 0.1), residual=np.full(4, 0.2, np.float32),
            observability=np.ones(3, np.float32), latency=0.02,
        )  # fmt: skip
        session.hear_chunk(actions, contract.home_positions)
        session.hear_joints(contract.home_positions + 0.1)
        session.tell()
        curves = {point[0] for point in hear(page, kind('curves'))[0]['points']}
        assert {'residual', 'planning', 'translating'} <= curves
        hidden.send('{"action": "watch", "on": true}')
        seen = [hear(hidden, lambda m: True)[0] for _ in range(2)]
        assert not [m for m in seen if m.get('kind') == 'camera']
        # What it has missed is told when it is looked at again.
        assert hear(hidden, kind('dream'))[0]['plan'] == '1-1'
    with live(session) as late:
        assert hear(late, kind('flow'))[0]['plan'] == '1-1'
        assert hear(late, kind('verdict'))[0]['plan'] == '1-1'


def test_a_slow_page_gets_the_newest_picture_and_the_state_first(finger):
    session, _ = finger
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    with live(session) as page:
        hear(page, kind('goals'))
        message = picture(noise, kind='camera', name='top')
        for _ in range(2000):  # 40 MB: more than any buffer between us
            session._web.post('camera top', message)
        session.hear_controller(Controller(5, 'last word'), (0, 0, 0, 0.0))
        count = 0
        while True:
            told = hear(page, lambda m: True)[0]
            if told.get('reason') == 'last word':
                break
            count += told.get('kind') == 'camera'
        assert count < 1000


def test_a_message_that_is_too_long_is_no_wish(finger):
    session, asked = finger
    with live(session) as page:
        page.send(json.dumps({'action': 'goal', 'prompt': 'x' * 10000}))
        assert not hear(page, kind('answer'))[0]['good']
    assert asked.empty()


def test_too_many_pages_are_turned_away(finger):
    session, _ = finger
    with contextlib.ExitStack() as stack:
        pages = [stack.enter_context(live(session)) for _ in range(16)]
        for page in pages:
            hear(page, kind('hello'))
        with live(session) as one_more, pytest.raises(ConnectionClosed, match='pages are open'):
            hear(one_more, lambda m: False)


def test_a_taken_port_leads_to_the_next_and_a_strange_address_to_a_clear_message():
    with contextlib.closing(listen('127.0.0.1', 0)) as first:
        first.listen()
        port = first.getsockname()[1]
        with contextlib.closing(listen('127.0.0.1', port)) as second:
            assert second.getsockname()[1] != port
    with pytest.raises(PortError, match=r'cannot listen on 192\.0\.2\.1'):
        listen('192.0.2.1', 8080)
    with pytest.raises((PortError, socket.gaierror)):
        listen('no.such.host.invalid', 8080)


@pytest.mark.parametrize('name', ['finger', 'pusht', 'panda'])
def test_the_stage_shows_every_link_and_camera(name):
    with cockpit(name) as (session, _):
        contract = load_contract(name)
        nodes = set(session._web.viser.scene._handle_from_node_name)
        links = {node.split('/')[2] for node in nodes if node.startswith('/robot/')}
        tool = {'finger': 'link_3', 'pusht': 'pusher', 'panda': 'panda_hand'}[name]
        assert tool in links
        for calibration in contract.calibration:
            assert [node for node in nodes if node.endswith(f'camera_{calibration.name}')]
        if name == 'panda':  # the wrist camera rides on the hand
            assert '/robot/panda_hand/camera_wrist' in nodes
            assert '/workspace' in nodes
        before = np.array(session._stage._links[tool].position)
        session.hear_joints(contract.home_positions + 0.1)
        assert np.abs(np.array(session._stage._links[tool].position) - before).max() > 1e-3
