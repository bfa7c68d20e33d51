"""Fit step-time coefficients to measured steps; read and choose profiles."""
