"""Second moments of keys over a corpus: computing, checkpoints, files, and how exact they are."""
