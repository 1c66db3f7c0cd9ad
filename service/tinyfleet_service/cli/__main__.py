"""`python -m tinyfleet_service.cli` is `fleetctl`."""

from tinyfleet_service.cli.main import main

main()
