"""Steps recorded once and replayed: tapes, programs bound to memory, kernels compiled from them, and forms of operations to choose from."""
