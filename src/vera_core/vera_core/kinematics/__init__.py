"""Robots from URDF in plain numpy: kinematics, Jacobians, cameras and which link a pixel shows."""
