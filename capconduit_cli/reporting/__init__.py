"""Reports as people read them: text for terminals, pipes and mails, Markdown, HTML."""
