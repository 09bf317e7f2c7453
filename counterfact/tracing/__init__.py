"""Where in a model a fact lives: causal traces, severed paths, averaged effects, integrated gradients, figures."""
