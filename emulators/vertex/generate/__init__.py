"""generateContent: validation of requests and generation of answers."""
