"""The examples of docs/reference/episode-format.md run, and give what they say."""

import re

import numpy as np

from source_tree import ROOT
from vera_bringup.selfplay import collect
from vera_core.contract import load_contract
from vera_jidm.episodes import read_shard

DOC = (ROOT / 'docs' / 'reference' / 'episode-format.md').read_text()


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    collect(load_contract('finger'), tmp_path / 'data' / 'a', 6, 1, frames=3)
    reading, writing = re.findall(r'```python\n(.*?)```', DOC, re.DOTALL)
    scope = {}
    exec(reading, scope)
    data, _ = read_shard(tmp_path / 'data' / 'a' / 'shard_00000.mcap')
    assert len(scope['actions']) == 6 and len(scope['frames']) == 9
    for (before, after, values), o_t, o_next, action in zip(
        scope['actions'], data.before, data.after, data.actions, strict=True
    ):
        np.testing.assert_array_equal(scope['frames'][before], o_t)
        np.testing.assert_array_equal(scope['frames'][after], o_next)
        np.testing.assert_array_equal(values.astype(np.float32), action)
    exec(writing, {})
    mine, meta = read_shard(tmp_path / 'data' / 'mine' / 'shard_00000.mcap')
    assert mine.actions.shape == (100, 3) and meta['source'] == 'my robot'
