"""Sections are one file each; `registry` finds them."""
