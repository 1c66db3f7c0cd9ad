"""`fleetctl`, the command line: kubectl's verbs, `-o json` everywhere, errors that say what to do next."""
