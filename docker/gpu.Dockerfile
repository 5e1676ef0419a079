# The machine with the GPU: the planner. torch brings its own CUDA libraries; the driver comes from
# the host, through the NVIDIA container toolkit.
#
#   docker build -f docker/gpu.Dockerfile -t vera-ros/gpu .
FROM python:3.12-slim-bookworm

# What scripts/setup.py asks of a machine.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ gcc make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /vera
COPY . .
# The same step that a user of a GPU types; CI runs it without GPU=1.
RUN make setup GPU=1

RUN mkdir -p runs && chown -R 1000:1000 runs build
USER 1000:1000
ENV HOME=/tmp
ENTRYPOINT ["/vera/docker/entrypoint.sh"]
CMD ["--help"]
