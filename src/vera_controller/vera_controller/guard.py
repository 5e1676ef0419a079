"""What the tool and the links may not do: leave the workspace, go too fast, touch each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from vera_controller.limits import SafetyError, Vector
from vera_core.kinematics.tree import KinematicTree
from vera_core.kinematics.urdf import UrdfError, read_urdf

if TYPE_CHECKING:
    from vera_core.contract import Contract

# Paths are looked at in points; between two of them they bend by less than this [m].
SAG = 5e-4
# The speed of the tool is looked at as an average between points; it is kept to this share.
HASTE = 0.95
# Further outside than this [m] a robot is not moved at all: somebody moves it back by hand.
TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class Spheres:
    """Spheres round links, and which of them may not touch.

    Attributes:
        link: int [S], place of its link in the tree's `link_names`.
        centre: float64 [S, 3] m, frame of the link.
        radius: float64 [S] m.
        first, second: int [P], pairs that are looked at.
    """

    link: NDArray[np.int64]
    centre: Vector
    radius: Vector
    first: NDArray[np.int64]
    second: NDArray[np.int64]


def read_spheres(path: Path, tree: KinematicTree) -> Spheres:
    """Spheres of a YAML file: link -> list of [x, y, z, radius]; pairs of links to ignore.

    Spheres of one link and of neighbours, that is of links with no link that has spheres between
    them, are not looked at.

    Raises:
        SafetyError: the file cannot be read, or names a link that there is not.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding='utf-8'))
        given: dict[str, list[list[float]]] = data['spheres']
        rows = [(tree.link_index(link), *map(float, s)) for link, of in given.items() for s in of]
        table = np.array(rows, np.float64).reshape(-1, 5)
        ignored = {
            frozenset((tree.link_index(a), tree.link_index(b))) for a, b in data.get('ignore', ())
        }
    except (OSError, yaml.YAMLError, UrdfError, ValueError, TypeError, KeyError) as error:
        raise SafetyError(f'spheres of {path} cannot be used: {error}') from error
    if not (len(table) and np.isfinite(table).all() and (table[:, 4] > 0).all()):
        raise SafetyError(f'spheres of {path} need [x, y, z, radius > 0] each')
    link = table[:, 0].astype(np.int64)
    ignored |= _neighbours(tree, set(link.tolist()))
    pairs = [
        (i, j)
        for i in range(len(link))
        for j in range(i + 1, len(link))
        if link[i] != link[j] and frozenset((int(link[i]), int(link[j]))) not in ignored
    ]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return Spheres(link, table[:, 1:4], table[:, 4], first, second)


def _neighbours(tree: KinematicTree, solid: set[int]) -> set[frozenset[int]]:
    joints = tree.urdf.joints.values()
    parent = {tree.link_index(joint.child): tree.link_index(joint.parent) for joint in joints}
    found = set()
    for link in solid:
        at = parent.get(link)
        while at is not None and at not in solid:
            at = parent.get(at)
        if at is not None:
            found.add(frozenset((link, at)))
    return found


