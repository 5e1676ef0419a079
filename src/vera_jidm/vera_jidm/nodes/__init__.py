"""ROS 2 nodes of vera_jidm: thin shells around the library."""
