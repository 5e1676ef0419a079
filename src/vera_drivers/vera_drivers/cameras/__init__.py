"""Cameras behind the Camera seam: real devices and files. Each is imported only when asked for."""

from vera_drivers.cameras.base import CameraEndError, CameraError, ThreadedCamera

__all__ = ['CameraEndError', 'CameraError', 'ThreadedCamera']
