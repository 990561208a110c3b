"""Trains trials and searches on Ray: the only folder that imports Ray.

The package sets Ray's environment variables, because Ray reads them when it is imported, and this module runs
before any other of the folder.
"""

import os

_VARIABLES = {
    # No CSV, JSON and TensorBoard files: the journals keep everything.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The command line handles interruptions.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray Tune prints nothing: neither its tables nor errors, which the journals have.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # A worker process that hears nothing from its node for this long ends without a message.
    "RAY_raylet_start_wait_time_s": "180",
}
for _name, _value in _VARIABLES.items():
    os.environ.setdefault(_name, _value)
