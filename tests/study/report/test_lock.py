"""The lock of a report, where there are no locks; tests/study/cli/test_results.py has two programs wait."""

import errno
import fcntl
import os

import pytest

from study.report.lock import only_writer


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_on_a_file_system_without_locks_a_report_is_written_all_the_same(tmp_path, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = []
    with only_writer(tmp_path / "runs" / "report", said.append):
        (tmp_path / "runs" / "written").touch()
    assert (tmp_path / "runs" / "written").exists()
    assert not said
