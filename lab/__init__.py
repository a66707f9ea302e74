"""A real Asterisk and real SIP calls on one machine, without chroot or root: for tests, benches and trying out."""
