"""The pages of explore, report and leaderboard."""
