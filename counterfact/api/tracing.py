"""Find the facts that a model knows, and trace them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import write_json
from counterfact.core.places import data_folder
from counterfact.core.records import BadRecord
from counterfact.core.seeds import derive_seed
from counterfact.core.texts import load_texts
from counterfact.lm.forward.products import packed_products
from counterfact.lm.model.language_model import LM
from counterfact.tracing import known
from counterfact.tracing.causal import trace_plan
from counterfact.tracing.corruption import make_corruption
from counterfact.tracing.facts import BadFact, Fact, read_facts
from counterfact.tracing.known import Question
from counterfact.tracing.methods import METHODS, causal_method, gradient_method, severed_method
from counterfact.tracing.store import TraceRun, keep, run_identity

Progress = Callable[[str, int, int | None], None]
"""Told what is being done, how many facts are done, and of how many."""
PICTURED = (("causal", False), ("causal", True), ("severed", False), ("ig", False))
"""Methods of the figures, and whether the token after the subject is corrupted too."""
FEW = 20
"""Facts traced by integrated gradients for the figures, which take far longer than other traces."""


@dataclass(frozen=True)
class KnownFacts:
    """What a model knows of the facts that it was asked."""

    facts: list[Fact]
    """The facts known, in the order asked."""
    failed: list[BadFact]
    """Those that could not be asked, and why."""
    asked: int


def known_facts(
    lm: LM,
    dataset: Dataset | str | Path | None = None,
    *,
    pararel: str | Path | None = None,
    facts: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> KnownFacts:
    """Find the facts whose true object a model names before any other capitalized word: what to trace.

    Args:
        lm: the model.
        dataset: ask the rewriting prompts of these records.
        pararel: ask the tuples of a folder in ParaRel's layout; by default, those of the embedded data.
        facts: ask the facts of a file like `known_1000.json`, each by its template; a fact that is kept has its
            `known_id`, and the prompt that this model was led to.
        limit: how many facts to ask.
        seed: seed of the templates and the order of the tuples.
        out: file to write the facts to, a JSON list like `known_1000.json`.
        progress: told how many facts were asked.

    Raises:
        BadInput: several sources of facts were given, or one cannot be read.
    """
    if sum(source is not None for source in (dataset, pararel, facts)) > 1:
        raise BadInput("a data set, a folder of tuples and a file of facts are three sources of facts; choose one")
    if facts is not None:
        asked = _of_facts(facts, limit)
    else:
        questions = _of_tuples(pararel, seed) if dataset is None else _of_records(dataset)
        asked = list(enumerate(questions[:limit]))
    told = partial(progress, "facts") if progress else None
    found = known.known_facts(lm, [question for _, question in asked if isinstance(question, Question)], told)
    ids = [known_id for known_id, question in asked if isinstance(question, Question)]
    good = [fact.model_copy(update={"known_id": ids[fact.known_id]}) for fact in found if isinstance(fact, Fact)]
    failed = [question for _, question in asked if isinstance(question, BadFact)]
    failed += [BadFact(ids[fact.known_id], fact.reason) for fact in found if isinstance(fact, BadFact)]
    if out is not None:
        write_json(Path(out), [fact.model_dump() for fact in good])
    return KnownFacts(good, failed, len(asked))


def trace(
    lm: LM,
    facts: str | Path | Sequence[Fact | BadFact],
    methods: str | Sequence[str] = "causal",
    out: str | Path = "results",
    *,
    noise: str = "s3",
    samples: int = 10,
    window: int | None = None,
    extra_token: bool = False,
    replace: bool = False,
    seed: int = 1,
    one_seed: bool = False,
    nodes: int = 50,
    single: bool = False,
    texts: str | Path = "embedded",
    limit: int | None = None,
    max_memory: float | None = None,
    progress: Progress | None = None,
) -> Iterator[TraceRun]:
    """Trace facts through a model, and yield the run of each method; what an earlier call began goes on.

    Args:
        lm: the model.
        facts: facts, or a file of them like `known_1000.json`. The scale of the noise is that of all their subjects,
            however many of them are traced.
        methods: `causal`, `severed` or `ig`, or several of them.
        out: folder of results; each run has a folder of its own below it.
        noise: rule of the noise, as `s3` (three standard deviations of the subjects' embeddings).
        samples: corrupted runs of each prompt.
        window: layers in a window; by default ten, or half of a model with no more than ten.
        extra_token: corrupt the token after the subject too.
        replace: put the noise in place of the embedding instead of adding it.
        seed: seed of the noise.
        one_seed: take the same noise for every fact, as the paper's code does.
        nodes: nodes of the quadrature of integrated gradients.
        single: scale the state of one token at a time in integrated gradients.
        texts: texts for the noise rules `m` and `t`; opened only for these.
        limit: how many facts to trace, from the first.
        max_memory: bytes that a batch must be estimated to need at most.
        progress: told how many facts are done.

    Raises:
        BadInput: no such method or rule, or an argument cannot be used.
    """
    names = [methods] if isinstance(methods, str) else list(methods)
    if unknown := [name for name in names if name not in METHODS]:
        raise BadInput(f"expected methods among {', '.join(METHODS)}, got {unknown[0]!r}")
    asked = read_facts(Path(facts)) if isinstance(facts, str | Path) else list(facts)
    plan = None if max_memory is None else trace_plan(lm, max_memory)
    corruption = make_corruption(
        lm,
        noise,
        subjects=[fact.subject for fact in asked if isinstance(fact, Fact)],
        texts=load_texts(texts).texts() if noise[:1] in {"m", "t"} else (),
        samples=samples,
        seed=seed,
        replace=replace,
        one_seed=one_seed,
    )
    width = default_window(lm.n_layers) if window is None else window
    ways = {
        "causal": partial(causal_method, lm, corruption, window=width, extra_token=extra_token, plan=plan),
        "severed": partial(severed_method, lm, corruption, extra_token=extra_token, plan=plan),
        "ig": partial(gradient_method, lm, nodes=nodes, single=single),
    }
    for name in names:
        told = partial(progress, f"{name} facts") if progress else None
        settings, compute = ways[name]()
        with packed_products(lm):
            yield keep(
                Path(out), run_identity(lm, name, settings, asked[:limit]), asked[:limit], compute, progress=told
            )


def trace_what_it_knows(
    lm: LM, out: str | Path = "results", *, limit: int = 200, progress: Progress | None = None
) -> Iterator[TraceRun]:
    """Find facts that a model knows, and trace them in every way that the figures show.

    Args:
        lm: the model.
        out: folder of results; the facts are kept in it.
        limit: facts to trace; of integrated gradients fewer.
        progress: told how many facts are done.

    Raises:
        BadInput: the model knows none of the facts asked.
    """
    path = Path(out) / f"known-{lm.name.replace('/', '--')}@{lm.revision[:8]}.json"
    if not path.exists():
        known_facts(lm, limit=4 * limit, out=path, progress=progress)
    if not (facts := read_facts(path)):
        raise BadInput(f"{lm.name} knows none of the facts asked")
    for name, extra_token in PICTURED:
        most = FEW if name == "ig" else limit
        yield from trace(lm, facts, name, out, extra_token=extra_token, limit=most, progress=progress)


def default_window(n_layers: int) -> int:
    """Return the paper's ten layers, or half the depth of a model that has no more than ten.

    >>> default_window(48), default_window(12), default_window(6)
    (10, 10, 3)
    """
    return 10 if n_layers > 10 else max(1, n_layers // 2)


def _of_records(dataset: Dataset | str | Path) -> list[Question]:
    data = dataset if isinstance(dataset, Dataset) else load_dataset(dataset)
    requests = [record.request for record in data.records if not isinstance(record, BadRecord)]
    return [
        Question(request.prompt, request.subject, request.target_true, request.relation_id)
        for request in requests
        if request.target_true is not None
    ]


def _of_facts(path: str | Path, limit: int | None) -> list[tuple[int, Question | BadFact]]:
    """Return the template of each fact of a file, or its prompt where it has none, with the fact's own id."""
    asked: list[tuple[int, Question | BadFact]] = []
    for fact in read_facts(Path(path), limit):
        if isinstance(fact, BadFact):
            asked.append((fact.known_id, fact))
            continue
        template = fact.template or fact.slotted[0]
        asked.append((fact.known_id, Question(template, fact.subject, fact.attribute, fact.relation_id)))
    return asked


def _of_tuples(folder: str | Path | None, seed: int) -> list[Question]:
    """Return every tuple with one of its relation's templates, in an order that a seed shuffles."""
    from counterfact.builders.sources.pararel import load_pararel  # noqa: PLC0415

    drawn = []
    for relation in load_pararel(Path(folder) if folder else data_folder() / "pararel"):
        for fact in relation.tuples if relation.templates else ():
            number = derive_seed(seed, "known", fact.uuid)
            template = relation.templates[number % len(relation.templates)]
            drawn.append((number, Question(template, fact.subject, fact.object, relation.id)))
    return [question for _, question in sorted(drawn, key=lambda pair: pair[0])]
