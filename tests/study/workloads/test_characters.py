"""The text is the same for ever and of known entropy; what is learnt of it is held against its statistics."""

import collections
import hashlib
import itertools
import math
import re

import numpy as np
import pytest
import torch

from study.config.loader import Trial
from study.training.trainer import Training, evaluate
from study.workloads import characters, registry
from study.workloads.base import Data
from study.workloads.grammar import ALPHABET, sentences, text

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """As workers train; small products are not shared among threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data() -> Data:
    return characters.load(None)


@pytest.fixture(scope="module")
def stretch() -> list[tuple[str, float]]:
    return list(itertools.islice(sentences(5), 8000))


def test_the_text_is_the_same_for_ever():
    both = (text(length * characters.WINDOW + 1, seed) for length, seed in ((6400, 2019), (1280, 2020)))
    assert [hashlib.sha256(t.encode()).hexdigest()[:16] for t in both] == [
        "95ba931d85387bdd",
        "e50310b44c14f4ca",
    ]


def test_a_longer_text_begins_with_the_shorter():
    assert text(5000, 3).startswith(text(1234, 3))
    assert len(text(1234, 3)) == 1234
    assert text(1000, 3) != text(1000, 4)


def test_sentences_are_english_to_the_eye_of_a_pattern(stretch):
    written = "".join(sentence for sentence, _ in stretch)
    assert set(written) <= set(ALPHABET)
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", written)
    for sentence, _ in stretch:
        assert re.fullmatch(r"[a-z](?:[a-z ,()]|\b)+[.?][ \n]", sentence)
        assert sentence.count("(") == sentence.count(")") <= 1
        assert sentence.endswith(("? ", "?\n")) == sentence.startswith(("do ", "does "))
        assert "  " not in sentence
    words = collections.Counter(re.findall("[a-z]+", written))
    assert 150 < len(words) < 300
    assert words["she"] == len(re.findall(r"\b(?:anna|maria|ruth)\b[^.]*, \w+ she ", written)) > 20


def test_a_sentence_comes_about_in_one_way_only(stretch):
    """Two ways would, but for rare ties, weigh differently. So the sum of nats is the text's information."""
    weights = collections.defaultdict(set)
    for sentence, nats in stretch:
        weights[sentence].add(round(nats, 9))
    repeated = [
        sentence for sentence, count in collections.Counter(s for s, _ in stretch).items() if count > 1
    ]
    assert len(repeated) > 20
    assert {len(weights[sentence]) for sentence in weights} == {1}


def test_odds_are_what_is_stated(stretch):
    """Known odds average to their entropy: how often a sentence appears is exp(−nats)."""
    counts = collections.Counter(sentence for sentence, _ in stretch)
    nats = dict(stretch)
    sentence, count = counts.most_common(1)[0]
    expected = len(stretch) * math.exp(-nats[sentence])
    assert abs(count - expected) < 4 * math.sqrt(expected) + 1


def test_windows_are_the_text_and_targets_the_character_after(data):
    assert data.train_inputs.shape == data.train_targets.shape == (6400, 32)
    assert data.val_inputs.shape == data.val_targets.shape == (1280, 32)
    read = "".join(ALPHABET[code] for code in data.train_inputs.flatten().tolist())
    assert read == text(6400 * 32, characters.TRAIN_TEXT)
    assert torch.equal(data.train_inputs.flatten()[1:], data.train_targets.flatten()[:-1])


def test_the_loss_is_per_character(data):
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 32, len(ALPHABET), generator=random, dtype=torch.float64)
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    by_hand = [-math.log(p[i, j, data.train_targets[i, j]]) for i in range(2) for j in range(32)]
    assert math.isclose(
        characters.loss(logits, data.train_targets[:2]).item(), np.mean(by_hand), rel_tol=1e-12
    )


def test_the_model_sees_nothing_of_what_comes(data):
    model = characters.gru().build()
    assert sum(p.numel() for p in model.parameters()) == 33 * 16 + 3 * 32 * (16 + 32 + 2) + 33 * 33 == 6417
    codes = data.val_inputs[:3].clone()
    before = model(codes)
    codes[:, 20:] = 0
    after = model(codes)
    assert before.shape == (3, 32, len(ALPHABET))
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_it_learns_more_than_pairs_of_characters_say_and_no_more_than_there_is(data, stretch):
    """Below the entropy of a character given the one before it, above the entropy of the grammar."""
    workload = registry.resolve("chars-gru", {})
    trial = Trial("chars-gru", "adam", 0.01, None, 0, iterations=250)
    (*_, last) = Training(trial, workload, data, CPU).epochs()
    written = "".join(sentence for sentence, _ in stretch)
    single, pairs = collections.Counter(written[:-1]), collections.Counter(itertools.pairwise(written))
    unigram = -sum(n / len(written) * math.log(n / len(written)) for n in single.values())
    bigram = -sum(n / len(written) * math.log(n / single[first]) for (first, _), n in pairs.items())
    floor = sum(nats for _, nats in stretch) / len(written)
    assert floor == pytest.approx(0.48, abs=0.01)
    assert unigram == pytest.approx(2.88, abs=0.01)
    assert floor < last.val_loss < 0.6 * bigram < 0.5 * unigram
    assert 0.6 < last.val_accuracy < 0.9


def test_accuracy_counts_every_character(data):
    class Never(torch.nn.Module):
        def forward(self, codes):
            return torch.nn.functional.one_hot(codes * 0, len(ALPHABET)).double()

    newlines = (data.val_targets == 0).double().mean().item()
    loss, accuracy = evaluate(registry.resolve("chars-gru", {}), data, Never())
    assert math.isclose(accuracy, newlines, rel_tol=1e-12)
    p = math.e / (math.e + len(ALPHABET) - 1)
    expected = -newlines * math.log(p) - (1 - newlines) * math.log((1 - p) / (len(ALPHABET) - 1))
    assert math.isclose(loss, expected, rel_tol=1e-9)


def test_the_same_bits_every_time(data):
    workload = registry.resolve("chars-gru", {})
    trial = Trial("chars-gru", "sgd-sgd", 0.5, 0.01, 3, iterations=20)
    ((one,), (other,)) = (list(Training(trial, workload, data, CPU).epochs()) for _ in range(2))
    assert one.train_loss.tobytes() == other.train_loss.tobytes()
    assert one.alpha.tobytes() == other.alpha.tobytes()
