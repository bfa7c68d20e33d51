"""What is happening? Scrape engines and router, summarise, advise."""
