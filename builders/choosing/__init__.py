"""Which tuples become records: new objects, neighbors, prompts, and the order of the records, all from one seed."""
