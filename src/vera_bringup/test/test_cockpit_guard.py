"""Who gets into the cockpit, and what its page may ask for."""

from __future__ import annotations

import json

import pytest

from vera_bringup.cockpit.actions import TRIGGERS, Action, ActionError, read_action
from vera_bringup.cockpit.guard import Guard, TokenError, is_local, make_token
from vera_bringup.prompts import PromptError, check_prompt

TOKEN = 'correct-horse-battery'


@pytest.mark.parametrize('host', ['localhost:8080', '127.0.0.1:8080', '[::1]:8080', 'localhost'])
def test_on_its_own_machine_the_cockpit_needs_no_token(host):
    assert Guard('127.0.0.1', 8080).judge({'Host': host}, '/').status == 200
    same = {'Host': host, 'Origin': f'http://{host}'}
    assert Guard('127.0.0.1', 8080).judge(same, '/live').status == 200


@pytest.mark.parametrize(
    'host', ['evil.example:8080', 'robot', '192.168.1.5:8080', '127.0.0.1.nip.io']
)
def test_a_name_that_was_made_to_mean_this_machine_gets_nothing(host):
    answer = Guard('127.0.0.1', 8080).judge({'Host': host, 'Origin': f'http://{host}'}, '/live')
    assert answer.status == 403
    assert 'localhost' in answer.reason


@pytest.mark.parametrize(
    'origin', ['http://evil.example', 'http://localhost:3000', 'null', 'http://127.0.0.1:8080', '']
)
def test_other_pages_of_the_same_browser_get_nothing(origin):
    headers = {'Host': 'localhost:8080', 'Origin': origin}
    assert Guard('127.0.0.1', 8080).judge(headers, '/live').status == 403


@pytest.mark.parametrize('host', ['', '[', '@@', ':8080'])
def test_a_request_without_a_host_gets_nothing(host):
    assert Guard('127.0.0.1', 8080).judge({'Host': host}, '/').status in (400, 403)
    assert Guard('127.0.0.1', 8080).judge({}, '/').status == 400


def test_elsewhere_everybody_needs_the_token_once():
    guard = Guard('0.0.0.0', 8080, TOKEN)
    there = {'Host': 'robot.lab:8080'}
    for target in ('/', '/?token=', '/?token=wrong-horse-battery', '/viser/', '/live'):
        answer = guard.judge(there, target)
        assert answer.status == 401
        assert TOKEN not in answer.reason
    first = guard.judge(there, f'/?token={TOKEN}')
    assert first.status == 303
    assert 'HttpOnly' in first.cookie and 'SameSite=Strict' in first.cookie
    # Other programs on the same machine have cookies, too, of whatever shape.
    cookie = 'odd={"a": 1}; ' + first.cookie.split(';')[0] + '; other=1'
    assert guard.judge({**there, 'Cookie': cookie}, '/live').status == 200
    assert (
        guard.judge({**there, 'Cookie': cookie, 'Origin': 'http://evil.example'}, '/live').status
        == 403
    )
    other = Guard('0.0.0.0', 8081, TOKEN)
    assert other.judge({**there, 'Cookie': cookie}, '/live').status == 401


def test_a_token_is_made_where_it_is_due_and_a_weak_one_is_refused():
    assert make_token('', '127.0.0.1') == make_token('', 'localhost') == ''
    assert len(make_token('', '0.0.0.0')) >= 20
    assert make_token('', '0.0.0.0') != make_token('', '0.0.0.0')
    assert make_token(TOKEN, '127.0.0.1') == TOKEN
    for weak in ('short', 'with a space in it', 'semi;colon;semi'):
        with pytest.raises(TokenError, match='12 letters'):
            make_token(weak, '0.0.0.0')
    with pytest.raises(TokenError, match='needs a token'):
        Guard('0.0.0.0', 8080)
    assert is_local('::1') and is_local('127.0.0.2')
    assert not is_local('0.0.0.0') and not is_local('robot') and not is_local('')


def test_the_page_may_ask_for_services_goals_scenes_and_nothing_else():
    for name in TRIGGERS:
        assert read_action(json.dumps({'action': name})) == Action(name)
    words = json.dumps({'action': 'goal', 'prompt': ' touch the red disc '})
    assert read_action(words) == Action('goal', prompt='touch the red disc')
    assert read_action('{"action": "new_scene", "seed": 5}') == Action('new_scene', seed=5)
    assert read_action('{"action": "watch", "on": false}') == Action('watch', on=False)
    for bad in (
        '', 'stop', '[]', '{}', '{"action": "estop_all"}', '{"action": ["stop"]}', b'\xff\xfe',
        '{"action": "goal"}', '{"action": "goal", "prompt": "  "}', '{"action": "watch", "on": 1}',
        '{"action": "new_scene", "seed": -1}', '{"action": "new_scene", "seed": true}',
        json.dumps({'action': 'goal', 'prompt': 'x' * 5000}),
    ):  # fmt: skip
        with pytest.raises(ActionError):
            read_action(bad)


def test_goals_are_one_line_of_words():
    assert check_prompt('  push the T  ') == 'push the T'
    for bad, why in ((None, 'empty'), ('', 'empty'), ('a\nb', 'one line'), ('x' * 501, '500')):
        with pytest.raises(PromptError, match=why):
            check_prompt(bad)
