"""What several test files share."""

import os
import tempfile
from pathlib import Path

import pytest

# kernels and measured forms of the tests' own: one folder for all of their processes, fresh every time
os.environ.setdefault("THALWEG_CACHE", tempfile.mkdtemp(prefix="thalweg-tests-"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the real data files: $THALWEG_DATA, or `shared/data` beside the repository."""
    folder = Path(os.environ.get("THALWEG_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "mnist").is_dir():
        pytest.skip(f"the data files are not in {folder}; name their folder in THALWEG_DATA")
    return folder
