"""Every mistake that a contract can hold has its own message, with its place."""
# ruff: noqa: E501 - a table reads better with one mistake per line

import re

import pytest

from vera_core.contract import ContractError, load_contract, parse_overrides

LINE = {
    'a': 3, 'b': 4, 'grip': 5, 'shoulder': 7, 'elbow': 8, 'home': 9, 'control': 10, 'video': 11,
    'canvas': 12, 'top': 14, 'side': 15, 'goal': 16, 'defaults': 17, 'sim': 18,
}  # fmt: skip

# what is replaced, by what, line, key, words of the message
MISTAKES = {
    'unknown key': ('rate: 100', 'rat: 100', 'control', 'control.rat', "did you mean 'rate'"),
    'unknown key at the top': ('goal:', 'gaol:', 'goal', 'gaol', "unknown key; did you mean 'goal'"),
    'missing key': (', state_timeout: 0.5', '', 'control', 'control.state_timeout', 'is missing: a number'),
    'missing section': ('goal: {timeout: 30.0}\n', '', None, 'goal', 'is missing: a mapping'),
    'text for a number': ('rate: 100', 'rate: fast', 'control', 'control.rate', "the text 'fast'; a number"),
    'YAML takes 1e-1 for a text': ('scale: 0.1', 'scale: 1e-1', 'a', 'channels.a.scale', 'write 0.1'),
    'number for text': ('planner: compact', 'planner: 7', 'defaults', 'defaults.planner', 'number 7; text'),
    'fraction for a whole number': ('context: 4', 'context: 4.5', 'video', 'video.context', 'whole number'),
    'true for a number': ('rate: 100', 'rate: true', 'control', 'control.rate', 'is true; a number'),
    'empty value': ('rate: 100', 'rate:', 'control', 'control.rate', 'is empty; a number'),
    'scalar for a mapping': ('{timeout: 30.0}', '30.0', 'goal', 'goal', 'number 30.0; a mapping'),
    'mapping for a list': ('[-3.0, 3.0]', '{low: 1}', 'shoulder', 'joints.shoulder.position', 'a list of 2'),
    'three limits': ('[-3.0, 3.0]', '[1, 2, 3]', 'shoulder', 'joints.shoulder.position', 'list of 3; a list of 2'),
    'not a number': ('rate: 100', 'rate: .nan', 'control', 'control.rate', 'finite'),
    'infinite': ('velocity: 2.0', 'velocity: .inf', 'shoulder', 'joints.shoulder.velocity', 'finite'),
    'unknown kind': ('kind: joint_delta', 'kind: joint_detla', 'a', 'channels.a.kind', "did you mean 'joint_delta'"),
    'unknown unit': ('unit: rad', 'unit: deg', 'a', 'channels.a.unit', "unknown unit 'deg'"),
    'unit of another kind': ('unit: rad', 'unit: ratio', 'a', 'channels.a.unit', 'cannot be in'),
    'joint channel without joint': ('joint: shoulder, ', '', 'a', 'channels.a.joint', 'is missing'),
    'Cartesian channel with joint': ('joint_delta, unit: rad, scale', 'cartesian_delta, unit: m, scale', 'a', 'channels.a.joint', 'names no joint'),
    'channel of an unknown joint': ('joint: elbow', 'joint: elbo', 'b', 'channels.b.joint', "unknown joint 'elbo'; did you mean 'elbow'"),
    'two channels of one joint': ('joint: elbow', 'joint: shoulder', 'b', 'channels.b.joint', "moved by channel 'a' already"),
    'duplicate channel': ('name: b', 'name: a', 'b', 'channels.a', "duplicate name 'a'"),
    'duplicate joint': ('name: elbow', 'name: shoulder', 'elbow', 'joints.shoulder', "duplicate name 'shoulder'"),
    'duplicate camera': ('name: side', 'name: top', 'side', 'cameras.top', "duplicate name 'top'"),
    'duplicate topic': ('side/color', 'top/color', None, 'cameras', "duplicate topic 'top/color/image_raw'"),
    'duplicate key': ('rate: 100', 'rate: 100, rate: 50', 'control', 'control.rate', 'second time'),
    'bad channel name': ('name: a,', 'name: "a b",', 'a', 'channels.a b.name', 'letters, digits'),
    'bad embodiment name': ('embodiment: arm', 'embodiment: My-Arm', None, 'embodiment', 'a-z, 0-9 and _'),
    'no channels': ('channels:', 'channels: []\nold:', None, 'old', 'unknown key'),
    'limits reversed': ('[-3.0, 3.0]', '[3.0, -3.0]', 'shoulder', 'joints.shoulder.position', 'reversed: low 3 is above high -3; write [-3, 3]'),
    'limits equal': ('[-3.0, 3.0]', '[1, 1]', 'shoulder', 'joints.shoulder.position', 'no room'),
    'home outside the limits': ('shoulder: 0.5', 'shoulder: 3.5', 'home', 'home.shoulder', '3.5 is outside the position limits [-3, 3]'),
    'home of an unknown joint': ('{shoulder: 0.5', '{sholder: 0.5', 'home', 'home.sholder', "did you mean 'shoulder'"),
    'home missing': ('shoulder: 0.5, ', '', 'home', 'home.shoulder', 'is missing'),
    'zero rate': ('rate: 100', 'rate: 0', 'control', 'control.rate', 'is 0.0 Hz; it must be greater than 0'),
    'negative rate': ('rate: 20', 'rate: -20', 'top', 'cameras.top.rate', 'is -20.0 Hz'),
    'negative timeout': ('timeout: 30.0', 'timeout: -1', 'goal', 'goal.timeout', 'is -1.0 s'),
    'zero frame period': ('frame_period: 0.2', 'frame_period: 0', 'video', 'video.frame_period', 'greater than 0'),
    'zero velocity': ('velocity: 2.0', 'velocity: 0', 'shoulder', 'joints.shoulder.velocity', 'greater than 0'),
    'negative acceleration': ('acceleration: 25.0', 'acceleration: -1', 'shoulder', 'joints.shoulder.acceleration', 'greater than 0'),
    'zero scale': ('scale: 0.1', 'scale: 0', 'a', 'channels.a.scale', 'greater than 0'),
    'no context': ('context: 4', 'context: 0', 'video', 'video.context', 'at least 1'),
    'nothing committed': ('committed: 2', 'committed: 0', 'video', 'video.committed', 'at least 1'),
    'more committed than imagined': ('committed: 2', 'committed: 5', 'video', 'video.committed', 'more than the 4 frames of look_ahead'),
    'set-points off the grid': ('rate: 100', 'rate: 101', 'control', 'control.rate', '20.2 set-points per frame; it must be a whole number (a rate of 100 Hz would do)'),
    'camera off the grid': ('rate: 20', 'rate: 12', 'top', 'cameras.top.rate', '2.4 images per frame period'),
    'camera slower than the grid': ('rate: 20', 'rate: 1', 'top', 'cameras.top.rate', '(a rate of 5 Hz would do)'),
    'physics off the grid': ('physics_rate: 1000', 'physics_rate: 1001', 'sim', 'sim.physics_rate', 'whole multiple'),
    'canvas too small': ('width: 96', 'width: 79', 'canvas', 'canvas.width', '2 views at a height of 32 px need 80 px'),
    'no pixels': ('height: 32', 'height: 0', 'canvas', 'canvas.height', 'at least 1'),
    'absolute topic': ('topic: top/', 'topic: /top/', 'top', 'cameras.top.topic', "write 'top/color/image_raw'"),
    'invalid topic': ('topic: top/', 'topic: 1top/', 'top', 'cameras.top.topic', 'no valid topic'),
    'crop outside the image': ('height: 64', 'height: 64, crop: {x: 1, y: 0, width: 64, height: 64}', 'top', 'cameras.top.crop', 'outside the image of 64x64'),
    'crop with a negative corner': ('height: 64', 'height: 64, crop: {x: -1, y: 0, width: 9, height: 9}', 'top', 'cameras.top.crop.x', 'at least 0'),
    'checkpoint digest': ('robot: topic', 'robot: topic, planner_checkpoint: {name: x, sha256: XYZ}', 'defaults', 'defaults.planner_checkpoint.sha256', 'SHA-256'),
}  # fmt: skip


