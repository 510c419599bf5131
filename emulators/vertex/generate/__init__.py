"""generateContent: request validation and answers."""
