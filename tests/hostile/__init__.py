"""Files as an attacker would send them, made anew for every test."""
