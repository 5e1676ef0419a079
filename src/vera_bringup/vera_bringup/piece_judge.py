"""Was the goal reached in these frames? Judged by pictures alone, dreamt ones as well as real ones.

Where the pieces are comes from the codec of the pieces planner (masks and poses, trained on single
pictures), whoever dreamt the frames. What counts as reached is the simulator's own rule. Where the
finger's discs are comes from the simulator: they do not move. Privileged: for evaluation only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from vera_drivers.sim_world import SimWorld, is_over, reached_object
from vera_planner.compact import to_signal
from vera_planner.pieces_codec import read_poses
from vera_sim import DwellJudge
from vera_sim.finger_kinematics import CANVAS, REACH
from vera_sim.finger_painter import DISC_RADIUS
from vera_sim.pieces import block_at
from vera_sim.pusht_physics import coverage

if TYPE_CHECKING:
    from vera_core.seams import Image
    from vera_planner.pieces import PiecesPlanner

CHECKPOINT = 'pieces_finger_pusht_panda'


class PieceJudge:
    """Judges the frames of one episode, in order.

    Args:
        planner: whose codec looks; any pieces planner that knows the embodiment.
        world: just reset to the episode; its objects and its rule count, not its state later on.

    Attributes:
        reached: the object that has been reached, '' if none yet.

    Raises:
        ValueError: an embodiment whose pieces nobody knows.
    """

    def __init__(self, planner: PiecesPlanner, world: SimWorld) -> None:
        self._codec, self._name = planner.network.codec, planner.embodiment
        self._pieces = planner.shape.pieces
        self._objects = world.env.objects
        self._success = world.success_coverage
        self._best = float('nan')
        self._dwelled = ''
        if self._success is None:
            env: Any = world.env
            self._discs = np.array([centre for _, centre in env.discs])
            self._reach = REACH / len(world.contract.joints)
            self._dwell = DwellJudge()

    @property
    def reached(self) -> str:
        return reached_object(self._success, self._objects, self._dwelled, self._best)

    @property
    def over(self) -> bool:
        """Whether the episode has nothing more to show, as SimWorld.over."""
        return is_over(self._success, self._dwelled, self._best)

    @torch.inference_mode()
    def see(self, frames: Image) -> None:
        """The next frames, uint8 [F, H, W, 3]; those after the end do not count."""
        logits, votes = self._codec(to_signal(frames), self._name)
        masks = logits.sigmoid()
        poses = read_poses(masks, votes).double().numpy()
        there = (masks.sum((2, 3)) >= 0.2 * self._codec.least(self._name)).numpy()
        for pose, seen in zip(poses, there, strict=True):
            if self.over:
                return
            if self._success is None:
                self._tip(pose[-1], bool(seen[-1]), CANVAS / frames.shape[1])
            else:
                k = self._pieces.index('block')
                share = coverage(block_at(pose[k], frames.shape[1])) if seen[k] else 0.0
                self._best = float(np.fmax(self._best, share))

    def _tip(self, link: NDArray[np.float64], seen: bool, scale: float) -> None:
        """The last link's pose [px of the picture]: its end is the tip."""
        way = np.array([np.cos(link[2]), np.sin(link[2])])
        tip = link[:2] * scale + way * self._reach / 2
        inside = np.linalg.norm(self._discs - tip, axis=1) <= DISC_RADIUS
        found = self._dwell.observe(self._objects, inside & seen, tip)
        self._dwelled = self._dwelled or found or ''


def load_judge_planner(contract: Any) -> PiecesPlanner:
    """The planner whose codec looks.

    Raises:
        ValueError: this embodiment has no pieces that the codec knows.
    """
    from vera_core.checkpoint import check_contract
    from vera_planner.pieces import PiecesPlanner
    from vera_planner.pieces_checkpoint import load_pieces
    from vera_planner.registry import planner_checkpoint

    info = planner_checkpoint(CHECKPOINT)
    check_contract(info, contract.visual_fields())
    canvas = (contract.canvas.height, contract.canvas.width)
    planner = load_pieces(
        info, contract.visual_fields(), contract.video.frame_period, canvas, threads=1
    )
    if not isinstance(planner, PiecesPlanner):
        raise ValueError(f'nobody judges by pictures what {contract.embodiment!r} has reached')
    return planner
