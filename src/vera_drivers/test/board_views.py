"""Pictures of a board as a camera with a known mount would take them, for tests."""

from __future__ import annotations

import cv2
import numpy as np

from vera_core.kinematics.transforms import inverse, transform
from vera_core.rotations import matrix_from_rotation_vector, matrix_from_rpy
from vera_drivers.calibration import Board
from vera_drivers.cameras.base import Intrinsics

SIZE = (640, 480)
LENS = Intrinsics((610.0, 612.0), (322.0, 238.5))
BOARD = Board()
# A camera that looks at the table from in front of the arm, and one on its hand.
FIXED = transform(matrix_from_rpy((-2.2, 0.1, 1.6)), (1.2, 0.05, 0.6))
IN_HAND = transform(matrix_from_rpy((0.05, -0.1, 1.57)), (0.07, -0.01, -0.05))


def render(C, lens=LENS, size=SIZE, noise=0.0, seed=0, board=BOARD, coeffs=None):
    """uint8 [H, W, 3] of a board at C [4, 4] in the camera's frame, in front of grey."""
    per_metre, fine = 3000.0, 3
    margin = round(0.02 * per_metre)
    drawn = cv2.copyMakeBorder(
        board.draw(per_metre), margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=255
    )
    # From pixels of the drawing to metres on the board, and on to pixels of a finer picture.
    edge = 0.5 - margin
    to_metres = np.array([[1, 0, edge], [0, 1, edge], [0, 0, per_metre]]) / per_metre
    (fx, fy), (cx, cy) = lens.focal, lens.centre
    K = np.diag([fine * fx, fine * fy, 1.0])
    K[:2, 2] = fine * (cx + 0.5) - 0.5, fine * (cy + 0.5) - 0.5
    H = K @ np.column_stack([C[:3, 0], C[:3, 1], C[:3, 3]]) @ to_metres
    large = (fine * size[0], fine * size[1])
    picture = cv2.warpPerspective(
        drawn, H, large, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=110
    )
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float64)
    if noise:
        picture += np.random.default_rng(seed).normal(0, noise, picture.shape)
    grey = np.clip(picture, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def poses(count, in_hand, seed=0, tilt=0.5):
    """Poses A of the moving link, T [count, 4, 4], from which the whole board is seen, and Z."""
    rng = np.random.default_rng(seed)
    width, height = BOARD.size
    middle = transform(translation=(width / 2, height / 2, 0))
    X = IN_HAND if in_hand else FIXED
    if in_hand:  # the board lies on the table, its back downwards
        Z = transform(matrix_from_rpy((np.pi, 0, 0.3)), (0.5, 0.1, 0.0))
    else:
        Z = transform(matrix_from_rpy((0.1, 0.05, 0.2)), (-width / 2, -height / 2, 0.06))
    found = []
    while len(found) < count:
        turn = matrix_from_rotation_vector(rng.uniform(-tilt, tilt, 3) * (1, 1, 1.5))
        place = (*rng.uniform(-0.06, 0.06, 2), rng.uniform(0.42, 0.6))
        C = transform(turn, place) @ inverse(middle)  # of the board in the camera's frame
        found.append(Z @ inverse(C) @ inverse(X) if in_hand else X @ C @ inverse(Z))
    return np.array(found), Z


def board_in_camera(A, Z, in_hand):
    """C of a pose of `poses`."""
    X = IN_HAND if in_hand else FIXED
    return inverse(X) @ (inverse(A) if in_hand else A) @ Z
