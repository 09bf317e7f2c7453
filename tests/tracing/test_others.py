"""An independent oracle: TransformerLens and pyvene give the same scores on the same weights, where installed."""

import importlib.util
from collections.abc import Callable

import pytest

from counterfact.tracing.causal import Traced, trace
from counterfact.tracing.cells import KINDS, Scan
from counterfact.tracing.corruption import make_corruption
from counterfact.tracing.facts import Fact
from speed.tracers import PlainLoop, Pyvene, Tracer, TransformerLens
from tests.support.models import tiny_lm

FACT = Fact(known_id=3, subject="Anna Ferrand", attribute="Lisbon", prompt="In Turin Anna Ferrand was born in")


@pytest.mark.parametrize(
    ("package", "make"), [("torch", PlainLoop), ("transformer_lens", TransformerLens), ("pyvene", Pyvene)]
)
@pytest.mark.filterwarnings("ignore")
def test_other_libraries_give_the_same_scores(package: str, make: Callable[..., Tracer]) -> None:
    if not importlib.util.find_spec(package):
        pytest.skip(f"needs {package}: pip install -e '.[bench]'")
    lm = tiny_lm("gpt2")
    noise = make_corruption(lm, "s3", subjects=[FACT.subject], samples=3)
    [one] = trace(lm, [FACT], noise, Scan(KINDS, window=2))
    assert isinstance(one, Traced)
    prompt = one.prompt
    other = make(lm, prompt, noise.noise(FACT.known_id, prompt.end - prompt.begin, lm.width), 2)
    assert abs(one.high - one.low) > 0.01, "a corruption that changes nothing shows nothing"
    for kind in KINDS:
        for token in range(prompt.begin - 1, len(prompt.ids)):
            for layer in range(lm.n_layers):
                score = one.traces[kind].scores[token, layer]
                assert other.cell(kind, token, layer) == pytest.approx(score, abs=1e-6)
    if isinstance(other, TransformerLens):
        found = other.states().T.double().numpy()
        assert abs(found - one.traces["state"].scores).max() < 1e-6
