"""One self-contained page about a run: what the data are, how good the model is, where it looked."""
