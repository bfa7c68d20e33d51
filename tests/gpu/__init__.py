"""Runs on a host with GPUs, each one command of some minutes: see README.md here."""
