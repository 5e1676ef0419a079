"""`vera models import` from files to a checkpoint that the translator takes."""

import json
import sys

import pytest
import torch
from typer.testing import CliRunner

from source_tree import ROOT
from vera_bringup.cli import app
from vera_bringup.exits import CommandError
from vera_core.contract import load_contract
from vera_jidm import authors_config
from vera_jidm.registry import make_translator

sys.path.insert(0, str(ROOT / 'src' / 'vera_jidm' / 'test'))
import jidm_published as published


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A published checkpoint of the finger's three joints, small."""
    torch.set_num_threads(1)
    size = published.SMALL
    monkeypatch.setitem(authors_config.BACKBONES, 'small', (size.dim, size.heads))
    monkeypatch.setitem(authors_config.NECKS, 'M', size.neck)
    monkeypatch.setattr(authors_config, 'FUSED', size.fused)
    monkeypatch.setenv('VERA_CHECKPOINT_PATH', str(tmp_path / 'checkpoints'))
    shapes = {
        **published.encoder_shapes(size), **published.decoder_shapes('dpt_vggt_fusion', 3, size),
    }  # fmt: skip
    run = published.run_config('dpt_vggt_fusion', 3, 42)
    return published.write_published(
        tmp_path / 'published', published.random_weights(shapes), run
    )


def vera(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_import_list_translate(source, tmp_path):
    result = vera('models', 'import', source, '--as', 'theirs', '--embodiment', 'finger')
    assert result.exception is None, result.output
    assert 'licence Apache-2.0' in result.output
    listed = {m['name']: m for m in json.loads(vera('models', '--json').output)}
    assert listed['theirs']['intact']
    assert listed['theirs']['licence'] == 'Apache-2.0'
    assert 'dinov2' in vera('models').output
    contract = load_contract('finger')
    translator = make_translator('jacobian', contract, 'theirs')
    frames = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8).numpy()
    translation = translator.translate(frames[0], frames[1:])
    assert translation.values.shape == (2, 3)
    assert abs(translation.values).max() <= 2 * 3 * 0.1


@pytest.mark.parametrize(('options', 'words'), [
    (['--as', 'a/b', '--embodiment', 'finger'], 'plain name'),
    (['--as', 'a', '--embodiment', 'fingre'], 'finger'),
    (['--as', 'a', '--embodiment', 'pusht'], '3 actions, the contract 2 channels'),
    (['--as', 'a', '--embodiment', 'finger', '--gain', 'joint_1'], 'CHANNEL=NUMBER'),
    (['--as', 'a', '--embodiment', 'finger', '--gain', 'joint_7=2'], 'joint_7'),
    (['--as', 'a', '--embodiment', 'finger', '--flow', 'magic'], 'magic'),
])  # fmt: skip
def test_refusals_are_one_message(source, tmp_path, options, words):
    result = vera('models', 'import', source, *options)
    assert isinstance(result.exception, CommandError)
    assert words in str(result.exception)
    assert not list(tmp_path.glob('checkpoints/*'))
