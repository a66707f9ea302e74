"""CapConduit's domain: what a call may do and what it costs. No terminal, no Asterisk."""

__version__ = "0.1.0"
