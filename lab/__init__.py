"""A real Asterisk and real SIP calls on one machine, without chroot and without root: for tests, benches and trying out."""
