"""The main job: spec -> plan -> store -> launch -> judge -> report."""
