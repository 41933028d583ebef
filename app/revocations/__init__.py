"""What was ended before its time: checked on every request here, and published as a feed for the
APIs that verify tokens themselves. Knows neither users nor sessions, only values such as `jti:…`.
"""
