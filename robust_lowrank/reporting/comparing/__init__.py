"""What the runs of a report have in common: their names, comparable evaluations, tests of differences, spectra."""
