"""Where a data set comes from: SPARQL sources of facts, ParaRel, articles, truthy dumps, and the HTTP client."""
