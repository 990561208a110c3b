"""The study from Python: run one, load its results. Users call it as ``study.run`` and ``study.load``."""
