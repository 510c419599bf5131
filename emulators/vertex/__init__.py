"""The local Vertex AI: generateContent, countTokens and embeddings."""
