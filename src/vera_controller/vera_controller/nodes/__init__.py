"""ROS 2 nodes of vera_controller: thin shells around the library."""
