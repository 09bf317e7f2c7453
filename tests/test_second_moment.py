"""The second moment is the plain average of k kᵀ, in one pass for all layers, interrupted or not, kept by content."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.errors import BadInput
from core.texts import TextSource
from lm.hooks import Site, Tape, hooked
from lm.loading import LM, load_lm
from lm.second_moment import SecondMoment, second_moments
from tests.models import FAMILIES, SENTENCES, tiny_lm

TEXTS = tuple(f"{one} {other}"[: 20 + 7 * i] for i, one in enumerate(SENTENCES) for other in SENTENCES)
"""100 texts of many lengths, some longer than the models take."""


def source(texts: tuple[str, ...] = TEXTS, name: str = "ours") -> TextSource:
    return TextSource(name, f"hash of {len(texts)}", lambda: iter(texts))


def plain(lm: LM, layer: int, texts: tuple[str, ...]) -> tuple[Tensor, int]:
    """One text at a time, float64."""
    site, tape = Site(lm.layout.down(layer), "in"), Tape()
    total, count = torch.zeros(64, 64, dtype=torch.float64), 0
    for text in texts:
        if ids := lm.tokens(text)[: lm.max_length]:
            with hooked(lm.model, tape.read(site)):
                lm.model(torch.tensor([ids]))
            keys = tape[site][0].double()
            total, count = total + keys.T @ keys, count + len(keys)
    return total / count, count


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_average_of_one_text_at_a_time(family: str, tmp_path: Path) -> None:
    lm = tiny_lm(family)
    found = second_moments(lm, [2, 0], source((*TEXTS, "")), tokens_per_batch=300, folder=tmp_path)
    assert list(found) == [2, 0]
    for layer in (2, 0):
        matrix, count = plain(lm, layer, TEXTS)
        assert (found[layer].count, found[layer].layer, found[layer].name) == (count, layer, "ours")
        torch.testing.assert_close(found[layer].matrix, matrix, rtol=0, atol=1e-5 if family == "gptj" else 1e-10)


def test_sums_do_not_lose_digits_over_a_long_corpus(tmp_path: Path) -> None:
    lm = tiny_lm(dtype="float32")
    once, often = (second_moments(lm, [1], source(TEXTS * n), folder=tmp_path)[1] for n in (1, 20))
    assert often.count == 20 * once.count
    torch.testing.assert_close(often.matrix, once.matrix, rtol=1e-14, atol=0)
    matrix, _ = plain(tiny_lm(), 1, TEXTS)
    assert float((once.matrix - matrix).norm() / matrix.norm()) < 1e-6


def test_limits_on_texts_and_tokens(tmp_path: Path) -> None:
    lm = tiny_lm()
    one = second_moments(lm, [1], source(), max_texts=7, folder=tmp_path)[1]
    assert one.count == plain(lm, 1, TEXTS[:7])[1]
    two = second_moments(lm, [1], source(TEXTS * 3), max_tokens=one.count, folder=tmp_path)[1]
    assert two.count == plain(lm, 1, TEXTS)[1]


class Interrupted(Exception):
    pass


def test_an_interrupted_pass_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    lm, texts = tiny_lm(dtype="float32"), TEXTS * 5
    expected = second_moments(lm, [0, 1], source(texts), folder=tmp_path / "one")
    done: list[int] = []

    def stop(texts_done: int, of: int | None) -> None:
        done.append(texts_done)
        if texts_done == 400:
            raise Interrupted

    folder = tmp_path / "two"
    with pytest.raises(Interrupted):
        second_moments(lm, [0, 1], source(texts), folder=folder, progress=stop, checkpoint_every=200)
    (unfinished,) = folder.iterdir()
    found = second_moments(
        lm, [0, 1], source(texts), folder=folder, progress=lambda n, of: done.append(n), checkpoint_every=200
    )
    assert done == [100, 200, 300, 400, 300, 400, 500]
    assert not unfinished.exists()
    for layer in (0, 1):
        assert torch.equal(found[layer].matrix, expected[layer].matrix)
        assert found[layer].hash == expected[layer].hash
    assert [p.read_bytes() for p in sorted(folder.iterdir())] == [
        p.read_bytes() for p in sorted((tmp_path / "one").iterdir())
    ]


def test_what_is_there_is_read_and_only_the_rest_computed(tmp_path: Path) -> None:
    lm = tiny_lm()
    first = second_moments(lm, [1], source(), folder=tmp_path)[1]

    def never() -> Iterator[str]:
        raise AssertionError("read again")

    again = second_moments(lm, [1], TextSource("ours", "hash of 100", never), folder=tmp_path)[1]
    assert torch.equal(again.matrix, first.matrix)
    assert (again.hash, again.count) == (first.hash, first.count)
    seen: list[str] = []
    with hooked(lm.model, (Site(lm.layout.block(1)), lambda h: seen.append("deep"))):
        both = second_moments(lm, [0, 1], source(), folder=tmp_path)
    assert not seen
    assert both[1].hash == first.hash != both[0].hash


def test_another_corpus_limit_dtype_or_model_is_another_file(tmp_path: Path) -> None:
    makers = [
        (tiny_lm(), source(), None),
        (tiny_lm(), source(TEXTS[:50]), None),
        (tiny_lm(), source(), 50),
        (tiny_lm(dtype="float32"), source(), None),
        (tiny_lm("llama"), source(), None),
    ]
    hashes = {second_moments(lm, [1], texts, max_texts=n, folder=tmp_path)[1].hash for lm, texts, n in makers}
    assert len(hashes) == len(list(tmp_path.iterdir())) == len(makers)


def test_a_damaged_file_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lm = tiny_lm()
    first = second_moments(lm, [1], source(), folder=tmp_path)[1]
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    assert second_moments(lm, [1], source(), folder=tmp_path)[1].hash == first.hash
    assert "cannot be read" in caplog.text


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="layers from 0 to 2 of tiny-gpt2, got 3"):
        second_moments(tiny_lm(), [0, 3], source(), folder=tmp_path)
    with pytest.raises(BadInput, match="holds no text"):
        second_moments(tiny_lm(), [0], source(("", "")), folder=tmp_path)


def test_solving() -> None:
    keys = torch.randn(200, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moment = SecondMoment(keys.T @ keys / 200, 200, 0, "", "")
    for shape in ((64,), (3, 64)):
        k = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        solved = moment.solve(k)
        assert solved.shape == shape
        torch.testing.assert_close(solved @ moment.matrix, k.double())
    assert moment.ridge == 0.0


def test_a_ridge_is_added_only_where_there_are_too_few_tokens() -> None:
    keys = torch.randn(20, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moment = SecondMoment(keys.T @ keys / 20, 20, 0, "", "")
    assert 0 < moment.ridge < 1e-6
    assert moment.solve(torch.ones(64)).isfinite().all()
    with pytest.raises(ValueError, match="not positive"):
        SecondMoment(-torch.eye(3, dtype=torch.float64), 1, 0, "", "").solve(torch.ones(3))


def test_second_moment_of_the_reference(real_data: Path, tmp_path: Path) -> None:
    import numpy as np

    lm = load_lm(real_data / "golden" / "model", device="cpu")
    golden = np.load(real_data / "golden" / "second_moment.npz")
    lines = (real_data / "wikitext" / "wikitext-2.valid.txt").read_text(encoding="utf-8").split("\n")
    texts = tuple(lines[number - 1] for number in golden["line_numbers"])
    found = second_moments(lm, [int(golden["layer"])], source(texts), folder=tmp_path)[int(golden["layer"])]
    assert found.count == int(golden["count"])
    assert found.ridge == 0.0
    for name in ("C", "C_float64_accumulation"):
        expected = torch.tensor(golden[name]).double()
        assert float((found.matrix - expected).norm() / expected.norm()) < 1e-5
