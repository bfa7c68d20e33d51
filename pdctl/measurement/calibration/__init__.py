"""Measure the step times of engines and turn them into a profile."""
