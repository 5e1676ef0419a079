"""Whether set-points keep the limits of joints, for tests."""

import numpy as np

from vera_controller.smooth_motion import NO_JERK


def derivatives(t, q):
    """First to third divided differences of set-points q [T, n] at times t [T], as derivatives.

    Those of points on a curve lie within the derivatives of the curve, for steps of any length.
    """
    found = []
    for k in (1, 2, 3):
        q = k * np.diff(q, axis=0) / (t[k:] - t[:-k])[:, None]
        found.append(q)
    return found


def check(limits, t, q):
    """Set-points within all limits, up to the rounding of differences."""
    t, q = np.array(t), np.array(q)
    assert np.isfinite(q).all()
    assert (q >= limits.low).all() and (q <= limits.high).all()
    bounds = limits.velocity, limits.acceleration, np.minimum(limits.jerk, NO_JERK)
    shortest = np.diff(t).min()
    for k, (d, bound) in enumerate(zip(derivatives(t, q), bounds, strict=True), 1):
        noise = 2**k * 1e-14 / shortest**k
        assert (np.abs(d) <= bound * (1 + 1e-6) + noise).all(), (k, np.abs(d).max(axis=0) / bound)
    return np.array([np.abs(d).max() for d in derivatives(t, q)])
