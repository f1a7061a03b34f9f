"""The sections of the reports, one file each; `registry` finds them."""
