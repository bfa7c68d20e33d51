"""Measurement: generate load, measure running engines, compare with predictions."""
