"""Where a camera is: a ChArUco board, seen from many poses of the arm."""

from vera_drivers.calibration.board import Board, BoardError, Detection
from vera_drivers.calibration.hand_eye import CalibrationError, Result, View, solve

__all__ = ['Board', 'BoardError', 'CalibrationError', 'Detection', 'Result', 'View', 'solve']
