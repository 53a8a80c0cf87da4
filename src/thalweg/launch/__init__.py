"""Where work runs: each file is one function, `map`."""
