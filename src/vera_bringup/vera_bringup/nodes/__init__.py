"""ROS 2 nodes of vera_bringup, and the clients behind the `vera` command."""
