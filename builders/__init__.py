"""Builders of data sets: from knowledge to records.

`counterfact` and `zsre` are the two builders. Their parts lie in rooms: `sources` (facts, ParaRel, articles),
`choosing` (which tuples become records), `texts` (prompts and reference texts), `audit` (what a data set holds) and
`hub` (publishing it).
"""
