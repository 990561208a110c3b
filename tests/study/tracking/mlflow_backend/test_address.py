"""No address that is shown holds a password; the one that is used is whole."""

from pathlib import Path

import pytest

from study.tracking.mlflow_backend import address


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:secret@host:5000/path", "https://me@host:5000/path"),
        ("https://me:p@ss@host/", "https://me@host/"),
        ("postgresql+psycopg2://me:se/cr:et?@host:5432/db", "postgresql+psycopg2://me@host:5432/db"),
        ("postgresql://host/db?user=me&password=se%40cret", "postgresql://host/db?user=me&password=***"),
        ("mssql+pyodbc://?odbc_connect=DRIVER%3Dx;PWD=secret", "mssql+pyodbc://?odbc_connect=***"),
    ],
)
def test_a_password_is_hidden(uri, shown):
    assert address.has_password(uri)
    assert address.without_password(uri) == shown
    assert not address.has_password(shown)
    secret = uri.replace(shown, "")
    for part in ("secret", "se/cr:et?", "se%40cret", "p@ss"):
        if part in secret:
            assert part not in address.without_secrets(f"cannot use {uri}", uri)
    assert "secret" not in address.ui_address(uri)


@pytest.mark.parametrize(
    "uri",
    [
        *("https://me@host/", "http://host:5000/a@b:c", "sqlite:////runs/a@b:c/mlflow.db"),
        *("file:///runs", "./mlruns", "postgresql://me@host/db?sslmode=require"),
    ],
)
def test_an_address_without_a_password_stays(uri):
    assert not address.has_password(uri)
    assert address.without_password(uri) == uri


def test_a_decoded_password_is_hidden_and_a_short_one_leaves_words_alone():
    text = address.without_secrets("no user me with p@ss word", "http://me:p%40ss%20word@host")
    assert text == "no user me with ***"
    text = address.without_secrets("cannot grant a page at db://me:g@host", "db://me:g@host")
    assert text == "cannot grant a page at db://me:***@host"


def test_an_option_without_its_password_gets_it_from_the_environment(monkeypatch):
    whole = "https://me:secret@host"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
    assert address.tracking_uri("https://me@host", Path("/runs")) == whole
    assert address.tracking_uri("https://me@other", Path("/runs")) == "https://me@other"
    assert address.tracking_uri(None, Path("/runs")) == whole
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert address.tracking_uri(None, Path("/runs")) == "sqlite:////runs/mlflow.db"
