"""What a run reports: records, figures, report.html and the leaderboard."""
