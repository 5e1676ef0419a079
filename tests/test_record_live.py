"""Recording, killing, repairing, replaying and exporting a live graph, as a user types it."""

from __future__ import annotations

import json
import signal

import pytest

from graph_tools import Vera, unique_domain, vera


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_record_kill_repair_replay_export(tmp_path):
    domain = str(unique_domain())
    where = ('--domain', domain)
    running: list[Vera] = []

    def start(*words: str, until: str, timeout: float = 120.0) -> Vera:
        running.append(Vera(*words, *where, cwd=tmp_path))
        running[-1].wait_for(until, timeout)
        return running[-1]

    def done(*words: str, timeout: float = 150.0) -> str:
        code, text = vera(*words, cwd=tmp_path, timeout=timeout)
        assert code == 0, text
        return text

    try:
        up = start('up', 'finger', '--no-cockpit', until='all nodes are ready', timeout=150)
        whole = start('record', '--out', 'whole', '--json', until='recording into')
        killed = start('record', '--out', 'killed', '--jpeg', '90', until='recording into')
        code, text = vera('goal', 'touch the red disc', *where, cwd=tmp_path, timeout=100)
        assert code in (0, 1), text  # the words may name what this scene does not have
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait(10)
        assert whole.end() == 0, whole.text
        assert up.end() == 0, up.text
    finally:
        for each in running:
            each.kill()
    counts = json.loads(whole.text.splitlines()[-1])
    assert not counts['dropped'], counts
    assert counts['messages'] > 500

    assert (tmp_path / 'killed' / 'bag_0.unfinished.mcap').exists()
    assert 'unfinished end cut off' in done('repair', 'killed')
    for bag in ('whole', 'killed'):
        said = done('replay', bag, '--check', '--json')
        report = json.loads(said.splitlines()[-1])
        assert report['identical'] == report['compared'] >= 1, said
    said = done('replay', 'whole', '--into', 'translator', '--rate', '4', '--json', *where)
    report = json.loads(said.splitlines()[-1])
    assert report['identical'] == report['chunks'] >= 1, said
    said = done('replay', 'whole', '--into', 'planner,translator', '--json', *where)
    assert json.loads(said.splitlines()[-1])['chunks'] >= 1, said
    assert 'messages of' in done('replay', 'whole', '--rate', '20', '--exclude', 'debug', *where)
    said = done('export', 'lerobot', 'whole', 'killed', '--out', 'lerobot')
    assert said.startswith('2 episodes'), said
    assert 'transitions of 2 episodes' in done(
        'import', 'lerobot', 'lerobot', 'finger', '--out', 'data/imported'
    )
    done('collect', 'finger', '--from', 'whole', '--out', 'data/recorded')
