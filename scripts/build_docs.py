#!/usr/bin/env python3
"""Build the documentation into build/docs; every warning of Sphinx is an error.

    .venv/bin/python scripts/build_docs.py      (`make docs`)

Sphinx has an environment of its own, build/docs-env, made when it is missing or when
requirements/docs.txt has changed: Sphinx and the packages of catkin ask for different versions of
docutils. The reference pages that follow from the code are written anew before.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / 'requirements' / 'docs.txt'
ENVIRONMENT = ROOT / 'build' / 'docs-env'
OUTPUT = ROOT / 'build' / 'docs'


def environment() -> Path:
    """The Python of the environment with Sphinx; made if it is not as pinned."""
    python = ENVIRONMENT / 'bin' / 'python'
    stamp = ENVIRONMENT / 'made-of'
    wanted = hashlib.sha256(PINS.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f'docs: installing Sphinx into {ENVIRONMENT.relative_to(ROOT)}', flush=True)
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    install = [python, '-m', 'pip', 'install', '--quiet', '--no-deps', '-r', PINS]
    subprocess.run(install, check=True)
    stamp.write_text(wanted)
    return python


def main() -> int:
    try:
        subprocess.run([sys.executable, ROOT / 'scripts' / 'reference_pages.py'], check=True)
        sphinx = [environment(), '-m', 'sphinx', '--fail-on-warning', '--keep-going', '--quiet']
        cache = ['--doctree-dir', ROOT / 'build' / 'doctrees']
        subprocess.run([*sphinx, *cache, '--builder', 'html', ROOT / 'docs', OUTPUT], check=True)
    except subprocess.CalledProcessError as error:
        print(f'docs: failed: {" ".join(map(str, error.cmd[:4]))} ...', file=sys.stderr)
        return 1
    print(f'docs: {OUTPUT.relative_to(ROOT)}/index.html')
    return 0


if __name__ == '__main__':
    sys.exit(main())
