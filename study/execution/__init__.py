"""Runs a study: planning, Ray Tune, Optuna; begin with ``driver``."""
