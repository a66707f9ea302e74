"""What the operator's side asks Asterisk: AMI and its console, synchronous, every wait bounded."""
