"""An address of a database leads to its file, whatever the folder is called."""

import pytest
import sqlalchemy

from study.storage.sqlite import sqlite_uri

NAMES = ["a?1", "a#1", "a%41&b", "ü ö", 'it\'s "q"', "a@b:c", "{x}[y]", "p%%s?x=%3F", "a+b;c"]


@pytest.mark.parametrize("name", NAMES)
def test_the_database_lands_in_its_folder(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    engine = sqlalchemy.create_engine(sqlite_uri(folder / "x.db"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create table t (x)"))
    engine.dispose()
    assert [path.name for path in folder.iterdir()] == ["x.db"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_plain_path_stays_as_a_person_writes_it(tmp_path):
    assert sqlite_uri(tmp_path / "mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
