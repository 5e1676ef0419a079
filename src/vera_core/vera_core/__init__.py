"""What every room shares: the embodiment contract, canvas, image codec, clocks, lifecycle node base."""
