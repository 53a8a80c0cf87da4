"""Why a training does what it does: machines that need both measurements and training."""
