"""Putting rendered files in force in Asterisk, whole or not at all, and taking them back."""
