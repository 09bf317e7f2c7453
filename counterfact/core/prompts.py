"""Prompt templates with one slot, `{}`, for the subject. Braces elsewhere are ordinary text."""


def fill(template: str, subject: str) -> str:
    """Put `subject` into the one slot of `template`.

    Raises:
        ValueError: `template` has no slot, or more than one.

    >>> fill("{} speaks", "Ada")
    'Ada speaks'
    """
    check_template(template)
    return template.replace("{}", subject)


def check_template(template: str) -> None:
    """Raise `ValueError` unless `template` has exactly one slot."""
    if (slots := template.count("{}")) != 1:
        raise ValueError(f"expected one {{}} for the subject in the prompt, got {slots}: {template!r}")
