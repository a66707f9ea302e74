"""Statements as they are handed out: text, CSV, JSON, and a page that prints well."""
