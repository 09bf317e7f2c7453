"""One id for a tuple of WikiData, whatever language it is written in."""


def fact_id(subject: str, relation: str, object: str) -> str:
    """Return the id of the tuple (s, r, o_c), the same for every language and every edit of it.

    >>> fact_id("Q142", "P36", "Q90")
    'Q142-P36-Q90'
    """
    return f"{subject}-{relation}-{object}"
