"""What goes out: the outbox, webhooks, notifications."""
