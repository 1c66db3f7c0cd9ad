"""For every test: property tests draw the same cases on every run, and no time limits.

A loaded machine must not fail them, and a gate must not fail for what the change at hand did not touch.
`TINYFLEET_EXPLORE=1` draws new cases; what it finds becomes a case of its own.
"""

import os

from hypothesis import settings

settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("TINYFLEET_EXPLORE") else "repeat")
