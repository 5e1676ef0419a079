"""ROS 2 nodes of vera_drivers: thin shells around the library."""
