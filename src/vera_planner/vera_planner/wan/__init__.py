"""Planners of the Wan family on diffusers: layouts, models, checkpoints, sampling, training."""
