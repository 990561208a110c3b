# Read by every shell that Ray opens on a node (through ~/.bashrc), so by the head, the workers and what is submitted.
export PATH="$HOME/hypergrad-study/venv/bin:$PATH"

# Without the token nothing can be run on the cluster. Ray asks for this on every node.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/hypergrad-study/token"

# Journals, checkpoints, reports. Only the head needs it: a worker that does not see the head's folder writes it
# through the head. If all nodes share a folder, name it here, and workers write it themselves.
export HYPERGRAD_STUDY_RUNS="$HOME/hypergrad-study/runs"
# Each node's own copy of the data sets.
export HYPERGRAD_STUDY_DATA="$HOME/hypergrad-study/data"
# FILL IN, or leave out: an MLflow server. Without it the runs go to SQLite in the folder of runs, which is
# enough for one cluster.
# export MLFLOW_TRACKING_URI=http://mlflow.example:5000
