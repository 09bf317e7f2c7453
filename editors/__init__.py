"""Editors: each turns requests into edits and leaves the model as it was. One new file here is one new editor."""