@pytest.mark.parametrize('name', MISTAKES)
def test_each_mistake_has_its_own_message_and_place(write, name):
    old, new, line, key, words = MISTAKES[name]
    with pytest.raises(ContractError) as caught:
        load_contract(write(old, new))
    message = str(caught.value)
    assert caught.value.key == key
    assert key in message and words in message, message
    assert '\n' not in message
    where = message.split(': ')[0]
    assert where.startswith('arm.yaml')
    if line is not None:
        assert where == f'arm.yaml:{LINE[line]}', message


def test_no_two_mistakes_share_a_message(write):
    messages = set()
    for old, new, *_ in MISTAKES.values():
        with pytest.raises(ContractError) as caught:
            load_contract(write(old, new))
        messages.add(caught.value.message + caught.value.key)
    assert len(messages) == len(MISTAKES)


@pytest.mark.parametrize('section', ['channels', 'joints', 'cameras'])
def test_an_empty_list_is_named(write, section):
    with pytest.raises(ContractError, match=f'{section}: is empty; at least one is needed'):
        load_contract(write(), {section: []})


@pytest.mark.parametrize(
    ('old', 'new', 'line'),
    [
        ('rate: 100, ', 'rate: [100, ', 10),
        ('embodiment: arm', 'embodiment: "arm', 1),
        ('home: {', '\thome: {', 9),
        ('sim: {', 'sim: *nothing {', 18),
    ],
)
def test_broken_yaml_names_the_line(write, old, new, line):
    with pytest.raises(ContractError, match='broken YAML') as caught:
        load_contract(write(old, new))
    # The parser may notice only further down; then it says where the trouble began.
    assert f'arm.yaml:{line}:' in str(caught.value) or f'from line {line})' in str(caught.value)


