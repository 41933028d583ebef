"""What the tests share: users, services, servers, databases."""
