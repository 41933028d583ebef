"""Who may use the service: registering, enabling, disabling, removing; whom a token stands for."""
