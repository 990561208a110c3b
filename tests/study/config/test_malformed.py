"""Whatever a study file holds, it loads or is refused line by line."""

import random

import pytest

from study.cli import commands
from study.config.loader import ConfigError, load_study

GOOD = """\
name: good
description: a study that loads
workloads: [digits-logreg, {use: imagefolder-vgg16, path: pictures}]
optimizers:
  - sgd
  - sgd-sgdn
  - {name: adam-adam, granularity: released, alpha0: [0.01], args: {lop_betas: [0.9, 0.99]}}
  - {name: torch.optim.AdamW, label: AdamW, schedule: {name: step, every: 5}, args: {eps: 1e-6}}
alpha0: [0.01, 0.001]
beta: {sgd: 1e-3, adam: [1e-7, 1e-8]}
seeds: 3
epochs: 20
batch_size: 128
weight_decay: 1.0e-4
granularity: {adam: released}
threshold: {digits-logreg: 0.3, adam: 0.2}
resources: {cpus: 1, gpus: 0.5}
retries: 1
"""
GOOD_SEARCH = """\
name: good
workloads: [digits-logreg, digits-mlp]
optimizers:
  - sgd
  - {name: adam-adam, alpha0: {low: 1e-3, high: 1e-1}, beta: 1e-7}
alpha0: {low: 1e-4, high: 1.0}
beta: {sgd: 1e-3, adam: {low: 1e-8, high: 1e-6}}
seeds: 3
iterations: 20
threshold: {sgd: 0.3, adam: 0.2}
search:
  sampler: tpe
  args: {n_startup_trials: 4, multivariate: true}
  points: 5
  seed: 1
  seeds: [7, 8]
  objective: iterations_to_threshold
  parallel: 2
scheduler: {name: asha, grace: 1, reduction: 3}
"""
SCALARS = [
    *("", "~", "true", "no", "-1", "0", "1.0", "1e-7", "1e400", ".nan", "-.inf", "9" * 5000, "0x1F", "1:30"),
    *("2019-01-01", "''", '"\\ud800"', '"\\UFFFFFFFF"', "'\x1b[31m'", "é", "[]", "{}", "[[]]", "{a: {b: c}}"),
    *("*x", "&x [*x]", "&x {a: *x}", "!!python/object:os.system ls", "!!binary aGk=", "!!int x", "!!set {a}"),
    *("!<!> x", "? x", "- - x", "| x", "%", "@", "`", "<<: *x", "{<<: {name: x}}", "a" * 500, "sgd", "../x"),
]
BYTES = [
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\t",
    b"\r",
    b"\x1b[2J",
    b"\n---\n",
    b"\n...\n",
    b":",
    b"'",
    b"[",
    b"}",
]


def _drop_line(rng, lines):
    del lines[rng.randrange(len(lines))]


def _repeat_line(rng, lines):
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))


def _indent_line(rng, lines):
    i = rng.randrange(len(lines))
    lines[i] = rng.choice([" ", "   ", "\t"]) + lines[i]


def _rename_key(rng, lines):
    i = rng.randrange(len(lines))
    key, colon, rest = lines[i].partition(":")
    renamed = rng.choice(
        [key[:-1], key + "s", key.upper(), "1", "null", "[a]", "{a: b}", "? a", "", "\\e[0m"]
    )
    lines[i] = renamed + colon + rest


def _replace_value(rng, lines):
    i = rng.randrange(len(lines))
    lines[i] = lines[i].partition(":")[0] + ": " + rng.choice(SCALARS)


def _replace_word(rng, lines):
    i = rng.randrange(len(lines))
    words = lines[i].split(" ")
    words[rng.randrange(len(words))] = rng.choice(SCALARS)
    lines[i] = " ".join(words)


def _nest(rng, lines):
    i = rng.randrange(len(lines))
    key, _, rest = lines[i].partition(":")
    depth = rng.choice([1, 2, 50, 3000])
    lines[i] = f"{key}: {'[' * depth}{rest.strip() or 1}{']' * depth}"


def _swap_values(rng, lines):
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    (a, _, x), (b, _, y) = lines[i].partition(":"), lines[j].partition(":")
    lines[i], lines[j] = f"{a}:{y}", f"{b}:{x}"


def _mutate_bytes(rng, data):
    at = rng.randrange(len(data))
    match rng.randrange(4):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + rng.choice(BYTES) + data[at:]
        case 2:
            return data[:at] + rng.randbytes(rng.randrange(1, 6)) + data[at:]
        case _:
            return data[:at] + data[at + rng.randrange(1, 10) :]


OF_LINES = [
    *(_drop_line, _repeat_line, _indent_line, _rename_key, _replace_value, _replace_word, _nest, _swap_values)
]


def malformed(seed: int) -> bytes:
    rng = random.Random(seed)
    lines = (GOOD_SEARCH if seed % 2 else GOOD).splitlines()
    for _ in range(rng.randrange(3)):
        rng.choice(OF_LINES)(rng, lines)
    data = ("\n".join(lines) + "\n").encode()
    return _mutate_bytes(rng, data) if seed % 3 == 0 else data


