"""Videos with captions to train planners on: sources, their mixture, and the canvas."""
