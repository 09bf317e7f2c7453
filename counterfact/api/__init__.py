"""What a notebook and the command line call: one function for each job, over the rooms that do the work.

`from counterfact import edit` and its like is the way to import them; see `docs/api.md`.
"""
