# The robot's machine: controller, cameras, translator. On ROS 2 Jazzy's own image, whose tools
# (ros2 topic, ros2 bag, launch) are then beside the graph; `vera` itself runs as after `make setup`.
#
#   docker build -f docker/robot.Dockerfile -t vera-ros/robot .
FROM ros:jazzy-ros-base

# What scripts/setup.py asks of a machine, and the USB library of cameras.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        g++ gcc libusb-1.0-0 make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /vera
COPY . .
# The same step that CI runs and that a user types.
RUN make setup

# The first user of most machines: files in runs/ and in the shared /dev/shm are then their own.
# Ubuntu's image has that user already.
RUN mkdir -p runs && chown -R 1000:1000 runs build
USER 1000:1000
ENTRYPOINT ["/vera/docker/entrypoint.sh"]
CMD ["--help"]
