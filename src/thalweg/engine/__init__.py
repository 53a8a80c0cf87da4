"""Machines that turn one rule into runs. Here lies what all of them use; each has a room of its own."""
