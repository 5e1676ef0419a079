"""`ros2 launch vera_bringup panda.launch.py`: the processes that `vera up panda` starts.

Arguments that franka_ros2 has too are named as there: robot_ip, use_fake_hardware, arm_id,
load_gripper, namespace, use_rviz.
"""

from launch import LaunchDescription

from vera_bringup.launching import describe_launch


def generate_launch_description() -> LaunchDescription:
    """Everything comes from the node table; `-s` shows the arguments."""
    return describe_launch('panda', arms={'panda': 'panda', 'fr3': 'panda_fr3'})
