"""ROS 2 nodes of vera_planner: thin shells around the library."""
