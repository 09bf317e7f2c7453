"""Forms that are known by name and are no data sets to edit, or cannot be read yet."""

from counterfact.contracts.formats import OtherFormat, register_format

_RIPPLE = {"Relation_Specificity", "Logical_Generalization", "Subject_Aliasing", "Compositionality_I", "Forgetfulness"}

register_format(
    OtherFormat(
        name="ripple_edits",
        title="RippleEdits",
        recognises=lambda value: isinstance(value.get("edit"), dict) and bool(_RIPPLE & value.keys()),
        advice="it cannot be read yet; KnowEdit's wiki_counterfact asks about many of the same things",
    )
)
register_format(
    OtherFormat(
        name="mquake",
        title="MQuAKE",
        recognises=lambda value: isinstance(value.get("requested_rewrite"), list) or "new_single_hops" in value,
        advice="its questions of several hops cannot be read yet",
    )
)
register_format(
    OtherFormat(
        name="known_facts",
        title="facts to trace, as in known_1000.json",
        recognises=lambda value: "attribute" in value and {"known_id", "prompt"} <= value.keys(),
        advice="they name no new object; trace them with `counterfact trace --facts`",
    )
)
