"""The live view: scrape engines and router, summarise, advise."""
