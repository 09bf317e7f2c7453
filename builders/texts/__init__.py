"""The texts of a data set: generation prompts, sentences before paraphrase prompts, reference texts."""
