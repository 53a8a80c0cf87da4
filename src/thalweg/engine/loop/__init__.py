"""The loop of one run: the user's own module and any torch optimizer, from any step on bit by bit."""
