"""A distributed study of hypergradient optimizers, run by Ray Tune and kept in MLflow."""
