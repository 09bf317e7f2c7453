"""Prompt templates with one slot, `{}`, for the subject. Braces elsewhere are ordinary text."""

from pathlib import Path

from counterfact.core.errors import BadInput


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


def read_templates(path: Path) -> tuple[str, ...]:
    """Read context templates from a file, one a line; the bare `{}` is put first, whether the file has it or not.

    Raises:
        BadInput: the file cannot be read, or a line has not exactly one slot.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as lines of text: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            check_template(line or "{}")
        except ValueError as error:
            raise BadInput(f"{path}:{number}: {error}") from error
    return tuple(dict.fromkeys(["{}", *filter(None, lines)]))
