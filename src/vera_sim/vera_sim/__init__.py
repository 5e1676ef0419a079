"""Simulated embodiments behind one seam, with experts and analytic flow."""
