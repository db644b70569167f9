from hypothesis import HealthCheck, settings

# A machine that is busy must not fail a test.
settings.register_profile("default", deadline=None)
# `make fuzz`: whatever has no number of its own tries so many.
settings.register_profile(
    "fuzz", deadline=None, max_examples=20_000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")
