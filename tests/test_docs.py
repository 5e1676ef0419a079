"""The documentation: links lead somewhere, every page can be found, generated pages are current."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import docs_pages
from docs_pages import ROOT

DOCS = ROOT / 'docs'
FOLDERS = ('tutorial', 'how-to', 'reference', 'explanation', 'results')
NAMES = {str(page.relative_to(ROOT)): page for page in docs_pages.pages()}


@pytest.mark.parametrize('name', NAMES)
def test_links_lead_somewhere(name):
    page = NAMES[name]
    wrong = []
    for line, target in docs_pages.links(page):
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            wrong.append(f'{name}:{line}: there is no {target}')
        elif anchor and file.suffix == '.md' and anchor not in docs_pages.headings(file):
            wrong.append(f'{name}:{line}: no heading for #{anchor} in {file.name}')
    assert not wrong, '\n'.join(wrong)


def test_links_of_the_site_stay_in_it():
    """What Sphinx builds cannot lead to a folder, nor to a page that is not built."""
    wrong = []
    for name, page in NAMES.items():
        if not name.startswith('docs/'):
            continue
        for line, target in docs_pages.links(page):
            file = (page.parent / target.partition('#')[0]).resolve()
            if file.is_dir() or (file.suffix == '.md' and DOCS not in file.parents):
                wrong.append(f'{name}:{line}: {target}')
    assert not wrong, '\n'.join(wrong)


def test_the_four_kinds_of_pages_and_the_results_have_an_index():
    text = (DOCS / 'index.md').read_text()
    for folder in FOLDERS:
        assert (DOCS / folder).is_dir()
        assert f'{folder}/' in text, f'docs/index.md does not name {folder}'
    for folder in FOLDERS[1:]:
        tree = (DOCS / folder / 'index.md').read_text()
        # New pages are found by themselves: the tree ends with everything else.
        assert re.search(r'```\{toctree\}[^`]*:glob:[^`]*\n\*\n```', tree), folder


@pytest.mark.parametrize('name', [n for n in NAMES if n.startswith('docs/')])
def test_headings_go_down_one_level_at_a_time(name):
    levels = [
        len(marks)
        for marks in re.findall(
            r'^(#{1,6})\s',
            re.sub(r'^```.*?^```', '', NAMES[name].read_text(), flags=re.M | re.S),
            flags=re.M,
        )
    ]
    assert levels and levels[0] == 1 and levels.count(1) == 1, f'{name}: one title, at the top'
    assert all(b <= a + 1 for a, b in pairwise(levels)), f'{name}: a level of headings is left out'


def test_pages_name_no_path_of_a_machine():
    for name, page in NAMES.items():
        found = re.search(r'/(?:work|root|home/\w+)/', page.read_text())
        assert not found, f'{name}: {found and found[0]}'


def test_reference_pages_follow_from_the_code():
    script = ROOT / 'scripts' / 'reference_pages.py'
    done = subprocess.run([sys.executable, script, '--check'], capture_output=True, text=True)
    assert done.returncode == 0, (
        f'{done.stdout}{done.stderr}\nrun .venv/bin/python scripts/reference_pages.py'
    )


def test_your_own_robot_has_a_contract_that_loads():
    from vera_core.contract import load_contract

    contract = load_contract(DOCS / 'how-to' / 'example' / 'my_robot.yaml')
    assert contract.sim is None
    assert contract.safety is not None


def test_the_site_builds_without_a_warning():
    script = ROOT / 'scripts' / 'build_docs.py'
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stdout + done.stderr
    site = ROOT / 'build' / 'docs'
    assert (site / 'index.html').is_file()
    for name in NAMES:
        if name.startswith('docs/'):
            html = site / Path(name).relative_to('docs').with_suffix('.html')
            assert html.is_file(), html
