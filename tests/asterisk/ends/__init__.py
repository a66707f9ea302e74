"""Every end that a call can come to, on real Asterisks: one scenario for each, one table in docs/call-ends.md."""
