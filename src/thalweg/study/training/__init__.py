"""One run of a model: what was asked, the run itself, its folder, what it gives and its page."""
