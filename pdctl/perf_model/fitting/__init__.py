"""Fit step-time coefficients to measured steps; read, write and choose profiles."""
