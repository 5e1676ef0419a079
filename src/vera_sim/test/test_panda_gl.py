"""MuJoCo's own renderer shows the same things in the same places, where GL opens."""

from __future__ import annotations

import numpy as np
import pytest

from vera_sim import panda_gl
from vera_sim.panda import PandaEnv


def test_gl_and_painter_see_the_same():
    try:
        gl = PandaEnv(task='stack', size=64, renderer='gl')
    except ValueError as error:
        pytest.skip(str(error))
    painter = PandaEnv(task='stack', size=64)
    assert (gl.renderer in panda_gl.BACKENDS, painter.renderer) == (True, 'painter')
    for env in (gl, painter):
        env.reset(154)
        env.act('stack red on blue')
    seen = painter.measure()
    pictures = gl.render_views()
    parts = painter._made.parts
    for name, (solid, _) in seen.items():
        for i, colour in enumerate(painter.scene_info.colours):
            mine = [k for k, part in enumerate(parts) if part.item == f'cube{i}']
            where = np.isin(solid, mine)
            if where.sum() < 8:
                continue
            # Edges apart, the pixels of a cube have its colour in both pictures.
            channel = {'red': 0, 'green': 1, 'blue': 2}.get(colour)
            if channel is not None:
                strong = pictures[name][where].astype(int)
                others = [c for c in range(3) if c != channel]
                right = strong[:, channel] > strong[:, others].max(1) + 20
                assert right.mean() > 0.6, (name, colour)


def test_without_gl_auto_takes_the_painter_and_gl_says_what_to_do(monkeypatch):
    monkeypatch.setattr(panda_gl, 'BACKENDS', ('no_such_backend',))
    assert PandaEnv(size=24, renderer='auto').renderer == 'painter'
    with pytest.raises(ValueError, match='apt install libosmesa6'):
        PandaEnv(size=24, renderer='gl')
