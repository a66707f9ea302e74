"""Designs to compare with: how such a server is usually built, each as small and as fast as it can honestly be.

All are started as `python -m bench.designs.NAME PORT [DATABASE]` and answer the same requests as the daemon.
"""
