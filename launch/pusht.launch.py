"""`ros2 launch vera_bringup pusht.launch.py`: the processes that `vera up pusht` starts."""

from launch import LaunchDescription

from vera_bringup.launching import describe_launch


def generate_launch_description() -> LaunchDescription:
    """Everything comes from the node table; `-s` shows the arguments."""
    return describe_launch('pusht')
