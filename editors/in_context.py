"""In-context editing: no weight is changed, the new facts stand before every prompt.

Zheng et al. Can We Edit Factual Knowledge by In-Context Learning? EMNLP 2023. https://arxiv.org/abs/2305.12740

The form is that of EasyEdit's IKE without demonstrations, `New Fact: {prompt} {target}` and `Prompt: ` on the next
line; of several facts each has a line. It is the upper control of efficacy, and says what prompts that repeat an edit
ask for.
"""

from collections.abc import Sequence

from counterfact.contracts.editors import Edited, Editor, Group, Resources, editor
from counterfact.core.settings import Settings
from counterfact.editing.requests import encode, encode_group, failures_of
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.language_model import LM

PAPER = "https://arxiv.org/abs/2305.12740"
FACT = "New Fact: {prompt}{joiner}{target}\n"
QUESTION = "Prompt: "


class InContextSettings(Settings):
    """There is nothing to set."""


@editor(
    "in_context",
    InContextSettings,
    title="In context",
    control=True,
    paper=PAPER,
    summary="no change of weights: the new facts stand before every prompt",
    most_at_once=None,
)
def prepare(lm: LM, _settings: InContextSettings, _resources: Resources) -> Editor:
    """Return an editor whose edits are texts; a group must fit the model's length with room for its own prompts."""

    def edit(group: Group) -> Edited:
        encoded, failed = encode_group(group, lambda request: encode(lm, request, ["{}"], "last", kl_row=False))
        kept = [group[i] for i in encoded]
        facts = [FACT.format(prompt=r.filled, joiner=r.joiner, target=r.target_new.strip()) for r in kept]
        context = "".join(facts) + QUESTION
        added = len(lm.tokens(context))
        longest = max((item.length for item in encoded.values()), default=0)
        if added + longest > lm.max_length:
            reason = f"the facts take {added} tokens, their longest prompt {longest}, the model at most {lm.max_length}"
            failed.update(dict.fromkeys(encoded, reason))
        failures = failures_of(group, failed)
        if len(failures) == len(group):
            return Edited(None, failures)
        ids = tuple(request.id for request in kept)
        return Edited(Edit((), ids, {"tokens_added": float(added)}, context), failures)

    def edit_all(groups: Sequence[Group], _seed: int, /) -> list[Edited]:
        return [edit(group) for group in groups]

    return edit_all
