"""A simulated Asterisk over loopback sockets: FastAGI client, AMI server and calls; for the demo and for tests."""
