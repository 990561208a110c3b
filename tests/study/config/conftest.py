"""A good study file, and functions that load it changed."""

import pytest
import yaml

from study.config.loader import ConfigError, Study, load_study

GOOD = """\
name: base
workloads: [digits-logreg]
optimizers: [sgd-sgd]
alpha0: [0.01]
beta: 0.001
epochs: 2
"""


@pytest.fixture(scope="session")
def good() -> str:
    """The text of a study that loads."""
    return GOOD


@pytest.fixture
def load(tmp_path):
    """Loads a study from text, or from the base with other keys; None leaves a key out."""

    def load(text: str | None = None, **changes) -> Study:
        if text is None:
            content = {k: v for k, v in {**yaml.safe_load(GOOD), **changes}.items() if v is not None}
            text = yaml.safe_dump(content, sort_keys=False)
        path = tmp_path / "study.yaml"
        path.write_text(text, encoding="utf-8")
        return load_study(path)

    return load


@pytest.fixture
def refused(load, tmp_path):
    """The problems of a study, without the file's name."""

    def refused(text: str | None = None, **changes) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, **changes)
        assert str(caught.value) == "\n".join(caught.value.problems)
        return [p.removeprefix(f"{tmp_path / 'study.yaml'}:") for p in caught.value.problems]

    return refused
