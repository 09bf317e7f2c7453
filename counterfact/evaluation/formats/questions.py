"""Forms that become zsRE records: MEND's own, KnowEdit and QAEdit."""

from collections.abc import Iterator
from typing import Any

from counterfact.contracts.formats import Format, Note, Value, register_format

from ._values import first_text, is_flat_edit, is_knowedit, required, text

_MEND = ("subject", "src", "rephrase", "answers", "loc", "loc_ans")


def _mend(value: Value, place: int, note: Note) -> dict[str, Any]:
    required(value, *_MEND)
    made = {"case_id": place, **value}
    if isinstance(made["answers"], str):
        note("answers as one text: a list of it")
        made["answers"] = [made["answers"]]
    if isinstance(made["answers"], list):
        made["answers"] = [each for each in made["answers"] if not isinstance(each, str) or each.strip()]
    if isinstance(made["loc_ans"], list) and made["loc_ans"]:
        note("several locality answers: the first is taken")
        made["loc_ans"] = made["loc_ans"][0]
    return made


def _knowedit(value: Value, place: int, note: Note) -> dict[str, Any]:
    prompt, subject, new = required(value, "prompt", "subject", "target_new")
    rephrase = value.get("rephrase_prompt", value.get("rephrase"))
    true = first_text(value.get("ground_truth"), "ground_truth")
    if true == new:
        note("the true answer is the new one: an edit that changes nothing, of which there is nothing to learn")
    return {
        "case_id": value.get("case_id", place),
        "subject": subject,
        "src": prompt,
        "rephrase": first_text(rephrase, "rephrase"),
        "answers": [text(new, "target_new")],
        "target_true": None if true == new else true,
        "loc": None,
        "loc_ans": None,
        "locality": list(_locality(value.get("locality") or {}, note)),
    }


def _locality(axes: Any, note: Note) -> Iterator[dict[str, str]]:
    for axis, asked in axes.items():
        if not isinstance(asked, list) or not all(isinstance(each, dict) for each in asked):
            raise ValueError(f"locality.{axis}: expected a list of prompts with their answers")
        for each in asked:
            answer = first_text(each.get("ground_truth"), f"locality.{axis}.ground_truth")
            if answer is None:
                note("a locality prompt without an answer: left out")
            else:
                yield {"prompt": text(each.get("prompt"), f"locality.{axis}.prompt"), "answer": answer}


def _qaedit(value: Value, place: int, note: Note) -> dict[str, Any]:
    prompt, subject, answer = required(value, "prompt", "subject", "target")
    asked = value.get("locality") or []
    if not isinstance(asked, list) or not all(isinstance(each, dict) for each in asked):
        raise ValueError("locality: expected a list of questions with their answers")
    known = [(each.get("loc"), first_text(each.get("loc_ans"), "locality.loc_ans")) for each in asked]
    if any(answer is None for _, answer in known):
        note("a locality prompt without an answer: left out")
    return {
        "case_id": place,
        "subject": subject,
        "src": prompt,
        "rephrase": first_text(value.get("rephrase"), "rephrase"),
        "answers": [text(answer, "target")],
        "loc": None,
        "loc_ans": None,
        "locality": [{"prompt": text(loc, "locality.loc"), "answer": said} for loc, said in known if said is not None],
    }


register_format(
    Format(
        name="zsre",
        title="MEND's zsRE",
        recognises=lambda value: "src" in value,
        benchmark="zsre",
        convert=_mend,
        keys=frozenset({*_MEND, "case_id", "pred", "alt", "cond", "target_true", "locality", "joiner"}),
    )
)
register_format(
    Format(
        name="knowedit",
        title="KnowEdit",
        recognises=lambda value: is_flat_edit(value) and is_knowedit(value) and "ripples_of" not in value,
        benchmark="zsre",
        convert=_knowedit,
        keys=frozenset(
            {
                "case_id",
                "subject",
                "prompt",
                "target_new",
                "ground_truth",
                "rephrase",
                "rephrase_prompt",
                "locality",
                "cond",
            }
        ),
        warning="locality prompts are scored against their true answers, where KnowEdit compares with what the model "
        "said before the edit",
    )
)
register_format(
    Format(
        name="qaedit",
        title="QAEdit",
        recognises=lambda value: {"prompt", "target", "subject"} <= value.keys() and "target_new" not in value,
        benchmark="zsre",
        convert=_qaedit,
        keys=frozenset({"id", "source", "prompt", "target", "subject", "rephrase", "locality"}),
        warning="its targets are true answers, so that an edit is to teach them; answers are scored under teacher "
        "forcing, not as generated",
    )
)
