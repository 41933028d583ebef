"""What users do with their own account, once they have proved again that it is theirs."""