def problems_of(path):
    """The refusal's problems, checked for their form; none if the file loads."""
    try:
        study = load_study(path)
    except ConfigError as error:
        problems = error.problems
    else:
        assert len({trial.key for trial in study.trials()}) == len(study.trials())
        assert len({arm.key for arm in study.arms()}) == len(study.arms())
        assert study.planned_trials()
        return []
    assert problems
    for problem in problems:
        assert problem.startswith(f"{path}:")
        assert problem.isprintable(), "one line, without control characters"
        assert len(problem) < len(str(path)) + 320
    assert len(set(problems)) == len(problems)
    return problems


@pytest.mark.parametrize("seed", range(200))
def test_mutations(tmp_path, seed):
    path = tmp_path / "study.yaml"
    path.write_bytes(malformed(seed))
    problems_of(path)


def test_most_mutations_are_refused(tmp_path):
    """Or the mutations would prove nothing."""
    path = tmp_path / "study.yaml"
    refused = 0
    for seed in range(200):
        path.write_bytes(malformed(seed))
        refused += bool(problems_of(path))
    assert refused >= 100


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize(
    "key", ["name", "workloads", "optimizers", "alpha0", "beta", "seeds", "threshold", "resources"]
)
def test_odd_values(tmp_path, key, scalar):
    path = tmp_path / "study.yaml"
    lines = [f"{key}: {scalar}" if line.startswith(key) else line for line in GOOD.splitlines()]
    path.write_text("\n".join(line for line in lines if key != "optimizers" or not line.startswith("  -")))
    problems_of(path)


BOMB = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}' if i else '1'] * 10)}]\n" for i in range(30))


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"", None, "empty"),
        (b"# only a comment\n", None, "empty"),
        (b"- name\n", 1, "a list; write a mapping"),
        (b"name\n", 1, "'name'; write a mapping"),
        (b"name: a\n\talpha0: 1\n", 2, "a tab; indent with spaces"),
        (b"name: a\nalpha0: [1\nbeta: 2\n", 3, "not valid YAML"),
        (b"name: a\n---\nname: b\n", 2, "one study per file"),
        (b"name: a\ndescription: \xff\n", 2, "UTF-8"),
        ("name: a\n".encode("utf-16"), 1, "UTF-8"),
        (b"name: a\ndescription: \x07\n", 2, "control character"),
        (b"name: " + b"[" * 100_000, None, "nested too deeply"),
        (b"#" * 1_000_001, None, "larger than 1 MB"),
        (b"name: &a [*a]\n", 1, "name[0]: an alias to what contains it"),
        (b"name: a\nname: b\n", 2, "name: written on line 1 already"),
        (b"name: a\nresources: {cpus: 1,\n  cpus: 2}\n", 3, "resources.cpus: written on line 2 already"),
        (b"name: a\n1: b\n", 2, "the key 1 is not text"),
        (b"name: a\n? [b]\n: c\n", 2, "the key a list or mapping is not text"),
        (
            b"name: !!python/object/apply:os.system [ls]\n",
            1,
            "!!python/object/apply:os.system is not allowed",
        ),
        (b'name: "\\ud800"\n', 1, "cannot be read as str"),
        (b'name: "\\UFFFFFFFF"\n', None, "not valid YAML"),
        (b"seeds: !!int x\n", 1, "x cannot be read as int"),
        (BOMB.encode() + b"alpha0: *x29\n", 29, "alpha0[0]: a list is not a number"),
    ],
)
def test_refused_with_line_and_reason(tmp_path, data, line, words):
    path = tmp_path / "study.yaml"
    path.write_bytes(data)
    problems = problems_of(path)
    start = f"{path}:{line}: " if line else f"{path}: "
    assert [p for p in problems if p.startswith(start) and words in p]


def test_python_tags_run_nothing(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]\n")
    with pytest.raises(ConfigError):
        load_study(path)
    assert not (tmp_path / "made").exists()


def test_problems_are_limited(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(GOOD + "".join(f"key{i}: 1\n" for i in range(5_000)))
    assert len(problems_of(path)) == 100


@pytest.mark.parametrize("seed", range(100))
def test_the_command_line_plans_or_says_error_and_ends_with_2(tmp_path, seed, monkeypatch, capsys):
    path = tmp_path / "study.yaml"
    path.write_bytes(malformed(seed))
    arguments = ["hypergrad-study", "plan", str(path), "--runs", str(tmp_path / "runs"), "--gpus", "1"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        commands.main()
    said = capsys.readouterr()
    if ended.value.code:
        assert ended.value.code == 2
        assert all(line.startswith(f"error: {path}") for line in said.err.splitlines())
        assert said.err
    else:
        assert "trials to run" in said.out
    assert list(tmp_path.iterdir()) == [path]
