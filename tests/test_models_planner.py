"""`vera models` for planners of the Wan family: import, list, show, open what came out."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from typer.testing import CliRunner

from source_tree import ROOT
from vera_bringup.cli import app
from vera_bringup.exits import CommandError
from vera_planner.wan.checkpoints import open_planner
from vera_planner.wan.layouts import WanLayout
from vera_planner.wan.model import build_vae

sys.path.insert(0, str(ROOT / 'src' / 'vera_planner' / 'test'))
from test_wan_importer import HEADS, original

LAYOUT = WanLayout('custom', 48, 96, HEADS, 2, text_dim=24, freq_dim=32, vae_width=8)


def vera(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A published checkpoint and its base, small; checkpoints are kept aside."""
    torch.set_num_threads(1)
    monkeypatch.setenv('VERA_CHECKPOINT_PATH', str(tmp_path / 'checkpoints'))
    base = tmp_path / 'base'
    build_vae(LAYOUT, seed=1).save_pretrained(base / 'vae')
    for part in ('text_encoder', 'tokenizer'):
        (base / part).mkdir()
    (tmp_path / 'published').mkdir()
    weights = {f'model.{name}': value for name, value in original(LAYOUT).items()}
    torch.save({'state_dict': weights}, tmp_path / 'published' / 'video_model.ckpt')
    return tmp_path / 'published'


def test_import_list_show_open(source, tmp_path):
    base, licence = tmp_path / 'base', 'CC-BY-NC-4.0'
    result = vera(
        'models', 'import', source, '--planner', '--as', 'theirs', '--heads', HEADS,
        '--base', base, '--licence', licence,
    )  # fmt: skip
    assert result.exception is None, result.output
    assert 'NON-COMMERCIAL: theirs is under CC-BY-NC-4.0' in result.output
    assert 'by offload: none' in result.output
    listed = {m['name']: m for m in json.loads(vera('models', 'list', '--json').output)}
    assert listed['theirs']['intact']
    assert listed['theirs']['kind'] == 'planner'
    assert listed['theirs']['licence'] == licence
    assert 'theirs' in vera('models').output
    shown = json.loads(vera('models', 'show', 'theirs', '--json').output)
    assert shown['layout']['dim'] == 48
    assert shown['hash'] == listed['theirs']['sha256']
    assert shown['training']['imported']['tensors'] == len(original(LAYOUT))
    assert 'NON-COMMERCIAL' in vera('models', 'show', 'theirs').output

    class Words:
        dim, length = 24, 512

    parts = open_planner('theirs', device='cpu', text=Words())
    x, levels = torch.zeros(1, 16, 2, 2, 2), torch.rand(1, 2)
    with torch.inference_mode():
        assert parts.denoiser(x, levels, torch.zeros(1, 3, 24)).isfinite().all()
    again = vera('models', 'import', source, '--planner', '--as', 'theirs', '--base', base)
    assert 'is there already' in str(again.exception)


def test_show_knows_other_checkpoints(source):
    shown = json.loads(vera('models', 'show', 'compact_finger', '--json').output)
    assert shown['kind'] == 'planner'
    assert shown['intact']


def test_a_damaged_planner_is_listed_as_such(source, tmp_path):
    vera('models', 'import', source, '--planner', '--as', 'a', '--heads', HEADS,
         '--base', tmp_path / 'base')  # fmt: skip
    (tmp_path / 'checkpoints' / 'a' / 'planner.json').write_text('{}')
    listed = {m['name']: m for m in json.loads(vera('models', '--json').output)}
    assert not listed['a']['intact']
    assert 'unreadable' in listed['a']['kind']


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ([], '--planner'),
        (['--planner', '--as', 'a/b'], 'plain name'),
        (['--planner', '--dtype', 'int8'], 'known: bfloat16'),
        (['--planner'], 'how many attention heads'),
        (['--planner', '--heads', HEADS], 'say where autoencoder and encoders are'),
        (['--planner', '--heads', HEADS, '--layout', 'big'], 'unknown size'),
        (['--planner', '--prefix', 'ema.'], 'no Wan transformer'),
    ],
)
def test_refusals_are_one_message(source, tmp_path, options, words):
    named = options if '--as' in options else [*options, '--as', 'a']
    result = vera('models', 'import', source, *named)
    assert isinstance(result.exception, CommandError)
    assert words in str(result.exception)
    assert not list(tmp_path.glob('checkpoints/*'))


def test_nothing_of_that_name(source):
    result = vera('models', 'show', 'nothing')
    assert isinstance(result.exception, CommandError)
    assert 'vera models' in str(result.exception)


def test_a_hub_model_without_a_connection(source, monkeypatch):
    import huggingface_hub

    class Cut:
        def model_info(self, *arguments, **more):
            raise ConnectionError('no route')

    monkeypatch.setattr(huggingface_hub, 'HfApi', Cut)
    result = vera('models', 'show', 'Some/Model')
    assert isinstance(result.exception, CommandError)
    assert 'cannot be reached (no route)' in str(result.exception)


def test_a_hub_model_is_shown_with_the_commit_to_pin(source, monkeypatch):
    from vera_planner.wan import hub

    monkeypatch.setattr(hub, 'page', lambda repo, revision: ('b' * 40, 'apache-2.0', 12))
    monkeypatch.setattr(hub, 'fetch', _nothing_to_fetch)
    shown = json.loads(vera('models', 'show', 'Some/Model', '--json').output)
    assert shown['pinned'] == 'Some/Model@' + 'b' * 40
    assert shown['bytes'] == 12
    assert 'not to be opened' in shown['note']


def _nothing_to_fetch(*arguments, **more):
    from vera_planner.wan.hub import HubError

    raise HubError('has no transformer/config.json')
