"""An attack is one file here: its table in a suite, its name in results and reports, its cost, and its algorithm."""
