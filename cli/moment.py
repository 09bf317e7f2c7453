"""`counterfact second-moment`: E[k kᵀ] of MLP keys, the statistics that ROME needs, for any model and text."""

from functools import partial
from typing import Annotated

import typer

from cli._common import Device, Dtype, Model, Texts, console, open_model, progress_bar


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("second-moment")(second_moment)


def second_moment(
    layer: Annotated[list[int], typer.Option(help="Layer, from 0; may be repeated: one pass serves all.")],
    model: Model = "factlm",
    texts: Texts = "embedded",
    limit: Annotated[int | None, typer.Option(min=1, help="How many texts, from the first.")] = None,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Compute and cache second moments; goes on where it stopped.

    Example: `counterfact second-moment --model gpt2-xl --layer 17 --texts wikimedia/wikipedia:20231101.en
    --limit 100000`
    """
    from core.places import cache_folder  # noqa: PLC0415
    from core.texts import load_texts  # noqa: PLC0415
    from lm.second_moment import second_moments  # noqa: PLC0415

    lm = open_model(model, device, dtype)
    layers = f"layers {sorted(layer)}"
    with progress_bar("second moments") as advance:
        moments = second_moments(
            lm,
            layer,
            load_texts(texts),
            max_texts=limit,
            folder=cache_folder() / "second_moments",
            progress=partial(advance, layers),
        )
    for number, moment in sorted(moments.items()):
        size = moment.matrix.shape[0]
        console.print(f"layer {number}: {size} x {size} from {moment.count:,} tokens, {moment.name}")
