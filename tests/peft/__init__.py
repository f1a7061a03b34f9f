"""Adapters as files of PEFT."""