class Guard:
    """Constraints g(q) <= 0 on postures: workspace, floor, distances; and the tool's speed.

    Args:
        contract: with `kinematics` and `safety`.

    Raises:
        SafetyError: the URDF or the spheres cannot be used.
    """

    def __init__(self, contract: Contract) -> None:
        safety, kinematics = contract.safety, contract.kinematics
        assert safety is not None and kinematics is not None
        text = kinematics.urdf
        source: Any = text if text.lstrip().startswith('<') else contract.resolve(text)
        try:
            urdf = read_urdf(source)
            known = [name for name in contract.joint_names if name in urdf.joints]
            self.tree = KinematicTree(urdf, known)
            self._tool = None if kinematics.tool is None else self.tree.link_index(kinematics.tool)
        except UrdfError as error:
            raise SafetyError(f'no safety limits without kinematics: {error}') from error
        self._joints = np.array([contract.joint_names.index(name) for name in known])
        box = safety.workspace
        self._box = None if box is None else np.array([box.x, box.y, box.z])
        self._speed = safety.tool_speed
        self._clearance = safety.clearance
        self._floor = safety.floor
        self._spheres = (
            None
            if safety.spheres is None
            else read_spheres(contract.resolve(safety.spheres), self.tree)
        )
        self._above = self._moving_spheres() if self._floor is not None else np.zeros(0, int)

    def look(self, q: Vector) -> tuple[Vector, Vector]:
        """Constraints float64 [S, m] m, positive where broken, and the tool's frames [S, 4, 4].

        Args:
            q: float64 [S, n], postures.
        """
        links = self.tree.posture(q[:, self._joints]).links
        tool = links[:, self._tool] if self._tool is not None else np.zeros((len(q), 4, 4))
        parts = []
        if self._box is not None:
            at = tool[:, :3, 3]
            parts += [self._box[:, 0] + SAG - at, at - self._box[:, 1] + SAG]
        if self._spheres is not None:
            of = self._spheres
            frames = links[:, of.link]
            centres = (frames[..., :3] @ of.centre[:, :, None])[..., :3, 0] + frames[..., :3, 3]
            if self._floor is not None:
                low = centres[:, self._above, 2] - of.radius[self._above]
                parts.append(self._floor + SAG - low)
            way = centres[:, of.first] - centres[:, of.second]
            gap = np.sqrt(np.einsum('spx,spx->sp', way, way))
            gap -= of.radius[of.first] + of.radius[of.second]
            parts.append(self._clearance - gap)
        return (np.concatenate(parts, axis=1) if parts else np.zeros((len(q), 0))), tool

    def speeding(self, tool: Vector, dt: Vector) -> Vector:
        """How many times too fast the tool goes between frames [S + 1, 4, 4], float64 [S].

        Args:
            tool: its frames.
            dt: float64 [S] s between them; 0 is no motion.
        """
        if self._speed is None:
            return np.zeros(len(dt))
        way = np.diff(tool[:, :3, 3], axis=0)
        turn = tool[:-1, :3, :3].swapaxes(1, 2) @ tool[1:, :3, :3]
        chord = np.sqrt(np.maximum(3 - np.einsum('sii->s', turn), 0.0))  # 2 sin(angle / 2) sqrt 2
        angle = 2 * np.arcsin(np.minimum(chord / 8**0.5, 1.0))
        length = np.sqrt(np.einsum('sx,sx->s', way, way))
        share = np.maximum(length / self._speed[0], angle / self._speed[1]) / HASTE
        return np.divide(share, dt, out=np.zeros(len(dt)), where=dt > 0)

    def name(self, index: int, value: float) -> tuple[str, str]:
        """(kind of violation, in words) of a constraint of `look` that is broken by `value` m."""
        if self._box is not None:
            if index < 6:
                side, axis = divmod(index, 3)
                return 'workspace', (
                    f'the tool would leave its workspace: {"xyz"[axis]} '
                    f'{"above" if side else "below"} {self._box[axis, side]:g} m'
                )
            index -= 6
        of = self._spheres
        assert of is not None
        links = self.tree.link_names
        if index < len(self._above):
            link = links[of.link[self._above[index]]]
            return 'workspace', f'{link} would go below the floor at {self._floor:g} m'
        index -= len(self._above)
        a, b = links[of.link[of.first[index]]], links[of.link[of.second[index]]]
        gap = self._clearance - value
        return 'collision', f'{a} would come within {max(gap, 0.0) * 1e3:.0f} mm of {b}'

    def check_start(self, q: Vector) -> None:
        """Raise SafetyError if nothing may move from q [n]."""
        broken, _ = self.look(q[None])
        if not broken.size:
            return
        # What the clearance is for may be used up at the start; what is inside of it may not.
        allowed = np.full(broken.shape[1], TOLERANCE)
        pairs = 0 if self._spheres is None else len(self._spheres.first)
        if pairs:
            allowed[-pairs:] = max(self._clearance, TOLERANCE)
        over = broken[0] - allowed
        i = int(np.argmax(over))
        if over[i] > 0:
            words = self.name(i, float(broken[0, i]))[1].replace('would leave', 'is outside')
            words = words.replace('would go', 'is').replace('would come', 'is')
            raise SafetyError(f'cannot start: {words}; move it back by hand')

    def _moving_spheres(self) -> NDArray[np.int64]:
        """Spheres that some joint can lower or lift; a base stands where it stands."""
        assert self._spheres is not None
        rng = np.random.default_rng(0)
        q = rng.uniform(-0.5, 0.5, (4, len(self._joints)))
        frames = self.tree.posture(q).links[:, self._spheres.link]
        height = np.einsum('skx,kx->sk', frames[..., 2, :3], self._spheres.centre)
        height += frames[..., 2, 3]
        return np.flatnonzero(np.ptp(height, axis=0) > 1e-6)


def make_guard(contract: Contract) -> Guard | None:
    """The guard of a contract that has safety limits beyond those of joints."""
    safety = contract.safety
    if safety is None or contract.kinematics is None:
        return None
    if safety.workspace is None and safety.spheres is None and safety.tool_speed is None:
        return None
    return Guard(contract)


__all__ = ['Guard', 'Spheres', 'make_guard', 'read_spheres']
