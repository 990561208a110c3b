"""Runs a study: planning, Ray Tune, Optuna. Start reading at ``driver``."""
