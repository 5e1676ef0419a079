"""The cockpit: a web page that shows a running robot and takes its goals. No ROS in here."""
