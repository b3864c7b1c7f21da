"""What every test needs before any module imports Ray."""

import os

os.environ.setdefault("RAY_AUTH_MODE", "token")  # as the command line sets it: Ray reads it when it is imported
