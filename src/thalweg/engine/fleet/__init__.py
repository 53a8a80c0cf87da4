"""The fleet: many configurations of one model trained together, and the choice of how."""
