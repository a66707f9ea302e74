"""The six screens and the dialogs: what stands on each, and what it reads."""
