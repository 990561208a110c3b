"""Asks an MLflow server, in the way of MLflow's client, whether it can be used and, if not, why."""

from __future__ import annotations

import os
import re
from pathlib import Path

import requests
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import MlflowHostCreds, http_request

from study.config.messages import one_line
from study.tracking.mlflow_backend import diagnosis
from study.tracking.mlflow_backend.address import has_password, without_password
from study.tracking.mlflow_backend.diagnosis import CA_VARIABLE, CLIENT_VARIABLE, CREDENTIALS_FILE, Problem

USER_VARIABLE, PASSWORD_VARIABLE = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
TOKEN_VARIABLE = "MLFLOW_TRACKING_TOKEN"

_SECONDS = 10
# Unlike /health, this endpoint requires the client's password.
_ENDPOINT = "/api/2.0/mlflow/experiments/search"


def problem(uri: str) -> Problem | None:
    """Return why the server at ``uri`` cannot be used; None if it can."""
    for variable in (CA_VARIABLE, CLIENT_VARIABLE):
        path = os.environ.get(variable)
        if path and not Path(path).exists():
            return Problem(f"{variable} names {path}, which does not exist; correct it")
    try:
        creds = get_default_host_creds(uri)
        response = http_request(
            creds,
            _ENDPOINT,
            "POST",
            json={"max_results": 1},
            max_retries=0,
            timeout=_SECONDS,
            raise_on_status=False,
        )
    except Exception as error:
        return diagnosis.explain(error, uri)
    return _verdict(response, creds, uri)


def version(uri: str) -> str | None:
    """Return the version of the MLflow server at ``uri``, such as 3.17.2; None if it does not give it."""
    try:
        creds = get_default_host_creds(uri)
        response = http_request(
            creds, "/version", "GET", max_retries=0, timeout=_SECONDS, raise_on_status=False
        )
    except Exception:  # the next request reports the error
        return None
    said = response.text.strip()
    return said if response.status_code == 200 and re.fullmatch(r"\d+\.\d+[\w.+-]*", said) else None


def _verdict(response: requests.Response, creds: MlflowHostCreds, uri: str) -> Problem | None:
    where, status = without_password(uri), response.status_code
    if status == 200:
        return (
            None
            if _is_json(response)
            else _not_mlflow(where, "a page that is not MLflow's, perhaps to log in")
        )
    if status == 401:
        return Problem(_refused(creds, uri))
    said = one_line(" ".join(response.text.split()), 120)
    if status == 400 and "certificate" in said.lower():
        return diagnosis.client_certificate_problem(where, f"400: {said}")
    if status == 403 and "host header" in said.lower():
        return Problem(
            f"the MLflow server at {where} does not serve this host name (403: {said}); start it with "
            "--allowed-hosts and the name in it"
        )
    if status == 403:
        return Problem(
            f"the MLflow server at {where} does not let you in (403: {said}); ask for the permission"
        )
    if status in (404, 405):
        return _not_mlflow(where, f"HTTP status {status}")
    if status in (502, 503, 504):
        return diagnosis.no_answer(uri, f"a proxy in front of it says {status}", passes=True)
    return Problem(f"the MLflow server at {where} answers with HTTP status {status}: {said}", status == 429)


def _refused(creds: MlflowHostCreds, uri: str) -> str:
    """Return the line for status 401: no password was sent, or a wrong one."""
    where = without_password(uri)
    if has_password(uri):
        return (
            f"the MLflow server at {where} does not accept the user and password in its address; correct them"
        )
    if creds.username and creds.password:
        fix = f"correct {USER_VARIABLE} and {PASSWORD_VARIABLE}"
        if not os.environ.get(PASSWORD_VARIABLE):
            fix = f"correct them in {CREDENTIALS_FILE}"
        return f"the MLflow server at {where} does not accept the password of user {creds.username!r}; {fix}"
    if creds.token:
        return f"the MLflow server at {where} does not accept the token; correct {TOKEN_VARIABLE}"
    return (
        f"the MLflow server at {where} asks for a password; set {USER_VARIABLE} and {PASSWORD_VARIABLE}, or "
        f"{TOKEN_VARIABLE}"
    )


def _not_mlflow(where: str, answer: str) -> Problem:
    return Problem(f"what answers at {where} is no MLflow server ({answer}); correct --tracking-uri")


def _is_json(response: requests.Response) -> bool:
    try:
        response.json()
    except ValueError:
        return False
    return True
