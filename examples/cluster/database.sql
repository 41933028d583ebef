-- Runs once, on the first primary. The role owns its own database and nothing else.
CREATE ROLE hourpass LOGIN PASSWORD '$hourpass_password';
CREATE DATABASE hourpass OWNER hourpass;
