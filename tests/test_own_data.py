"""docs/how-to/your-own-data.md from its first command to its last, at a small size."""

from __future__ import annotations

import pytest

from graph_tools import Vera, unique_domain, vera

CHECKPOINT = ('--translator-checkpoint', 'runs/train_idm/jidm_mine.safetensors')


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_path_from_self_play_to_a_robot(tmp_path):
    def done(*words: str) -> str:
        code, text = vera(*words, cwd=tmp_path, timeout=280)
        assert code == 0, text
        return text

    assert 'bins filled' in done(
        'collect', 'finger', '--out', 'data/mine/train', '--transitions', '60'
    )
    done('train', 'idm', 'finger', '--data', 'data/mine', '--transitions', '60', '--steps', '5',
         '--name', 'jidm_mine')  # fmt: skip
    done('eval', 'finger', '--planner', 'oracle', *CHECKPOINT, '--episodes', '1', '--frames', '4')
    domain = str(unique_domain())
    up = Vera('up', 'finger', '--planner', 'oracle', '--no-cockpit', *CHECKPOINT, '--domain',
              domain, cwd=tmp_path)  # fmt: skip
    try:
        up.wait_for('all nodes are ready', 150)
        code, text = vera('goal', 'touch the red disc', '--timeout', '5', '--domain', domain,
                          cwd=tmp_path, timeout=60)  # fmt: skip
        assert code in (0, 1), text  # five steps of training reach nothing, but everything runs
        assert up.end() == 0, up.text
    finally:
        up.kill()
