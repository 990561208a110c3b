"""Trains trials and packs of trials in one process, without Ray and MLflow. Start reading at ``worker``."""
