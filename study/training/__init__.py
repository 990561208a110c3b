"""Trains trials and packs of trials in one process. Knows neither Ray nor MLflow; begin with ``worker``."""
