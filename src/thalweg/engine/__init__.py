"""Machines that turn one rule into many runs: bound (rule + structure), fleet, solo, and the choice between them."""
