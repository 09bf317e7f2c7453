"""A GGUF file becomes a model that computes what the library computes of it, whole and once, or is refused."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from counterfact.core.errors import BadInput, Failed
from counterfact.core.files import hash_file
from counterfact.lm.model import gguf
from counterfact.lm.model.gguf import cached_conversion, check_weights, convert, model_name
from counterfact.lm.model.loading import load_lm, read_config
from tests.support import ROOT
from tests.support.gguf_files import LAYERS, TEXTS, WIDTH, write_gguf


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERFACT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_file_is_what_the_library_reads_in_it(family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write_gguf(tmp_path / "Tiny-2L.Q8_0.gguf", family)
    capfd.readouterr()
    lm = load_lm(file, device="cpu")
    out, err = capfd.readouterr()
    assert out == "" and "GGUF" not in err
    direct = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32).eval()
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        assert torch.equal(lm.model(ids).logits, direct(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    assert [lm.tokenizer(text).input_ids for text in TEXTS] == [tokenizer(text).input_ids for text in TEXTS]
    assert (lm.name, lm.n_layers, lm.width, lm.layout.family) == ("Tiny-2L", LAYERS, WIDTH, family)
    assert read_config(file).num_hidden_layers == LAYERS


def test_a_file_is_converted_once_and_that_is_said(tmp_path: Path) -> None:
    file, said = write_gguf(tmp_path / "tiny.gguf"), list[str]()
    first = load_lm(file, device="cpu", announce=said.append)
    folder = cached_conversion(hash_file(file), "tiny")
    assert said == [f"converting {file} to {folder}, once"]
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    moved = file.rename(tmp_path / "elsewhere.gguf").rename(tmp_path / "tiny.Q8_0.gguf")
    assert load_lm(moved, device="cpu", announce=said.append).identity == first.identity
    assert len(said) == 1 and made == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    for name in ("one", "two"):
        convert(file, hash_file(file), tmp_path / name)
    one, two = ({path.name: hash_file(path) for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and {"config.json", "model.safetensors", "tokenizer.json", "source.json"} <= one.keys()


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("qwen2-0_5b-instruct-q4_k_m.gguf", "qwen2-0_5b-instruct"),
        ("Llama-3.2-1B-IQ3_XS.gguf", "Llama-3.2-1B"),
        ("gpt2-f16.gguf", "gpt2"),
        ("gpt2.gguf", "gpt2"),
        ("sha256-0123", "sha256-0123"),
        (".gguf", "gguf"),
    ],
)
def test_a_model_is_named_without_its_quantisation(file: str, name: str) -> None:
    assert model_name(Path(file)) == name


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no file .*nowhere\.gguf"):
        load_lm(tmp_path / "nowhere.gguf")
    (tmp_path / "page.gguf").write_bytes(b"<html>")
    with pytest.raises(BadInput, match=r"page\.gguf is no GGUF file: .* b'GGUF', found b'<htm'"):
        load_lm(tmp_path / "page.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(BadInput, match="found b''"):
        read_config(tmp_path / "empty.gguf")


def test_a_file_is_told_by_how_it_begins_and_a_folder_is_none(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "sha256-0123")
    assert load_lm(file, device="cpu").name == "sha256-0123"
    folder = cached_conversion(hash_file(file), "sha256-0123")
    assert load_lm(folder.rename(tmp_path / "folder.gguf"), device="cpu").name == "folder.gguf"


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"needs gguf and accelerate.*: pip install gguf accelerate"):
        load_lm(tmp_path / "some.gguf")


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.1, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_refused(share: float, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "whole.gguf")
    data = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: max(4, int(share * len(data)))])
    with pytest.raises(BadInput, match=r"cut\.gguf is cut off or damaged .*; download it again"):
        load_lm(tmp_path / "cut.gguf")
    assert not list((tmp_path / "cache").rglob("config.json"))


def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    def refused(reason: str, **changes: object) -> None:
        file = write_gguf(tmp_path / f"{len(list(tmp_path.iterdir()))}.gguf", **changes)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match=f"{file.name} {reason}"):
            load_lm(file)
        assert not list((tmp_path / "cache").rglob("*.*"))

    refused("cannot be read as a model: .*architecture bert", architecture="bert")
    refused("cannot be used: no layout for models of type 'starcoder2'", architecture="starcoder2")
    refused("holds no tokenizer that can be used", tokenizer=False)
    refused("lacks weights that its model needs: .*layers.1.mlp.up_proj", without="blk.1.ffn_up.weight")
    refused("is one of 3 parts of a model; merge them", parts=3)
    refused("splits texts in another way than transformers", family="qwen2", splitting="gpt-2")


def test_numbers_that_the_library_leaves_out_are_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", more={"rope_freqs.weight": np.ones(8, dtype=np.float32)})
    with pytest.raises(BadInput, match=r"transformers uses [\d,]+ of the [\d,]+ numbers in .*tiny\.gguf"):
        load_lm(file)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("of mine")
    with pytest.raises(BadInput, match="mine holds something else than the model of"):
        convert(file, hash_file(file), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_other_weights_than_expected_leave_nothing(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(Failed, match=r"expected sha256 0123.*, found"):
        convert(file, hash_file(file), tmp_path / "out", expected="0123")
    assert not (tmp_path / "out").exists()
    convert(file, hash_file(file), tmp_path / "out")
    check_weights(tmp_path / "out", hash_file(tmp_path / "out" / "model.safetensors"))


CONVERT = """
import sys
from pathlib import Path
from counterfact.lm.model import gguf
if sys.argv[2] == "slowly":
    def wait(folder, expected):
        print("written", flush=True)
        import time; time.sleep(600)
    gguf.check_weights = wait
print(gguf.convert_once(Path(sys.argv[1]), lambda message: print(message, flush=True)), flush=True)
"""


def converting(file: Path, how: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "ignore", "-c", CONVERT, str(file), how]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_kill_leaves_no_model_and_the_next_one_makes_it(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    folder = cached_conversion(hash_file(file), "tiny")
    process = converting(file, "slowly")
    assert process.stdout is not None
    while process.stdout.readline() not in {"written\n", ""}:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not folder.exists() and list(folder.parent.iterdir())
    assert load_lm(file, device="cpu").n_layers == LAYERS
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_two_at_once_convert_once(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    folder = str(cached_conversion(hash_file(file), "tiny"))
    processes = [converting(file) for _ in range(2)]
    begun = time.monotonic()
    said = [process.communicate(timeout=300)[0].splitlines() for process in processes]
    assert time.monotonic() - begun < 300
    assert [lines[-1] for lines in said] == [folder, folder]
    assert sorted(len(lines) for lines in said) == [1, 2]
