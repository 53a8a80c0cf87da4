"""Trainings with a known fault, and healthy ones: plain PyTorch as people write it, and what each would hand to a diagnosis."""