def test_a_bad_value_of_yaml_names_the_line(write):
    with pytest.raises(ContractError, match=r'arm\.yaml:10: control\.rate: broken YAML'):
        load_contract(write('rate: 100', 'rate: 2026-13-45'))


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'is empty'),
        ('# only a comment\n', 'is empty'),
        ('- a\n- b\n', 'a list of 2; a contract is a mapping'),
        ('just text\n', "the text 'just text'"),
        ('? [1, 2]\n: 3\n', 'a key must be a word'),
    ],
)
def test_a_file_that_is_no_contract(write, text, words):
    with pytest.raises(ContractError, match=re.escape(words)):
        load_contract(write(text=text))


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / 'arm.yaml'
    path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ContractError, match='cannot be read'):
        load_contract(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ContractError, match=r'no\.yaml: there is no such contract file'):
        load_contract(tmp_path / 'no.yaml')


def test_an_unknown_embodiment_lists_the_known_ones(write, monkeypatch):
    monkeypatch.setenv('VERA_CONFIG_PATH', str(write().parent))
    with pytest.raises(ContractError) as caught:
        load_contract('amr')
    message = str(caught.value)
    assert "unknown embodiment 'amr'; did you mean 'arm'?" in message
    assert 'arm' in message.split('known: ')[1]
    assert 'VERA_CONFIG_PATH' in message


def test_no_embodiment_at_all():
    with pytest.raises(ContractError, match=r'no embodiment given; known: .*finger'):
        load_contract('  ')


@pytest.mark.parametrize(
    ('overrides', 'words'),
    [
        ({'video.comitted': 1}, "(override): video.comitted: unknown key; did you mean 'committed'"),
        ({'joints.elbwo.velocity': 1.0}, "no such thing to override; did you mean 'elbow'"),
        ({'joints.elbow.velocity.x': 1}, 'joints.elbow.velocity: is a mapping; a number is needed'),
        ({'joints.elbow.position.0': 1}, 'joints.elbow.position.0: no such thing to override'),
        ({'joints.elbow.position': [2, -2]}, '(override): joints.elbow.position: limits are reversed'),
        ({'control': None}, 'control: is missing'),
    ],
)  # fmt: skip
def test_a_wrong_override_says_so(write, overrides, words):
    with pytest.raises(ContractError) as caught:
        load_contract(write(), overrides)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ('text', 'words'), [('[1, 2]', 'no mapping'), ('{a: ', 'broken YAML'), ('7', 'no mapping')]
)
def test_overrides_that_are_no_mapping(text, words):
    with pytest.raises(ContractError, match=words):
        parse_overrides(text)
