"""The runs of a report are named and compared: evaluations in common, tests of differences, spectra."""
