"""Chunk queue, safety filter and state machine: the only path to a robot."""
