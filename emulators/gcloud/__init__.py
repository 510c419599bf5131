"""The program ``gcloud`` of the local cloud."""
