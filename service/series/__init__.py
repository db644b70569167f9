"""Numbers that worker processes count and whichever of them is scraped adds up. Metrics give them their meaning."""
