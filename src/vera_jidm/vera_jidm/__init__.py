"""From imagined frames to actions: optical flow, image-space Jacobian, ridge solve."""
