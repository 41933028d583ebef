"""Issues access tokens: POST /token."""
