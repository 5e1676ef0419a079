import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vera_core.checkpoint import (
    CheckpointError,
    check_contract,
    find_checkpoint,
    sha256_of,
    write_atomic,
    write_checkpoint,
)
from vera_core.contract import CheckpointRef, load_contract

TENSORS = {'w': np.arange(6, dtype=np.float32).reshape(2, 3), 'b': np.zeros(2, np.float32)}
FIELDS = {'canvas': {'height': 64, 'width': 64}, 'cameras': [{'name': 'top', 'crop': None}]}


@pytest.fixture
def written(tmp_path):
    return write_checkpoint(
        tmp_path / 'models' / 'small.safetensors',
        TENSORS,
        kind='planner',
        config={'channels': 8},
        contract=FIELDS,
        training={
            'command': 'vera train planner',
            'seed': 1,
            'steps': 10,
            'metrics': {'loss': 0.5},
        },
    )


def test_what_is_written_is_found_again(written):
    info = find_checkpoint(CheckpointRef('small'), [written.path.parent], 'planner')
    assert info == written
    assert info.name == 'small' and info.kind == 'planner'
    assert info.config == {'channels': 8} and info.contract == FIELDS
    assert info.training['seed'] == 1
    assert info.sha256 == sha256_of(info.path) and info.short_hash == info.sha256[:16]
    for name, array in info.tensors().items():
        np.testing.assert_array_equal(array, TENSORS[name])


def test_transposed_tensors_are_written_as_they_look(tmp_path):
    tensor = np.arange(6, dtype=np.float32).reshape(2, 3).T
    info = write_checkpoint(
        tmp_path / 'x', {'t': tensor}, kind='idm', config={}, contract={}, training={}
    )
    assert info.path.name == 'x.safetensors'
    np.testing.assert_array_equal(info.tensors()['t'], tensor)


def test_a_name_with_a_dot_keeps_it(tmp_path):
    info = write_checkpoint(
        tmp_path / 'v1.5', TENSORS, kind='idm', config={}, contract={}, training={}
    )
    assert info.name == 'v1.5'
    assert find_checkpoint('v1.5', [tmp_path], 'idm').path == info.path


def test_the_same_weights_have_the_same_hash(tmp_path, written):
    again = write_checkpoint(
        tmp_path / 'again', TENSORS, kind='planner', config={}, contract={}, training={}
    )
    assert again.sha256 == written.sha256


def test_the_first_folder_wins(tmp_path, written):
    other = write_checkpoint(
        tmp_path / 'b' / 'small',
        {'w': TENSORS['b']},
        kind='planner',
        config={},
        contract={},
        training={},
    )
    assert find_checkpoint('small', [other.path.parent, written.path.parent]).sha256 == other.sha256


def test_a_path_is_a_reference_too(written):
    assert find_checkpoint(str(written.path)).sha256 == written.sha256
    assert find_checkpoint(str(written.path.with_suffix(''))).sha256 == written.sha256


def test_folders_of_the_environment_are_searched(written, monkeypatch):
    monkeypatch.setenv('VERA_CHECKPOINT_PATH', f'/nowhere:{written.path.parent}')
    assert find_checkpoint('small', kind='planner').path == written.path


@pytest.mark.parametrize(
    ('kind', 'command'), [('planner', 'vera train planner'), ('idm', 'vera train idm')]
)
def test_a_missing_one_names_where_it_looked_and_the_command_that_makes_it(tmp_path, kind, command):
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(CheckpointRef('none'), [tmp_path / 'a', tmp_path / 'b'], kind)
    for words in ("checkpoint 'none' not found", str(tmp_path / 'a'), str(tmp_path / 'b'), command):
        assert words in str(caught.value)


def test_nowhere_to_look(tmp_path):
    with pytest.raises(CheckpointError, match='nowhere: no folder was given'):
        find_checkpoint('none', [], 'planner')


def test_another_kind_is_refused(written):
    with pytest.raises(CheckpointError, match='is a checkpoint of a planner, not of a idm'):
        find_checkpoint('small', [written.path.parent], 'idm')


