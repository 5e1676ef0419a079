#!/bin/sh
# `docker run vera-ros/robot up finger` is `vera up finger`. No ROS is sourced: `vera` has its own.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
exec "$here/.venv/bin/vera" "$@"
