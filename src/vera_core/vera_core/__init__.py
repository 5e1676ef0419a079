"""What all rooms share: contract, canvas, image codec, clocks, lifecycle node base."""
