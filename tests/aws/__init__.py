"""An emulated AWS for tests: moto with what it lacks, and machines behind it."""
