"""Which of a user's modules are sent to a cluster."""

import pytest

from study.execution.users_code import modules_to_send


@pytest.mark.parametrize(
    ("workloads", "optimizers", "sent"),
    [
        (["digits-logreg"], ["sgd"], []),
        (["mine:workload"], ["sgd"], ["helpers", "mine.py", "more.py"]),
        (["digits-logreg"], ["helpers.optim.Mine"], ["helpers", "mine.py", "more.py"]),
        (["elsewhere:workload"], ["torch.optim.AdamW"], []),
    ],
)
def test_all_modules_of_the_folder_are_sent_if_one_is_named(
    tmp_path, write_study, workloads, optimizers, sent
):
    for name in ("mine.py", "more.py", "torch.py", "json.py", "study.py", "not-a-module.py", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").touch()
    (tmp_path / "runs").mkdir()
    study, _ = write_study(workloads=workloads, optimizers=optimizers, threshold=None)
    (tmp_path / "small.yaml").unlink()
    assert [path.name for path in modules_to_send(study, tmp_path)] == sent
