"""What has to be done now and then, by exactly one worker of all: purging, and new signing keys."""
