"""The expert's PushT on video: clips in which the caption is true from the first anchor on."""

import itertools

import numpy as np

from vera_bringup import pusht_videos
from vera_core.contract import load_contract
from vera_planner.clips import ClipDataset
from vera_sim import make_environment, pusht
from vera_sim.pusht_expert import corner_error
from vera_sim.pusht_physics import coverage


def test_an_episode_is_cut_into_stretches_that_lead_to_the_goal():
    contract = load_contract('pusht')
    env = make_environment('pusht', contract.sim.options, 96)
    clips = pusht_videos.episode(env, np.random.default_rng(3))
    assert coverage(clips[-1][0][-1].block) > 0.95
    better = 0
    for states, first in clips:
        assert first < 6 <= len(states) - first
        assert len(states) <= pusht_videos.FRAMES
        steps = [np.abs(b.pusher - a.pusher).max() for a, b in itertools.pairwise(states)]
        assert max(steps[first:], default=0) <= 20.001  # the expert's own pace
        better += corner_error(states[-1].block) <= corner_error(states[first].block) + 1e-9
    assert better >= len(clips) - 1


def test_clips_are_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pusht_videos, 'SHARD', 6)
    contract = load_contract('pusht')
    pusht_videos.write_pusht_videos(contract, tmp_path, 6, seed=0)
    before = (tmp_path / 'shard_0000_frames.npy').stat().st_mtime_ns
    pusht_videos.write_pusht_videos(contract, tmp_path, 6, seed=0)
    assert (tmp_path / 'shard_0000_frames.npy').stat().st_mtime_ns == before
    clips = ClipDataset(tmp_path, 4, 4)
    batch, _ = clips.sample(np.random.default_rng(0), 8)
    assert batch.frames.shape == (8, 8, 96, 96, 3)
    assert set(batch.sentences) <= {*pusht.TRAINING, *pusht_videos.UNRELATED}