def test_damaged_weights_are_refused(written):
    data = bytearray(written.path.read_bytes())
    data[-1] ^= 1
    written.path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r'small\.json says .*damaged or of another training'):
        find_checkpoint('small', [written.path.parent])


def test_another_digest_than_the_contracts_is_refused(written):
    folder = [written.path.parent]
    assert find_checkpoint(CheckpointRef('small', written.sha256), folder)
    assert find_checkpoint(CheckpointRef('small', written.sha256[:12]), folder)
    with pytest.raises(CheckpointError, match='the contract wants 0123456789abcdef'):
        find_checkpoint(CheckpointRef('small', '0123456789abcdef'), folder)


def test_a_missing_description_is_named(written):
    written.path.with_suffix('.json').unlink()
    with pytest.raises(CheckpointError, match=r'small\.json is missing beside it'):
        find_checkpoint('small', [written.path.parent])


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('{', 'cannot be read'),
        ('{}', 'lacks kind, sha256, config, contract, training'),
        ('[]', 'lacks kind'),
        ('{"kind": "planner", "sha256": "0", "config": {}, "training": {}}', 'lacks contract'),
    ],
)
def test_a_broken_description_is_refused(written, text, words):
    written.path.with_suffix('.json').write_text(text)
    with pytest.raises(CheckpointError, match=words):
        find_checkpoint('small', [written.path.parent])


def test_the_same_contract_is_accepted(written):
    check_contract(written, FIELDS)
    check_contract(written, {**FIELDS, 'cameras': ({'crop': None, 'name': 'top'},)})


def test_every_differing_field_is_named(written):
    other = {
        'canvas': {'height': 64, 'width': 128},
        'cameras': [{'name': 'left', 'crop': None}, {'name': 'b'}],
    }
    with pytest.raises(CheckpointError) as caught:
        check_contract(written, other)
    message = str(caught.value)
    assert 'canvas.width: checkpoint 64, contract 128' in message
    assert 'cameras[0].name: checkpoint top, contract left' in message
    assert 'cameras[1].name: checkpoint has none, contract b' in message
    assert 'height' not in message


def test_the_fields_of_a_real_contract_survive_the_file(tmp_path):
    contract = load_contract('finger')
    for kind, fields in (('planner', contract.visual_fields()), ('idm', contract.action_fields())):
        info = write_checkpoint(
            tmp_path / kind, TENSORS, kind=kind, config={}, contract=fields, training={}
        )
        check_contract(find_checkpoint(kind, [tmp_path], kind), fields)
        assert info.contract == json.loads(json.dumps(fields))
    with pytest.raises(CheckpointError, match=r'frame_period: checkpoint 0\.2, contract 0\.4'):
        check_contract(
            find_checkpoint('planner', [tmp_path]),
            load_contract('finger', {'video.frame_period': 0.4}).visual_fields(),
        )


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'kind': 'policy'}, "unknown kind 'policy'; known: planner, idm"),
        ({'tensors': {}}, 'without tensors'),
        ({'config': {'x': np.zeros(2)}}, 'plain data only'),
        ({'training': {'loss': float('nan')}}, 'plain data only'),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, change, words):
    given_ = {
        'tensors': TENSORS,
        'kind': 'idm',
        'config': {},
        'contract': {},
        'training': {},
        **change,
    }
    with pytest.raises(CheckpointError, match=words):
        write_checkpoint(tmp_path / 'x', given_.pop('tensors'), **given_)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / 'x'
    write_atomic(path, b'old')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='No space left'):
        write_atomic(path, b'new')
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]


fields = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text('abc', min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(['a', 'b']), fields),
    st.dictionaries(st.sampled_from(['a', 'b']), fields),
)
def test_contracts_pass_if_and_only_if_they_are_equal(theirs, ours):
    info = SimpleNamespace(path=Path('x.safetensors'), contract=theirs)
    check_contract(info, theirs)
    try:
        check_contract(info, ours)
        passed = True
    except CheckpointError:
        passed = False
    assert passed == (theirs == ours)
