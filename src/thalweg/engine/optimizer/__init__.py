"""Optimizers: a rule as a `torch.optim.Optimizer`, and what drives its hyperparameters."""
