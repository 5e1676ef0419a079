"""`vera study dreams`: does success in dreams tell success in reality?"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tqdm import tqdm

from vera_bringup.exits import CommandError


def run(
    embodiment: str, out: Path, starts: int, seed: int, variants: str, as_json: bool
) -> None:
    """Run what is missing, write rows, table and picture."""
    import torch

    from vera_bringup import dream_study as work
    from vera_bringup.rows import Rows
    from vera_core.contract import load_contract

    torch.set_num_threads(1)
    names = tuple(name.strip() for name in variants.split(',') if name.strip())
    try:
        study = work.DreamStudy(load_contract(embodiment), seed, names)
        with Rows(out, work.about(study)) as rows:
            found = list(rows.found)
            total = starts * len(study.variants)
            bar = tqdm(total=total, initial=len(found), unit='start', disable=None,
                       file=sys.stderr, mininterval=5)
            for row in study.rows(starts, found):
                rows.add(row)
                found.append(row)
                bar.update()
            bar.close()
    except ValueError as error:
        raise CommandError(str(error)) from error
    summary = work.summary(found, study.variants)
    text = work.markdown(found, summary)
    (out / 'dreams.md').write_text(text, encoding='utf-8')
    work.draw(found, study.variants, summary, out / 'dreams.png')
    print(text)
    print(f'rows, table and picture are in {out}')
    if as_json:
        print(json.dumps({'rows': work.table(found), **summary}))
