"""What leaves the house: payloads, signatures, and the ways by which they go. Knows no database."""
