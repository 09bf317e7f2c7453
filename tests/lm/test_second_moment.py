"""The second moment is the plain average of k kᵀ, in one pass for all layers, interrupted or not, kept by content."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from counterfact.core.errors import BadInput
from counterfact.core.texts import TextSource
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.model.sites import weight_shape
from counterfact.lm.moments.corpus_pass import Advance, plan_passes, sum_bytes, usual_limit
from counterfact.lm.moments.given import moment_facts
from counterfact.lm.moments.second_moment import SecondMoment, second_moments, so_far
from counterfact.lm.moments.sums import Batch, Sums, add_batch, add_product
from tests.support.models import FAMILIES, SENTENCES, rounding, tiny_lm

TEXTS = tuple(f"{one} {other}"[: 20 + 7 * i] for i, one in enumerate(SENTENCES) for other in SENTENCES)
"""100 texts of many lengths, some longer than the models take."""


def source(texts: tuple[str, ...] = TEXTS, name: str = "ours") -> TextSource:
    return TextSource(name, f"hash of {len(texts)}", lambda: iter(texts))


def plain(lm: LM, layer: int, texts: tuple[str, ...]) -> tuple[Tensor, int]:
    """One text at a time, float64."""
    site, tape = Site(lm.layout.fc_out(layer), "in"), Tape()
    size = weight_shape(lm.model, site.module)[0]
    total, count = torch.zeros(size, size, dtype=torch.float64), 0
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
        torch.testing.assert_close(found[layer].matrix, matrix, rtol=0, atol=rounding(family))


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
    done: list[Advance] = []

    def stop(now: Advance) -> None:
        done.append(now)
        if now.texts == 400:
            raise Interrupted

    folder = tmp_path / "two"
    with pytest.raises(Interrupted):
        second_moments(lm, [0, 1], source(texts), folder=folder, progress=stop, checkpoint_every=200)
    (unfinished,) = folder.iterdir()
    assert done[-1].texts == 400
    begun_again = len(done)
    found = second_moments(lm, [0, 1], source(texts), folder=folder, progress=done.append, checkpoint_every=200)
    assert done[begun_again].texts == 200 < done[begun_again + 1].texts <= 300
    assert (done[-1].texts, done[-1].tokens) == (500, found[0].count)
    assert not unfinished.exists()
    for layer in (0, 1):
        assert torch.equal(found[layer].matrix, expected[layer].matrix)
        assert found[layer].hash == expected[layer].hash
    assert contents(folder) == contents(tmp_path / "one")


def contents(folder: Path) -> list[bytes]:
    return [p.read_bytes() for p in sorted(folder.iterdir())]


def test_a_layer_is_the_same_bytes_whichever_layers_share_its_pass(tmp_path: Path) -> None:
    lm = tiny_lm(dtype="float32")
    second_moments(lm, [0, 1, 2], source(), folder=tmp_path / "together")
    for layer in (2, 0, 1):
        second_moments(lm, [layer], source(), folder=tmp_path / "alone")
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")


def test_one_layer_goes_on_from_a_checkpoint_of_all(tmp_path: Path) -> None:
    lm, texts = tiny_lm(dtype="float32"), TEXTS * 3
    interrupt(lm, [0, 1, 2], source(texts), tmp_path)
    told: list[Advance] = []
    found = second_moments(lm, [1], source(texts), folder=tmp_path, progress=told.append)
    assert told[0].texts == 200 and told[1].texts > 200
    assert found[1].hash == second_moments(lm, [1], source(texts), folder=tmp_path / "other")[1].hash


def interrupt(lm: LM, layers: list[int], texts: TextSource, folder: Path, after: int = 200) -> None:
    """Leave a pass with a checkpoint after so many texts."""

    def cut() -> Iterator[str]:
        yield from islice(texts.texts(), after)
        raise Interrupted

    with pytest.raises(Interrupted):
        second_moments(lm, layers, replace(texts, texts=cut), folder=folder)


def test_so_far(tmp_path: Path) -> None:
    lm, texts = tiny_lm(), TEXTS * 5
    with pytest.raises(BadInput, match="no unfinished pass over ours for layer 1 of tiny-gpt2"):
        so_far(lm, [1], source(texts), folder=tmp_path)
    interrupt(lm, [0, 1], source(texts), tmp_path)
    made = so_far(lm, [1], source(texts), folder=tmp_path)[1]
    matrix, count = plain(lm, 1, TEXTS * 2)
    torch.testing.assert_close(made.matrix, matrix, rtol=0, atol=1e-10)
    assert (made.count, made.complete, made.provenance["complete"]) == (count, False, False)
    assert made.path is not None and "first-200-texts" in made.path.name
    whole = second_moments(lm, [0, 1], source(texts), folder=tmp_path)
    assert whole[1].count == plain(lm, 1, texts)[1]
    assert whole[1].complete
    assert made.path.exists()


def test_the_error_of_a_part_is_against_the_whole_pass(tmp_path: Path) -> None:
    lm, texts = tiny_lm(), TEXTS * 5
    interrupt(lm, [1], source(texts), tmp_path)
    unknown = so_far(lm, [1], source(texts), folder=tmp_path)[1].sampling
    known = so_far(lm, [1], replace(source(texts), size=lambda: 500), folder=tmp_path)[1].sampling
    assert unknown is not None and known is not None
    assert known.update == pytest.approx(unknown.update * 0.6**0.5, rel=1e-5)
    assert 1 / known.cosine**2 - 1 == pytest.approx(0.6 * (1 / unknown.cosine**2 - 1), rel=1e-3)


def test_progress_tells_how_far_and_how_fast(tmp_path: Path) -> None:
    told: list[Advance] = []
    texts = replace(source(TEXTS * 3), size=lambda: 300)
    second_moments(tiny_lm(), [0], texts, folder=tmp_path, progress=told.append, tokens_per_batch=512)
    assert [now.texts for now in told] == sorted({now.texts for now in told})
    assert all(now.total == 300 and now.tokens_per_second > 0 for now in told[1:])
    assert told[0] == Advance(0, 300, 0, 0.0)
    second_moments(tiny_lm(), [0], source(), folder=tmp_path / "2", progress=told.append)
    assert told[-1].total is None


@contextmanager
def spoilt(row: Tensor, value: float) -> Iterator[None]:
    """Set a row of a weight for the length of the block; tiny models are shared by all tests."""
    before = row.clone()
    with torch.no_grad():
        row.fill_(value)
        try:
            yield
        finally:
            row.copy_(before)


@pytest.mark.parametrize("token", [0, 3])
def test_a_text_with_keys_that_are_not_finite_costs_itself(token: int, tmp_path: Path) -> None:
    lm = tiny_lm()
    word = lm.tokens(TEXTS[5])[token]
    bad = [text for text in TEXTS if word in lm.tokens(text)[: lm.max_length]]
    good = tuple(text for text in TEXTS if text not in bad)
    assert bad and good
    matrix, count = plain(lm, 1, good)
    with spoilt(lm.model.transformer.wte.weight[word], float("nan")):
        found = second_moments(lm, [1], source(), folder=tmp_path)[1]
    assert found.count == count
    torch.testing.assert_close(found.matrix, matrix, rtol=0, atol=1e-10)
    assert found.path is not None
    assert moment_facts(found.path)["not_finite"] == len(bad)


def test_only_texts_with_keys_that_are_not_finite(tmp_path: Path) -> None:
    lm = tiny_lm()
    wrong = spoilt(lm.model.transformer.wpe.weight[0], float("inf"))
    with wrong, pytest.raises(BadInput, match="100 gave keys that are not finite in layer 1"):
        second_moments(lm, [1], source(), folder=tmp_path)


def test_out_of_memory_halves_the_batches_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    whole = second_moments(lm, [1], source(TEXTS * 2), folder=tmp_path / "whole")[1]

    def scarce(lm: LM, sums: dict[int, Sums], batch: Batch) -> None:
        if len(batch.rows) * batch.width > 600:
            raise torch.OutOfMemoryError("too much")
        add_batch(lm, sums, batch)

    monkeypatch.setattr("counterfact.lm.moments.corpus_pass.add_batch", scarce)
    found = second_moments(lm, [1], source(TEXTS * 2), folder=tmp_path, tokens_per_batch=2048)[1]
    assert found.count == whole.count
    torch.testing.assert_close(found.matrix, whole.matrix, rtol=1e-12, atol=1e-12)
    assert found.path is not None
    assert moment_facts(found.path)["tokens_per_batch"] == 512


def test_a_full_disk_costs_a_checkpoint_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lm, texts = tiny_lm(), source(TEXTS * 3)

    def full(tensors: object, path: str, facts: object) -> None:
        Path(path).write_bytes(b"half a file")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr("counterfact.lm.moments.files.save_file", full)
        with pytest.raises(OSError, match="No space left") as raised:
            second_moments(lm, [1], texts, folder=tmp_path, checkpoint_every=100)
    assert raised.value.errno == errno.ENOSPC
    assert "no checkpoint could be written" in caplog.text
    assert not list(tmp_path.iterdir())
    assert second_moments(lm, [1], texts, folder=tmp_path)[1].count == plain(lm, 1, TEXTS * 3)[1]


def test_memory_is_said_and_layers_are_cut_into_passes() -> None:
    lm = tiny_lm()
    assert sum_bytes(lm, 0) == 2 * 8 * 64 * 64
    assert plan_passes(lm, [0, 1, 2], None) == [[0, 1, 2]]
    assert plan_passes(lm, [0, 1, 2], 2 * sum_bytes(lm, 0)) == [[0, 1], [2]]
    with pytest.raises(BadInput, match="the sums of layer 0 take"):
        plan_passes(lm, [0], 100)
    assert usual_limit(torch.device("cpu")) is not None


def test_bands_add_up_to_the_whole_product() -> None:
    keys = torch.randn(40, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = torch.zeros(300, 300, dtype=torch.float64)
    add_product(total, keys)
    torch.testing.assert_close(total.tril(), (keys.T @ keys).tril())


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
    assert "computing it again" in caplog.text
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert second_moments(lm, [1], source(), folder=tmp_path)[1].hash == first.hash
    assert "is damaged: its checksum should be" in caplog.text


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
