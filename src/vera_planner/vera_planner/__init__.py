"""Video planners: a sentence and recent frames in, imagined frames out."""
