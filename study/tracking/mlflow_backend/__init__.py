"""Keeps a study in MLflow: the only room that imports mlflow."""
