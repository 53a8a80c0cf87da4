"""What several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the real data files: $THALWEG_DATA, or `shared/data` beside the repository."""
    folder = Path(os.environ.get("THALWEG_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "mnist").is_dir():
        pytest.skip(f"the data files are not in {folder}; name their folder in THALWEG_DATA")
    return folder
