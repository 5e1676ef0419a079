"""Cameras and the simulator as ROS 2 nodes."""
