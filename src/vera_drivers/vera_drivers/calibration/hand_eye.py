"""Where a camera is mounted, from pictures of a board taken at known poses of an arm.

One equation serves both cases. With the board's corners p, the mount X (optical frame in its link)
and the mount Z of the board, a corner in the camera's frame is inv(X) M Z p, where

- a camera on the arm and a board that lies still: M = inv(A), A the pose of the camera's link;
- a camera that stands still and a board on the arm: M = A, A the pose of the board's link.

Each picture gives X C = M Z with C the board's pose in the camera's frame (OpenCV's solvePnP).
F. C. Park and B. J. Martin, "Robot sensor calibration: solving AX = XB on the Euclidean group",
IEEE T-RA 10(5), 1994, starts; the likelihood of all corners then decides, see `_refine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core.kinematics.transforms import Float, apply, inverse, transform
from vera_core.rotations import matrix_from_rotation_vector, rotation_vector
from vera_drivers.calibration.board import Detection
from vera_drivers.cameras.base import Intrinsics

LEAST_VIEWS = 8
LEAST_CORNERS = 6
# Root mean square angle by which the arm must have turned between pictures, about two axes [rad].
LEAST_TURN = np.deg2rad(5.0)
# Beyond this, pictures and poses do not belong together [px].
MOST_PX = 3.0
# A picture so many times worse than the median one is left out.
OUTLIER, LEAST_PX = 4.0, 0.1
# Corners further off than this weigh less [standard deviations].
HUBER = 3.0
# Spread of corners [px] and of the arm's poses ([rad], [m]) to begin with, and the least of them.
START_PX, START_POSE = 0.3, (1e-3, 5e-4)
LEAST_SIGMA_PX, LEAST_SIGMA = 0.01, 1e-5
ROUNDS = 60  # at most
SCALE_TOLERANCE = 0.01


class CalibrationError(ValueError):
    """Pictures or poses from which no mount follows; the message says what is missing."""


@dataclass(frozen=True)
class View:
    """One picture: the corners found in it, and the pose of the arm.

    Attributes:
        name: how messages call it.
        seen: the corners.
        pose: T float64 [4, 4] of the moving link in the root's frame: of the camera's link, or of
            the link that carries the board.
    """

    name: str
    seen: Detection
    pose: Float


@dataclass(frozen=True)
class Result:
    """Where the camera is, and how well that is known.

    Attributes:
        mount: T float64 [4, 4], optical frame in the link of the camera.
        board: T float64 [4, 4], of the board in the other link.
        intrinsics: given, or found from the same pictures.
        rms_px: root mean square distance of the corners from where they should be seen.
        rms_mm: the same of the board's corners in space, one board pose per picture.
        view_px: rms of each picture that was used, by name.
        left_out: pictures that did not fit the others.
        sigma_mm: standard error of the mount's position.
        sigma_deg: of its orientation.
        warnings: what to look at, in words.
    """

    mount: Float
    board: Float
    intrinsics: Intrinsics
    rms_px: float
    rms_mm: float
    view_px: dict[str, float]
    left_out: tuple[str, ...]
    sigma_mm: float
    sigma_deg: float
    warnings: tuple[str, ...] = field(default=())


def solve(
    views: Sequence[View],
    intrinsics: Intrinsics | None,
    size: tuple[int, int],
    *,
    in_hand: bool,
) -> Result:
    """The mount of a camera.

    Args:
        views: pictures of the board, at least LEAST_VIEWS of them with enough corners.
        intrinsics: of the rectified pictures; None finds them from the board too.
        size: (width, height) of the pictures [px].
        in_hand: the camera is on the arm; otherwise the board is.

    Raises:
        CalibrationError: too few pictures, poses that leave the mount open, or pictures and poses
            that contradict each other.
    """
    views = _usable(views)
    _check_poses(views)
    warnings: list[str] = []
    if intrinsics is None:
        intrinsics, told = _find_intrinsics(views, size)
        warnings += told
    K = np.array(
        [
            [intrinsics.focal[0], 0, intrinsics.centre[0]],
            [0, intrinsics.focal[1], intrinsics.centre[1]],
            [0, 0, 1],
        ]
    )
    X, Z = _start(views, K, in_hand)
    left_out: list[str] = []
    while True:
        corners = _Corners.of(views, K, in_hand)
        fit = _refine(corners, X, Z)
        errors = corners.view_rms(fit.residuals)
        # One at a time: a picture that is far off bends all others.
        worst = int(np.argmax(errors))
        spare = len(views) > LEAST_VIEWS
        if not spare or errors[worst] <= OUTLIER * max(float(np.median(errors)), LEAST_PX):
            break
        left_out.append(views[worst].name)
        views = [view for i, view in enumerate(views) if i != worst]
        _check_poses(views)
    X, Z, rms = fit.X, fit.Z, _rms(fit.residuals)
    larger = _refine(corners, X, Z, scaled=True)
    hint = ''
    if abs(larger.scale - 1) > SCALE_TOLERANCE and _rms(larger.residuals) < 0.8 * rms:
        hint = (
            f'the pictures fit a board {100 * larger.scale:.1f} % as large: measure its squares '
            'and the ruler on the page'
        )
    if rms > MOST_PX:
        raise CalibrationError(
            f'the corners are seen {rms:.1f} px from where they should be: '
            + (hint or 'the poses are not those of these pictures, or the board was moved, or is '
               'another one')
        )
    if hint:
        warnings.append(hint)
    named = {view.name: float(px) for view, px in zip(views, errors, strict=True)}
    return Result(
        X, Z, intrinsics, rms, _rms_mm(views, K, X, Z, in_hand), named, tuple(left_out),
        1e3 * float(np.linalg.norm(fit.sigma[3:6])),
        float(np.rad2deg(np.linalg.norm(fit.sigma[:3]))),
        tuple(warnings),
    )


# What must be true of the pictures ---------------------------------------------------------------


def _usable(views: Sequence[View]) -> list[View]:
    for view in views:
        if view.pose.shape != (4, 4) or not np.isfinite(view.pose).all():
            raise CalibrationError(f'the pose of {view.name} is not 4 x 4 finite numbers')
    good = [view for view in views if view.seen.count >= LEAST_CORNERS and _spread(view.seen)]
    if len(good) < LEAST_VIEWS:
        raise CalibrationError(
            f'{len(good)} pictures show {LEAST_CORNERS} corners of the board or more '
            f'(of {len(views)}); {LEAST_VIEWS} are needed, 15 to 25 are good'
        )
    return good


def _spread(seen: Detection) -> bool:
    """Whether the corners are not all on one line of the board."""
    return bool(np.ptp(seen.points[:, 0]) > 0 and np.ptp(seen.points[:, 1]) > 0)


def _check_poses(views: Sequence[View]) -> None:
    turns = np.array(
        [
            rotation_vector(a.pose[:3, :3].T @ b.pose[:3, :3])
            for i, a in enumerate(views)
            for b in views[i + 1 :]
        ]
    )
    # By how much the poses differ about their main axis, and about the next one.
    first, second, _ = np.linalg.svd(turns, compute_uv=False) / np.sqrt(len(turns))
    least = np.rad2deg(LEAST_TURN)
    if first < LEAST_TURN:
        raise CalibrationError(
            f'the arm turned by only {np.rad2deg(first):.1f} degrees between the pictures; tilt '
            f'it by 20 to 40 degrees, this way and that ({least:.0f} are the least)'
        )
    if second < LEAST_TURN:
        raise CalibrationError(
            'the arm turned about one axis only '
            f'({np.rad2deg(second):.1f} degrees about any other): where the camera is along that '
            'axis cannot be known; tilt about a second axis too'
        )


# The start ---------------------------------------------------------------------------------------


def _find_intrinsics(
    views: Sequence[View], size: tuple[int, int]
) -> tuple[Intrinsics, list[str]]:
    points = [view.seen.points.astype(np.float32) for view in views]
    pixels = [view.seen.pixels.astype(np.float32) for view in views]
    straight = (
        cv2.CALIB_FIX_K1 | cv2.CALIB_FIX_K2 | cv2.CALIB_FIX_K3 | cv2.CALIB_ZERO_TANGENT_DIST
    )
    try:
        rms, K, *_ = cv2.calibrateCamera(points, pixels, size, None, None, flags=straight)
        rms_bent, K_bent, lens, *_ = cv2.calibrateCamera(
            points, pixels, size, None, None, flags=cv2.CALIB_FIX_K3 | cv2.CALIB_ZERO_TANGENT_DIST
        )
    except cv2.error as error:
        raise CalibrationError(f'no lens fits these pictures: {error.err}') from error
    warnings = []
    corner = np.array([[[0.0, 0.0]]])
    ray = np.append((corner[0, 0] - K_bent[:2, 2]) / np.diag(K_bent)[:2], 1.0)
    zero = np.zeros(3)
    bent = float(
        np.linalg.norm(cv2.projectPoints(ray[None], zero, zero, K_bent, lens)[0] - corner)
    )
    if rms_bent < 0.8 * rms and bent > 1.0:
        warnings.append(
            f'the lens bends straight lines, by {bent:.0f} px in a corner of the picture; the '
            'stack takes pictures as rectified: rectify them, or use a driver that does'
        )
    return Intrinsics((float(K[0, 0]), float(K[1, 1])), (float(K[0, 2]), float(K[1, 2]))), warnings


def _board_poses(view: View, K: Float) -> list[Float]:
    """The two poses of a flat board that a picture may show, the likelier first: T [4, 4]."""
    good, turns, places, _ = cv2.solvePnPGeneric(
        view.seen.points, view.seen.pixels, K, None, flags=cv2.SOLVEPNP_IPPE
    )
    if not good or not np.isfinite(np.concatenate([*turns, *places])).all():
        raise CalibrationError(f'the pose of the board in {view.name} cannot be found')
    found = []
    for turn, place in zip(turns, places, strict=True):
        turn, place = cv2.solvePnPRefineLM(
            view.seen.points, view.seen.pixels, K, None, turn.copy(), place.copy()
        )
        found.append(transform(matrix_from_rotation_vector(turn.ravel()), place.ravel()))
    return found


def _motion(view: View, in_hand: bool) -> Float:
    """M of the equation."""
    return inverse(view.pose) if in_hand else view.pose


def _start(views: Sequence[View], K: Float, in_hand: bool) -> tuple[Float, Float]:
    candidates = [_board_poses(view, K) for view in views]
    chosen = [poses[0] for poses in candidates]
    motions = [_motion(view, in_hand) for view in views]
    for _ in range(3):
        X = _park_martin(motions, chosen)
        Z = _mean([inverse(M) @ X @ C for M, C in zip(motions, chosen, strict=True)])
        # A flat board seen from afar looks nearly the same from two sides; the arm tells which.
        expected = [inverse(X) @ M @ Z for M in motions]
        nearest = [_nearest(poses, E) for poses, E in zip(candidates, expected, strict=True)]
        if all(a is b for a, b in zip(nearest, chosen, strict=True)):
            break
        chosen = nearest
    return X, Z


def _nearest(poses: Sequence[Float], expected: Float) -> Float:
    """The pose that is turned the least from the one expected."""
    return min(poses, key=lambda C: float(np.linalg.norm(C[:3, :3] - expected[:3, :3])))


def _park_martin(motions: Sequence[Float], poses: Sequence[Float]) -> Float:
    """X of X C_i = M_i Z for all i, from all pairs: (M_i inv(M_j)) X = X (C_i inv(C_j))."""
    pairs = [(i, j) for i in range(len(poses)) for j in range(i + 1, len(poses))]
    A = np.array([motions[i] @ inverse(motions[j]) for i, j in pairs])
    B = np.array([poses[i] @ inverse(poses[j]) for i, j in pairs])
    alpha = np.array([rotation_vector(T[:3, :3]) for T in A])
    beta = np.array([rotation_vector(T[:3, :3]) for T in B])
    # The rotation that turns the axes beta into the axes alpha.
    U, _, Vt = np.linalg.svd(alpha.T @ beta)
    R = U @ np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))]) @ Vt
    lhs = (A[:, :3, :3] - np.eye(3)).reshape(-1, 3)
    rhs = ((R @ B[:, :3, 3:])[..., 0] - A[:, :3, 3]).reshape(-1)
    return transform(R, np.linalg.lstsq(lhs, rhs, rcond=None)[0])


def _mean(poses: Sequence[Float]) -> Float:
    """Of rigid transforms that lie near each other."""
    U, _, Vt = np.linalg.svd(np.mean([T[:3, :3] for T in poses], axis=0))
    R = U @ np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))]) @ Vt
    return transform(R, np.median([T[:3, 3] for T in poses], axis=0))


# Least squares -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Corners:
    """All corners of all pictures: of which picture, where seen, where on the board."""

    motions: Float  # [V, 4, 4]
    in_hand: bool
    view: NDArray[np.intp]  # [N]
    pixels: NDArray[np.float64]  # [N, 2]
    points: NDArray[np.float64]  # [N, 3]
    K: Float

    @classmethod
    def of(cls, views: Sequence[View], K: Float, in_hand: bool) -> _Corners:
        return cls(
            np.array([_motion(view, in_hand) for view in views]),
            in_hand,
            np.repeat(np.arange(len(views)), [view.seen.count for view in views]),
            np.concatenate([view.seen.pixels for view in views]),
            np.concatenate([view.seen.points for view in views]),
            K,
        )

    def chain(self, X: Float, Z: Float, errors: Float | None = None) -> tuple[Float, Float]:
        """T [V, 4, 4] twice: from behind the error of the arm's pose to it, and from it on.

        `errors`: T [V, 4, 4] in the moving link's frame; none unless given. Their product takes
        the board's points to the camera.
        """
        E = np.eye(4) if errors is None else errors
        if self.in_hand:
            return inverse(X) @ E, self.motions @ Z
        return inverse(X) @ self.motions @ E, np.broadcast_to(Z, self.motions.shape)

    def residuals(
        self, X: Float, Z: Float, scale: float = 1.0, errors: Float | None = None
    ) -> NDArray[np.float64]:
        """Where the corners are seen minus where they should be, float64 [N, 2] px."""
        left, right = self.chain(X, Z, errors)
        there = _mapped((left @ right)[self.view], scale * self.points)
        depth = np.maximum(there[:, 2:], 1e-6)
        return self.pixels - (there[:, :2] / depth * np.diag(self.K)[:2] + self.K[:2, 2])

    def jacobians(
        self, X: Float, Z: Float, scale: float, errors: Float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of the residuals: by X, Z and log scale float64 [N, 2, 13]; by each error [N, 2, 6]."""
        left, right = self.chain(X, Z, errors)
        whole, points = (left @ right)[self.view], scale * self.points
        there = _mapped(whole, points)
        x, y, z = there.T
        fx, fy = np.diag(self.K)[:2]
        zero = np.zeros_like(z)
        seen = np.stack(
            [
                np.stack([fx / z, zero, -fx * x / z**2], -1),
                np.stack([zero, fy / z, -fy * y / z**2], -1),
            ],
            1,
        )
        by_X = -_motions(there)
        by_Z = whole[:, :3, :3] @ _motions(points)
        by_scale = whole[:, :3, :3] @ points[..., None]
        middle = _mapped(right[self.view], points)
        turn = np.broadcast_to(left, right.shape)[self.view][:, :3, :3]
        mine = np.concatenate([by_X, by_Z, by_scale], axis=-1)
        return -seen @ mine, -seen @ (turn @ _motions(middle))

    def view_rms(self, residuals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Root mean square distance of each picture, float64 [V] px."""
        squares = np.sum(residuals**2, axis=1)
        return np.sqrt(np.bincount(self.view, squares) / np.bincount(self.view))

    def by_view(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums [V, ...] of rows [N, ...]."""
        starts = np.searchsorted(self.view, np.arange(len(self.motions)))
        return np.add.reduceat(rows, starts, axis=0)


@dataclass(frozen=True)
class _Fit:
    X: Float
    Z: Float
    scale: float  # of the board
    residuals: NDArray[np.float64]  # [N, 2] px, with the poses as they were told
    sigma: NDArray[np.float64]  # [12 or 13], standard errors: turn [rad], shift [m] of X, of Z


def _mapped(T: Float, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points [N, 3] each moved by its own T [N, 4, 4]."""
    return (T[:, :3, :3] @ points[..., None])[..., 0] + T[:, :3, 3]


def _motions(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """How points [N, 3] move with a small turn and shift of their frame: [N, 3, 6]."""
    turn = -np.cross(np.eye(3), points[:, None])
    return np.concatenate([turn, np.broadcast_to(np.eye(3), turn.shape)], axis=-1)


def _small(steps: NDArray[np.float64]) -> Float:
    """T [..., 4, 4] of turns [rad] and shifts [m], steps [..., 6] (Rodrigues)."""
    v = steps[..., :3]
    K = np.cross(np.eye(3), v[..., None, :])
    angle = np.linalg.norm(v, axis=-1)[..., None, None]
    safe = np.maximum(angle, 1e-9)
    turn = np.sin(safe) / safe * K + (1 - np.cos(safe)) / safe**2 * (K @ K)
    return transform(np.eye(3) + turn, steps[..., 3:])


def _refine(corners: _Corners, X: Float, Z: Float, *, scaled: bool = False) -> _Fit:
    """X and Z (and the scale of the board) of the highest likelihood.

    Neither pixels nor poses are exact. Each pose of the arm has a small error of its own, to be
    found too, as likely as the arm's spread of turns and shifts makes it; that spread and the
    corners' are estimated from the same pictures (expectation maximisation). Least squares over
    pixels alone would take a pose that is off by a milliradian for pixels that are all off, and
    bend the mount after them. Levenberg and Marquardt, the errors of the poses eliminated first.
    """
    count, views = 13 if scaled else 12, len(corners.motions)
    scale, errors = 1.0, np.tile(np.eye(4), (views, 1, 1))
    local = np.zeros((views, 6))  # the errors as steps
    sigma_px, sigma_pose = START_PX, np.repeat(START_POSE, 3)
    damping = 1e-4

    def cost(r: NDArray[np.float64], poses: NDArray[np.float64]) -> float:
        return _huber_cost(r / sigma_px) + 0.5 * float(np.sum((poses / sigma_pose) ** 2))

    r = corners.residuals(X, Z)
    for _ in range(ROUNDS):
        G, L = corners.jacobians(X, Z, scale, errors)
        G = G[..., :count]
        weight = _huber(r / sigma_px) / sigma_px**2
        Hgg = np.einsum('n,nia,nib->ab', weight, G, G)
        Hgl = corners.by_view(np.einsum('n,nia,nib->nab', weight, G, L))
        Hll = corners.by_view(np.einsum('n,nia,nib->nab', weight, L, L))
        Hll += np.diag(sigma_pose**-2)
        gg = np.einsum('n,ni,nia->a', weight, r, G)
        gl = corners.by_view(np.einsum('n,ni,nia->na', weight, r, L)) + local / sigma_pose**2
        before = cost(r, local)
        while damping < 1e8:
            D = Hll + damping * np.einsum('vaa->va', Hll)[..., None] * np.eye(6)
            Y = np.linalg.solve(D, np.swapaxes(Hgl, 1, 2))  # [V, 6, count]
            S = Hgg + damping * np.diag(np.diag(Hgg)) - np.einsum('vab,vbc->ac', Hgl, Y)
            step = -np.linalg.solve(S, gg - np.einsum('vba,vb->a', Y, gl))
            shift = -np.linalg.solve(D, gl[..., None])[..., 0] - Y @ step
            moved = X @ _small(step[:6]), Z @ _small(step[6:12])
            grown = scale * (1 + step[12]) if scaled else scale
            after = corners.residuals(*moved, grown, errors @ _small(shift))
            if cost(after, local + shift) <= before:
                break
            damping *= 10
        else:
            break
        (X, Z), scale = moved, grown
        errors, local = errors @ _small(shift), local + shift
        r, damping = after, max(damping / 10, 1e-12)
        # What the pictures say of both spreads, given these poses and how well they are known.
        Y = np.linalg.solve(Hll, np.swapaxes(Hgl, 1, 2))
        S = Hgg - np.einsum('vab,vbc->ac', Hgl, Y)
        covariance = np.linalg.pinv(S)
        known = np.linalg.inv(Hll) + Y @ covariance @ np.swapaxes(Y, 1, 2)
        second = local**2 + np.einsum('vaa->va', known)
        old = np.append(sigma_pose, sigma_px)
        sigma_pose = np.repeat(np.sqrt([second[:, :3].mean(), second[:, 3:].mean()]), 3)
        sigma_pose = np.maximum(sigma_pose, LEAST_SIGMA)
        used = count + 6 * views - float(np.sum(np.einsum('vaa->va', known) / old[:6] ** 2))
        freedom = max(1.0, r.size - used)
        sigma_px = max(
            LEAST_SIGMA_PX, float(np.sqrt(np.sum(_huber(r / sigma_px)[:, None] * r**2) / freedom))
        )
        settled = np.abs(np.append(sigma_pose, sigma_px) / old - 1).max() < 1e-3
        if settled and np.abs(step).max() < 1e-8:
            break
    told = corners.residuals(X, Z, scale)
    return _Fit(X, Z, scale, told, np.sqrt(np.maximum(np.diag(covariance), 0)))


def _huber(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights [N] of residuals [N, 2] in standard deviations."""
    return HUBER / np.maximum(np.linalg.norm(r, axis=1), HUBER)


def _huber_cost(r: NDArray[np.float64]) -> float:
    size = np.linalg.norm(r, axis=1)
    return float(np.where(size <= HUBER, 0.5 * size**2, HUBER * (size - 0.5 * HUBER)).sum())


def _rms(residuals: NDArray[np.float64]) -> float:
    """Root mean square distance [px] of residuals [N, 2]."""
    return float(np.sqrt(np.mean(np.sum(residuals**2, axis=1))))


def _rms_mm(views: Sequence[View], K: Float, X: Float, Z: Float, in_hand: bool) -> float:
    """How far the board's corners are from where each picture alone would put them [mm]."""
    squares = []
    for view in views:
        expected = inverse(X) @ _motion(view, in_hand) @ Z
        alone = _nearest(_board_poses(view, K), expected)
        gap = apply(alone, view.seen.points) - apply(expected, view.seen.points)
        squares.append(np.mean(np.sum(gap**2, axis=1)))
    return 1e3 * float(np.sqrt(np.mean(squares)))


__all__ = ['LEAST_CORNERS', 'LEAST_VIEWS', 'CalibrationError', 'Result', 'View', 'solve']
