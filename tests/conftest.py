"""Settings of all tests."""

import os

from hypothesis import HealthCheck, settings

# Machines are shared: a slow moment is no failure. CI draws the same examples each time, people new ones.
settings.register_profile(
    "headrace",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("headrace")
