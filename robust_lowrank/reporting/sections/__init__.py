"""The sections of the reports, one file each; `registry` has their order."""
