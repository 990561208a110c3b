"""The commit that trials are stamped with is the checkout's, and says if the code differs from it."""

import subprocess

from study.storage import provenance


def git(root, *words):
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(root), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_the_checkouts_and_changes_of_the_code_are_said(tmp_path):
    (tmp_path / "study").mkdir()
    code = tmp_path / "study" / "training.py"
    code.write_text("alpha = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "Begin")
    head = git(tmp_path, "rev-parse", "HEAD")
    find = provenance.commit.__wrapped__  # what it says is kept for the life of the process
    assert head.startswith(find(tmp_path))
    assert len(find(tmp_path)) >= 12
    (tmp_path / "notes.txt").write_text("not code")
    assert head.startswith(find(tmp_path))
    code.write_text("alpha = 2\n")
    assert find(tmp_path) == f"{head[:12]}+changes"


def test_a_package_outside_a_checkout_has_no_commit(tmp_path):
    assert provenance.commit.__wrapped__(tmp_path) is None
