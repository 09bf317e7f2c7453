"""A model: how it is loaded, where its parts are, how texts become tokens, and hooks on its tensors."""
