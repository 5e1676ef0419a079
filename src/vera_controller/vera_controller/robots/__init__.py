"""Robots that are reached without ROS, behind the Robot seam."""
