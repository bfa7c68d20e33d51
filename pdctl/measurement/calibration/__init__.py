"""Calibration: measure step times of engines and fit a profile to them."""
